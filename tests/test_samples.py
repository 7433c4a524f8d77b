"""The two sample task types of the original."""

import asyncio
from functools import partial

import pytest

from taskflow import samples
from taskflow.errors import InvalidTask
from taskflow.registry import registry
from taskflow.testing import run_task_async


def within(draw: int, below: int) -> int:
    """A draw that is no chance."""
    assert draw < below
    return draw


def test_exactly_the_draws_below_twenty_fail():
    failing: list[int] = []
    for percent in range(100):
        try:
            samples.decide(partial(within, percent))
        except samples.QueryFailed:
            failing.append(percent)
    assert failing == list(range(20))


@pytest.mark.parametrize("name", ["send_email", "run_query"])
@pytest.mark.parametrize("payload", [b'{"to": "a@example.com"}', b'{"": ""}', b'{"a": "b", "c": "d"}'])
def test_a_samples_payload_is_a_non_empty_object_of_texts(name: str, payload: bytes):
    assert registry.validate(name, payload).name == name


@pytest.mark.parametrize("name", ["send_email", "run_query"])
@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b"{}", "payload"),
        (b"[]", "payload"),
        (b'"text"', "payload"),
        (b"null", "payload"),
        (b"", "payload"),
        (b'{"to": "a"', "payload"),
        (b'{"to": 1}', "payload[...]"),
        (b'{"to": null}', "payload[...]"),
        (b'{"to": {"a": "b"}}', "payload[...]"),
    ],
)
def test_any_other_payload_is_invalid(name: str, payload: bytes, field: str):
    with pytest.raises(InvalidTask) as told:
        registry.validate(name, payload)
    assert told.value.field == field


async def test_an_email_takes_three_seconds_and_a_query_may_fail(monkeypatch: pytest.MonkeyPatch):
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    draws = [20, 19]

    def draw(_below: int) -> int:
        return draws.pop(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(samples.random, "randrange", draw)
    await samples.send_email({"to": "a@example.com"})
    await samples.run_query({"sql": "SELECT 1"})
    with pytest.raises(samples.QueryFailed, match="20 %"):
        await samples.run_query({"sql": "SELECT 1"})
    assert slept == [3, 3, 3]


async def test_a_report_is_written_page_by_page_but_not_as_csv(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(samples, "PAGE_SECONDS", 0)
    ran = await run_task_async("make_report", {"customer": "Ada", "pages": 3})
    assert ran.result == {"file": "Ada.pdf", "pages": 3}
    ran = await run_task_async("make_report", {"customer": "Ada", "pages": 3, "format": "csv"}, attempt=3)
    assert (ran.status, str(ran.error).partition("\n")[0]) == (
        "failed",
        "ReportFailed: page 3 cannot be written as csv",
    )


async def test_an_import_breaks_off_twice_and_goes_on_where_it_did(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(samples, "PAGE_SECONDS", 0)
    for attempt in (1, 2):
        ran = await run_task_async("import_orders", {"shop": "Lisbon", "orders": 3}, attempt=attempt)
        assert str(ran.error).startswith("ShopAway: the shop of Lisbon did not answer")
        assert ran.status == "queued"
    ran = await run_task_async("import_orders", {"shop": "Lisbon", "orders": 3}, attempt=3)
    assert ran.result == {"orders": 3}
    ran = await run_task_async("import_orders", {"shop": "Oslo", "is_closed": True})
    assert (ran.status, ran.error) == ("failed", "Fail: this shop is closed for good")
