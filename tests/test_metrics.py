"""Metrics: what server and workers tell Prometheus, read by Prometheus' own parser."""

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from commands import free_port, until
from conftest import MakeTask, MakeWorker, ask
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from serving import api, make_token, wire
from support import Workers

from taskflow import stats
from taskflow.api import board
from taskflow.database import Connection
from taskflow.metrics import METRICS, Histogram, Metric, render
from taskflow.model import DONE, Status
from taskflow.scopes import Scope
from taskflow.worker.meter import TYPES, Meter

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API over the emptied database."""
    async with api(dsn) as client:
        yield client


def parse(text: str) -> Series:
    """Every series by its name and labels."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert max(Counter((sample.name, frozenset(sample.labels.items())) for sample in samples).values()) == 1
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def of(series: Series, name: str, **labels: str) -> float:
    """The number of one series."""
    return series[name, frozenset(labels.items())]


async def scrape(client: httpx.AsyncClient) -> Series:
    answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parse(answer.text)


def base(name: str) -> str:
    return re.sub("_(bucket|sum|count)$", "", name)


def test_the_page_tells_of_each_metric_what_the_code_says():
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    told = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*?) ?\| (.+) \|$", page, re.MULTILINE)
    assert sorted(told) == sorted(
        (metric.name, metric.kind, ", ".join(metric.labels), metric.help) for metric in METRICS
    )


async def test_a_server_tells_what_waits_what_runs_and_who_works(
    client: httpx.AsyncClient, make_task: MakeTask, make_worker: MakeWorker, conn: Connection
):
    await make_worker(silent_for=3600)
    worker = await make_worker()
    await make_task(priority="high", scheduled_at="2020-01-01T00:00:00Z")
    await make_task(priority="high")
    await make_task(priority="low", scheduled_at="9998-01-01T00:00:00Z")
    await make_task(Status.RUNNING, worker=worker)
    await make_task(Status.FAILED, worker=worker)
    series = await scrape(client)
    assert of(series, "taskflow_database_up") == 1
    assert of(series, "taskflow_queue_waiting", priority="high") == 2
    assert of(series, "taskflow_queue_oldest_waiting_seconds", priority="high") > 86_400
    assert of(series, "taskflow_queue_oldest_waiting_seconds", priority="low") == 0
    assert of(series, "taskflow_queue_scheduled", priority="low") == 1
    assert of(series, "taskflow_queue_uncounted", priority="low") == 0
    assert (of(series, "taskflow_tasks_running"), of(series, "taskflow_tasks_failed")) == (1, 1)
    assert of(series, "taskflow_workers", priority="normal") == 1
    assert (of(series, "taskflow_workers_silent"), of(series, "taskflow_fleet_slots")) == (1, 10)
    assert of(series, "taskflow_table_bytes", table="tasks") > 0
    assert of(series, "taskflow_notify_queue_usage") < 1


async def test_counts_stop_at_their_limit_and_say_so(
    client: httpx.AsyncClient, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stats, "COUNTED", 2)
    for _ in range(3):
        await make_task(priority="low")
        await make_task(Status.FAILED)
    series = await scrape(client)
    assert of(series, "taskflow_queue_waiting", priority="low") == 2
    assert of(series, "taskflow_queue_uncounted", priority="low") == 1
    assert of(series, "taskflow_queue_uncounted", priority="high") == 0
    assert of(series, "taskflow_tasks_failed") == 2


async def test_a_server_counts_what_it_stored_and_answered(client: httpx.AsyncClient):
    letter = {"name": "a letter", "type": "print_letter", "payload": {"to": "Ada"}}
    assert (await client.post("/tasks", json=letter)).status_code == 200
    assert (await client.post("/tasks/batch", json=[letter, letter])).status_code == 200
    assert (await client.post("/tasks", json={})).status_code == 400
    assert (await client.get("/tasks/x")).status_code == 400
    assert (await client.get("/nowhere")).status_code == 404
    series = await scrape(client)
    assert of(series, "taskflow_enqueued_total") == 3
    assert of(series, "taskflow_http_requests_total", method="POST", route="/tasks", status="400") == 1
    assert of(series, "taskflow_http_requests_total", method="GET", route="/tasks/{id}", status="400") == 1
    assert of(series, "taskflow_http_request_seconds_count", route="/tasks") == 2
    assert of(series, "taskflow_http_request_seconds_bucket", route="/tasks", le="+Inf") == 2


