"""A cluster of three loses its primary, or a standby, under load: no acknowledged task is lost, none completes twice.

Outside the quick suite: ``just ha``. It needs Debian's packages of Patroni, etcd, HAProxy, PgBouncer and PostgreSQL 15.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, cluster, missing
from commands import until
from load import load

from taskflow.migrate import migrate

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}"),
]


@pytest.fixture(scope="module")
def three(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of three nodes with Taskflow's schema and the ledger; its logs are shown if a test failed."""
    with cluster() as it:
        it.await_whole()
        migrate(it.urls["PROXY_URL"])
        it.rows("CREATE TABLE ledger (task_id bigint NOT NULL, entered_at timestamptz DEFAULT clock_timestamp())")
        yield it
        if request.session.testsfailed:
            print(it.logs())


@pytest.fixture(scope="module")
def report() -> Iterator[dict[str, Any]]:
    """What was measured, by fault; written to the file that HA_REPORT names."""
    measured: dict[str, Any] = {}
    yield measured
    if path := os.environ.get("HA_REPORT"):
        Path(path).write_text(json.dumps(measured, indent=2) + "\n")


Endure = Callable[..., None]


@pytest.fixture
def endure(three: Cluster, report: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Endure:
    """``endure(name, fault, limit, but)``: have *fault* under load, and hold the queue to its promise.

    *fault* gives the node that is down afterwards, which then returns. Writes have to resume within *limit* seconds, on
    every route *but* one, which has time until the node has returned.
    """

    def endure(name: str, fault: Callable[[], int | None], limit: float, *, but: str = "") -> None:
        primary = three.primary()
        with load(three, tmp_path) as running:
            try:
                running.await_flow(since=0, seconds=60)
                began = time.monotonic()
                down = fault()
                running.await_flow(since=began, seconds=limit + 60, but=but)
                if down is not None:
                    three.start(down)
                three.await_whole()
                running.await_flow(since=began, seconds=60)
                acknowledged = running.end()
                assert_promise_kept(three, acknowledged)
                if not but:  # else a worker on that route may rightly take those that were cut off for gone
                    running.assert_alive()
            except BaseException:
                print(running.said())
                raise
            measured = {
                "primary": [primary, three.primary()],
                "acknowledged": len(acknowledged),
                "completion_gap_s": completion_gap(three),
                "routes": running.report(began),
            }
        report[name] = measured
        with capsys.disabled():
            print(f"\n{name}: {json.dumps(measured)}")
        gaps = {producer.route: producer.gap(began) for producer in running.producers if producer.route != but}
        assert max(gaps.values()) <= limit, gaps

    three.await_whole()
    return endure


def assert_promise_kept(cluster: Cluster, acknowledged: list[int]) -> None:
    """Every task ends, no acknowledged one is missing, each has one final transition and at least one execution."""

    def unfinished() -> int:
        return cluster.rows("SELECT count(*) FROM taskflow.tasks WHERE finished_at IS NULL")[0][0]

    until(lambda: unfinished() == 0, lambda: f"{unfinished()} tasks do not end", seconds=90)
    stored = dict(cluster.rows("SELECT id, status::text FROM taskflow.tasks"))
    assert len(set(acknowledged)) == len(acknowledged), "an id was given twice: the first task is lost"
    assert set(acknowledged) <= stored.keys(), "acknowledged tasks are lost"
    assert set(stored.values()) == {"succeeded"}
    completions = cluster.rows(
        """
        SELECT task_id, count(*) FROM taskflow.task_history
        WHERE new_status IN ('succeeded', 'failed', 'cancelled') GROUP BY task_id
        """
    )
    assert dict(completions) == dict.fromkeys(stored, 1)
    executed = {id for (id,) in cluster.rows("SELECT DISTINCT task_id FROM ledger")}
    assert stored.keys() <= executed, "completed, but never executed"


def completion_gap(cluster: Cluster) -> float:
    """The longest time in which no task completed, in seconds."""
    ((gap,),) = cluster.rows(
        """
        SELECT extract(epoch FROM max(gap))::float8
        FROM (SELECT finished_at - lag(finished_at) OVER (ORDER BY finished_at) AS gap FROM taskflow.tasks) AS gaps
        """
    )
    return round(gap, 2)


def test_a_primary_killed_with_its_patroni_loses_nothing(three: Cluster, endure: Endure) -> None:
    def crash() -> int:
        primary = three.primary()
        assert primary is not None
        three.crash(primary)
        return primary

    endure("crash of the primary", crash, 45)


def test_a_switchover_loses_nothing(three: Cluster, endure: Endure) -> None:
    def switch_over() -> None:
        leader, candidate = three.primary(), three.synchronous()
        assert leader is not None
        assert candidate is not None
        three.switch_over(leader, candidate)

    endure("switchover", switch_over, 10)


def test_a_synchronous_standby_that_is_killed_loses_nothing(three: Cluster, endure: Endure) -> None:
    def crash() -> int:
        standby = three.synchronous()
        assert standby is not None
        three.crash(standby)
        return standby

    endure("crash of the synchronous standby", crash, 30)


def test_a_node_that_is_shut_down_loses_nothing(three: Cluster, endure: Endure) -> None:
    def stop() -> int:
        standby = three.synchronous()
        assert standby is not None
        three.stop(standby)
        return standby

    endure("stop of the synchronous standby, with its etcd", stop, 10)


def test_a_primary_that_goes_on_without_its_patroni_acknowledges_nothing_that_is_lost(
    three: Cluster, endure: Endure
) -> None:
    """It takes itself for the primary until its Patroni is back, so a DSN of hosts may lead to it all that time."""

    def orphan() -> int:
        primary = three.primary()
        assert primary is not None
        three.orphan(primary)
        return primary

    endure("loss of the primary's Patroni alone", orphan, 45, but="API, multi-host")
