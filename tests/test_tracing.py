"""OpenTelemetry: one trace from the enqueue to each attempt, and nothing at all where nobody traces."""

import json
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from commands import until
from conftest import MakeTask, ask
from msgspec import Raw
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from serving import served_in_a_thread
from support import Workers

from taskflow import enqueue, enqueue_many, schedules, tracing
from taskflow.client import AsyncClient, BadRequest, Client
from taskflow.database import Connection
from taskflow.model import NewSchedule
from taskflow.queue.tick import tick
from taskflow.queue.trace import find_traces, forget_traces

APP = """
import json
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

import taskflow


class Lines(SpanExporter):
    def export(self, spans):
        with Path("spans").open("a") as lines:
            lines.writelines(json.dumps(json.loads(span.to_json())) + "\\n" for span in spans)
        return SpanExportResult.SUCCESS


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Lines()))
trace.set_tracer_provider(provider)


@taskflow.task("work", max_attempts=2, backoff=taskflow.Backoff(first=__import__("datetime").timedelta(0)))
def work(payload: dict):
    with trace.get_tracer("the handler").start_as_current_span("inside"):
        if payload.get("fails"):
            raise ValueError("boom")
"""


class Spans:
    """What was recorded, under a span of the test's own, *root*."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._provider = TracerProvider()
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self._provider.get_tracer("test")

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def only(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """Spans that this process records; OpenTelemetry takes but one provider for good, so it is not set there."""
    spans = Spans()
    for module in ("taskflow.tracing", "taskflow.transactions"):
        monkeypatch.setattr(f"{module}.find_tracer", lambda: spans.tracer)
    return spans


def context(span: ReadableSpan) -> SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def traceparent(span: ReadableSpan) -> str:
    one = context(span)
    return f"00-{one.trace_id:032x}-{one.span_id:016x}-{one.trace_flags:02x}"


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


async def test_without_a_provider_nothing_is_recorded(dsn: str, conn: Connection):
    assert tracing.find_tracer() is None
    with psycopg.connect(dsn) as caller:
        enqueue(caller, "anything")
    assert await ask(conn, "SELECT count(*) FROM taskflow.traces") == 0


async def test_an_enqueue_in_a_transaction_leaves_its_span_beside_the_task(dsn: str, conn: Connection, spans: Spans):
    with spans.tracer.start_as_current_span("root") as root:
        with psycopg.connect(dsn) as caller:
            first = enqueue(caller, "report")
        async with await psycopg.AsyncConnection.connect(dsn) as caller:
            second = await enqueue(caller, "report")
            third, fourth = await enqueue_many(caller, [{"type": "report"}, {"type": "letter"}])
        with psycopg.connect(dsn) as caller, pytest.raises(psycopg.Error):
            enqueue(caller, "broken", after=[10**9])
    one, two = spans.named("enqueue report")
    assert await find_traces(conn, [first, second]) == {first: traceparent(one), second: traceparent(two)}
    many = spans.only("enqueue (several)")
    assert await find_traces(conn, [third, fourth]) == dict.fromkeys([third, fourth], traceparent(many))
    assert parent_of(one) == root.get_span_context().span_id
    assert one.kind is SpanKind.PRODUCER
    assert attributes(one) == {
        "messaging.system": "taskflow",
        "messaging.operation.type": "send",
        "messaging.operation.name": "enqueue",
        "messaging.destination.name": "report",
    }
    broken = spans.only("enqueue broken")
    assert (broken.status.status_code, attributes(broken)["error.type"]) == (StatusCode.ERROR, "ForeignKeyViolation")


async def test_what_else_a_span_carries_is_not_stored(dsn: str, conn: Connection, spans: Spans):
    carrier = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "ot=th:8"}
    with (
        spans.tracer.start_as_current_span("root", TraceContextTextMapPropagator().extract(carrier)),
        psycopg.connect(dsn) as caller,
    ):
        first, second = enqueue(caller, "report"), *enqueue_many(caller, [{"type": "letter"}])
    expected = {first: traceparent(spans.only("enqueue report")), second: traceparent(spans.only("enqueue letter"))}
    assert await find_traces(conn, [first, second]) == expected


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_the_client_the_server_and_the_task_are_one_trace(dsn: str, conn: Connection, spans: Spans, kind: Any):
    async def done(value: Any) -> Any:
        return value if kind is Client else await value

    with served_in_a_thread(dsn) as url:
        client = kind(url, trust_env=False)
        plain = await done(client.enqueue("anything"))
        unique = await done(client.enqueue("send_email", {"to": "ada"}, unique_key=f"{kind.__name__} of this test"))
        many = await done(client.enqueue_many([{"type": "print_letter", "payload": {"to": "Ada"}}] * 2))
        with pytest.raises(BadRequest):
            await done(client.enqueue("print_letter"))
        await done(client.close())
    traces = await find_traces(conn, [plain, unique, *many])
    for name, ids in (("anything", [plain]), ("send_email", [unique]), ("print_letter", many)):
        server, client_side = spans.named(f"enqueue {name}")[:2]  # in the order of their ends
        assert parent_of(server) == context(client_side).span_id
        assert [traces[id] for id in ids] == [traceparent(server)] * len(ids)
    assert attributes(spans.named("enqueue print_letter")[0])["messaging.batch.message_count"] == 2


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_a_group_and_its_callback_are_of_one_trace(dsn: str, conn: Connection, spans: Spans, kind: Any):
    mail = {"type": "send_email", "payload": {"to": "ada"}}
    with served_in_a_thread(dsn) as url:
        client = kind(url, trust_env=False)
        asked = client.enqueue_group([mail] * 2, {"type": "anything"})
        group = asked if kind is Client else await asked
        closed = client.close()
        assert closed is None or await closed is None
    server, client_side = spans.named("enqueue (several)")
    assert parent_of(server) == context(client_side).span_id
    ids = [*group.task_ids, group.callback_task_id]
    assert await find_traces(conn, ids) == dict.fromkeys(ids, traceparent(server))


async def test_each_tick_of_a_schedule_begins_a_trace_and_one_by_hand_goes_on_with_its_caller(
    dsn: str, conn: Connection, spans: Spans
):
    given = NewSchedule(name="report", rule="every 1h", type="report", payload=Raw(b"{}"), max_attempts=3)
    await schedules.create(conn, given)
    await conn.execute("UPDATE taskflow.schedules SET next_tick = now() - interval '1 second'")
    await tick(conn, [])
    by_itself = spans.only("enqueue report")
    ticked = await ask(conn, "SELECT last_task_id FROM taskflow.schedules")
    caller = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    with served_in_a_thread(dsn) as url:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(f"{url}/schedules/report/run", headers=caller)
    by_hand = answer.json()["added_task_id"]
    asked = spans.named("enqueue report")[1]
    assert (parent_of(by_itself), parent_of(asked)) == (None, 0x00F067AA0BA902B7)
    assert await find_traces(conn, [ticked, by_hand]) == {ticked: traceparent(by_itself), by_hand: traceparent(asked)}


async def test_traces_are_forgotten_by_age(conn: Connection, make_task: MakeTask):
    old, new = await make_task(created_at="2020-01-01T00:00:00Z"), await make_task()
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await conn.execute("INSERT INTO taskflow.traces VALUES (%s, %s), (%s, %s)", [old, trace, new, trace])
    await forget_traces(conn, 7)
    assert await find_traces(conn, [old, new]) == {new: trace}


def test_each_attempt_is_a_child_of_the_enqueue(workers: Workers):
    (workers.directory / "traced.py").write_text(APP)
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    db = workers.database
    good, bad = db.enqueue("work"), db.enqueue("work", {"fails": True}, max_attempts=2)
    for id in (good, bad):
        db.conn.execute("INSERT INTO taskflow.traces VALUES (%s, %s)", [id, trace])
    worker = workers.start_ready("--app", "traced", "--priority", "normal")
    db.await_status(bad, "failed")
    lone = db.enqueue("work")
    db.await_status(lone, "succeeded")
    file = Path(workers.directory / "spans")
    until(lambda: file.exists() and file.read_text().count("attempt work") == 4, lambda: worker.said)
    spans = [json.loads(line) for line in file.read_text().splitlines()]
    attempts = {
        (int(span["attributes"]["messaging.message.id"]), span["attributes"]["taskflow.attempt"]): span
        for span in spans
        if span["name"] == "attempt work"
    }
    assert set(attempts) == {(good, 1), (bad, 1), (bad, 2), (lone, 1)}
    for id, number in ((good, 1), (bad, 1), (bad, 2)):
        span = attempts[id, number]
        assert (span["parent_id"], span["context"]["trace_id"]) == ("0x00f067aa0ba902b7", "0x" + trace[3:35])
        assert span["kind"] == "SpanKind.CONSUMER"
    assert attempts[lone, 1]["parent_id"] is None
    assert [attempts[id, 1]["status"]["status_code"] for id in (good, bad)] == ["UNSET", "ERROR"]
    assert attempts[bad, 2]["attributes"]["error.type"] == "ValueError"
    inside = {span["parent_id"] for span in spans if span["name"] == "inside"}
    assert inside == {span["context"]["span_id"] for span in attempts.values()}