async def test_many_scrapes_cost_the_database_one_look(
    client: httpx.AsyncClient, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
):
    assert of(await scrape(client), "taskflow_tasks_failed") == 0
    await make_task(Status.FAILED)
    assert of(await scrape(client), "taskflow_tasks_failed") == 0
    monkeypatch.setattr(board, "FRESH", 0.0)
    assert of(await scrape(client), "taskflow_tasks_failed") == 1


async def test_a_server_without_its_database_still_tells_of_itself(dsn: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(board, "FRESH", 0.0)
    async with wire(dsn) as way, api(way.dsn) as client:
        assert of(await scrape(client), "taskflow_database_up") == 1
        await way.cut()
        series = await scrape(client)
        assert of(series, "taskflow_database_up") == 0
        assert ("taskflow_tasks_running", frozenset()) not in series
        assert of(series, "taskflow_http_requests_total", method="GET", route="/metrics", status="200") == 1
        await way.mend()


async def test_metrics_need_a_token_that_may_read(own_database: str):
    tokens = {scope: make_token(own_database, scope) for scope in (Scope.READ, Scope.ENQUEUE)}
    async with api(own_database) as client:
        for path in ("/metrics", "/workers", "/stats"):
            assert (await client.get(path)).status_code == 401
            for scope, status in ((Scope.READ, 200), (Scope.ENQUEUE, 403)):
                answer = await client.get(path, headers={"Authorization": f"Bearer {tokens[scope]}"})
                assert answer.status_code == status


async def test_workers_are_told_with_what_they_run(
    client: httpx.AsyncClient, make_task: MakeTask, make_worker: MakeWorker, conn: Connection
):
    await make_worker(name="gone", stopped=True)
    idle, busy = await make_worker(name="a"), await make_worker(name="b", silent_for=60)
    first = await make_task(Status.RUNNING, worker=busy, type="nap", name="the first")
    for _ in range(stats.LISTED):
        await make_task(Status.RUNNING, worker=busy)
    await make_task(Status.SUCCEEDED, worker=busy)
    told = (await client.get("/workers")).json()["workers"]
    assert [(worker["id"], worker["running"]) for worker in told] == [(idle, 0), (busy, stats.LISTED + 1)]
    assert told[0]["priorities"] == ["high", "normal", "low"]
    assert 60 <= told[1]["silent_seconds"] < 120
    assert len(told[1]["tasks"]) == stats.LISTED
    task = told[1]["tasks"][0]
    assert task.pop("seconds") >= 0
    assert task == {"id": first, "name": "the first", "type": "nap", "attempt": 1}


async def test_stats_count_by_priority(client: httpx.AsyncClient, make_task: MakeTask):
    await make_task(priority="low")
    told = (await client.get("/stats")).json()
    assert [queue["priority"] for queue in told["queues"]] == ["high", "normal", "low", "test"]
    assert told["queues"][2] | {"oldest_seconds": 0} == {
        "priority": "low",
        "waiting": 1,
        "scheduled": 0,
        "more": False,
        "oldest_seconds": 0,
    }
    assert (told["running"], told["failed"]) == (0, 0)


def test_a_worker_tells_of_its_attempts(workers: Workers):
    port = free_port()
    workers.start_ready("--id", "1", HEALTH_PORT=str(port))
    ok = [workers.database.enqueue("quick") for _ in range(3)]
    bad = workers.database.enqueue("fail", max_attempts=2)
    workers.database.enqueue("unheard_of")
    workers.database.await_status(bad, "failed")
    for id in ok:
        workers.database.await_status(id, "succeeded")

    def look() -> Series:
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=30)
        assert answer.headers["content-type"] == "text/plain; version=0.0.4"
        return parse(answer.text)

    until(lambda: of(look(), "taskflow_worker_slots_used") == 0)
    series = look()
    assert of(series, "taskflow_attempts_total", type="quick", outcome="succeeded") == 3
    assert of(series, "taskflow_attempts_total", type="fail", outcome="retry") == 1
    assert of(series, "taskflow_attempts_total", type="fail", outcome="failed") == 1
    assert of(series, "taskflow_attempts_total", type="unheard_of", outcome="failed") == 1
    assert of(series, "taskflow_attempt_seconds_count", type="fail") == 2
    assert 0.02 <= of(series, "taskflow_attempt_seconds_sum", type="fail") < 60
    assert of(series, "taskflow_wait_seconds_count", type="quick") == 3
    assert of(series, "taskflow_wait_seconds_sum", type="quick") < 60
    assert abs(of(series, "taskflow_worker_clock_difference_seconds")) < 5
    assert (of(series, "taskflow_worker_ready"), of(series, "taskflow_worker_slots")) == (1, 100)
    assert of(series, "process_cpu_seconds_total") > 0
    known = {metric.name for metric in METRICS}
    assert {base(name) for name, _ in series} <= known


