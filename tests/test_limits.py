"""Rate limits: a bucket for each token, and one for each address that comes without."""

from pathlib import Path

import httpx
import pytest
from commands import api as client_of
from commands import await_ready, free_port, started
from hypothesis import given
from hypothesis import strategies as st
from serving import api, is_problem, make_token

from taskflow.api.limits import WINDOW, RateLimit, TooManyRequests, network_of
from taskflow.scopes import Scope


def admitted(limit: RateLimit, caller: str, times: list[float]) -> list[float]:
    """Those of *times* at which *caller* is admitted."""
    passed: list[float] = []
    for time in times:
        try:
            limit.take(caller, time)
        except TooManyRequests:
            continue
        passed.append(time)
    return passed


# --- the bucket ---


@given(st.integers(1, 20), st.lists(st.floats(0, 300), max_size=200).map(sorted))
def test_no_window_admits_more_than_twice_the_limit_and_the_first_ones_are_always_admitted(
    per_minute: int, times: list[float]
):
    passed = admitted(RateLimit(per_minute), "a", times)
    assert passed[:per_minute] == times[: len(passed[:per_minute])]
    for start in passed:
        assert sum(start <= time < start + WINDOW for time in passed) <= 2 * per_minute


def test_a_bucket_refills_steadily():
    assert admitted(RateLimit(60), "a", [0.0] * 61) == [0.0] * 60
    limit = RateLimit(60)
    admitted(limit, "a", [0.0] * 60)
    assert admitted(limit, "a", [0.5, 1.0, 1.5, 2.0, 2.0]) == [1.0, 2.0]
    assert admitted(limit, "a", [1000.0] * 61) == [1000.0] * 60


def test_whoever_is_refused_is_told_when_to_come_again():
    limit = RateLimit(2)
    admitted(limit, "a", [0.0, 0.0])
    with pytest.raises(TooManyRequests) as refused:
        limit.take("a", 10.0)
    assert refused.value.headers == {"Retry-After": "20"}
    assert admitted(limit, "a", [30.0]) == [30.0]


def test_callers_do_not_share_a_bucket():
    limit = RateLimit(1)
    assert admitted(limit, "a", [0.0, 0.0]) == admitted(limit, "b", [0.0, 0.0]) == [0.0]


def test_callers_that_stay_away_are_forgotten():
    limit = RateLimit(1)
    for number in range(1000):
        limit.take(str(number), 0.0)
    limit.take("late", 2 * WINDOW)
    assert set(vars(limit)["_full_at"]) == {"late"}


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff::2", "2001:db8:0:1::/64"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_the_addresses_of_one_ipv6_customer_are_one_caller(address: str, network: str):
    assert network_of(address) == network


# --- the API ---


async def looks(client: httpx.AsyncClient, count: int, **headers: str) -> list[int]:
    """The statuses of *count* looks at a task."""
    return [(await client.get("/tasks/0", headers=headers)).status_code for _ in range(count)]


async def test_without_a_limit_nobody_is_held_up(dsn: str):
    async with api(dsn) as client:
        assert await looks(client, 200) == [404] * 200


async def test_an_address_that_comes_too_often_gets_429_and_probes_go_on(dsn: str):
    async with api(dsn, rate_limit_per_minute=3) as client:
        assert await looks(client, 4) == [404, 404, 404, 429]
        answer = await client.get("/tasks/0")
        assert is_problem(answer, 429)
        assert 1 <= int(answer.headers["retry-after"]) <= 20
        assert (await client.get("/liveness")).status_code == 200
        assert (await client.get("/readiness")).status_code == 200


async def test_each_token_has_a_bucket_and_wrong_ones_share_that_of_their_address(own_database: str):
    first, second = make_token(own_database, Scope.READ), make_token(own_database, Scope.READ)
    async with api(own_database, rate_limit_per_minute=2) as client:
        assert await looks(client, 3, Authorization=f"Bearer {first}") == [404, 404, 429]
        assert await looks(client, 3, Authorization=f"Bearer {second}") == [404, 404, 429]
        for id, status in [(1, 401), (2, 401), (3, 429)]:
            assert await looks(client, 1, Authorization=f"Bearer tf_{id}_{64 * '0'}") == [status]


@pytest.mark.parametrize(
    ("proxies", "expected"), [("", [404, 429, 429]), ("192.0.2.1", [404, 429, 429]), ("127.0.0.0/8", [404, 404, 429])]
)
def test_x_forwarded_for_is_believed_from_configured_proxies_only(
    work_dir: Path, own_database: str, proxies: str, expected: list[int]
):
    port = free_port()
    settings = {"DATABASE_URL": own_database, "RATE_LIMIT_PER_MINUTE": "1", "TRUSTED_PROXIES": proxies}
    with started(work_dir, "taskflow-server", SERVER_PORT=str(port), **settings) as server, client_of(port) as client:
        await_ready(client, server)
        forwarded = ["198.51.100.1", "198.51.100.2", "203.0.113.9, 198.51.100.1"]
        answers = [client.get("/tasks/0", headers={"X-Forwarded-For": chain}) for chain in forwarded]
        assert [answer.status_code for answer in answers] == expected