def one_by_one(histogram: Histogram, seconds: list[float]) -> None:
    for one in seconds:
        histogram.add(one)


@pytest.mark.parametrize("add", [one_by_one, Histogram.add_all])
def test_buckets_hold_what_is_at_most_their_bound(add: Callable[[Histogram, list[float]], None]):
    histogram = Histogram()
    add(histogram, [0.9, -1, 1e6, 0, 0.0005, 1000, 0.0011])
    metric = Metric("h", "histogram", "help", ("type",))
    series = parse(render([(metric, [(('a "b"\\\nc',), histogram)])]).decode())
    type = 'a "b"\\\nc'
    told = {le: of(series, "h_bucket", type=type, le=le) for le in ("0.001", "0.002", "1.024", "1048.576", "+Inf")}
    assert told == {"0.001": 3, "0.002": 4, "1.024": 5, "1048.576": 6, "+Inf": 7}
    assert of(series, "h_count", type=type) == 7
    assert of(series, "h_sum", type=type) == pytest.approx(1_001_000.9016)


@given(microseconds=st.lists(st.one_of(st.integers(-1000, 2**40), st.integers(0, 20).map(lambda n: 2**n * 1000))))
def test_many_at_once_are_counted_as_one_by_one(microseconds: list[int]):
    together, apart = Histogram(), Histogram()
    seconds = [some / 1e6 for some in microseconds]
    together.add_all(seconds)
    one_by_one(apart, seconds)
    assert together.counts == apart.counts
    assert together.sum == pytest.approx(apart.sum)


async def test_a_plague_of_types_is_counted_together():
    from support import claimed

    meter = Meter()
    tasks = [claimed(id, type=f"type {id}") for id in range(TYPES + 50)]
    meter.claimed(tasks)
    for task in tasks:
        meter.ended(task, DONE, 0.0)
    series = parse(render(meter.read()).decode())
    assert of(series, "taskflow_wait_seconds_count", type="(others)") == 50
    assert of(series, "taskflow_attempts_total", type="(others)", outcome="succeeded") == 50
    assert of(series, "taskflow_attempts_total", type="type 7", outcome="succeeded") == 1


async def test_the_counts_of_a_queue_read_no_more_than_they_count(own_database: str):
    from taskflow.database import connect

    async with await connect(own_database, "test") as conn:
        await conn.execute(
            "INSERT INTO taskflow.tasks (name, type, priority) SELECT 'n', 't', 'low' FROM generate_series(1, 30000)"
        )
        await conn.execute("ANALYZE taskflow.tasks")
        statement = stats.QUEUES % {"counted": "100"}
        plan = await (await conn.execute(f"EXPLAIN (ANALYZE, COSTS OFF) {statement}".encode())).fetchall()
        text = "\n".join(line for (line,) in plan)
        assert "Seq Scan on tasks" not in text, text
        assert not re.search(r"rows=30000|Rows Removed by Filter", text), text
        assert await ask(conn, "SELECT count(*) FROM taskflow.tasks") == 30_000
