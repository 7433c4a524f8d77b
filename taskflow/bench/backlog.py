"""Whether a claim is as fast and as well planned in front of a large backlog as in an almost empty queue."""

import time
from collections.abc import Generator
from typing import Any, Final, LiteralString

from taskflow.bench.backlogs import FILL_MIXED, add, clear
from taskflow.bench.report import Figure, Result, quantile
from taskflow.bench.stage import BenchmarkFailed, Session, Stage, one
from taskflow.cli.context import run_async
from taskflow.database import Connection
from taskflow.model import EVERYDAY, Priority
from taskflow.queue.claim import CLAIM, Mark, claim
from taskflow.queue.finish import succeed
from taskflow.worker.link import Link
from taskflow.worker.run import STATEMENT_SECONDS

BATCH: Final = 100
FULL_LOOK_EVERY: Final = 10
"""Claims after which one starts without a watermark, as a worker's does once a second."""

SEEN: Final = 1000
"""Tasks that stale statistics know of."""

P99_BAR: Final = 10.0  # ms
RATIO_BAR: Final = 2.0


def run(stage: Stage, tasks: int, claims: int) -> Result:
    """Time *claims* claims of 100 tasks each, before the first ANALYZE that sees the backlog and after it."""
    if tasks < (least := 2 * claims * BATCH):
        raise BenchmarkFailed(f"{claims} claims take {least:,} tasks in all: raise --tasks, or lower --claims")
    with stage.connect() as conn:
        conn.execute("ALTER TABLE taskflow.tasks SET (autovacuum_enabled = off)")
        worker = register(conn)
        empty = _time(stage, worker, claims, "an almost empty queue", top_up=True)
        clear(conn)
        add(stage, conn, SEEN, statement=FILL_MIXED)
        conn.execute("ANALYZE taskflow.tasks")
        add(stage, conn, tasks, statement=FILL_MIXED)
        faults = plan_faults(conn)
        stale = _time(stage, worker, claims, "stale statistics", top_up=False)
        conn.execute("ANALYZE taskflow.tasks")
        faults += plan_faults(conn)
        fresh = _time(stage, worker, claims, "fresh statistics", top_up=False)
    limit = quantile(empty, 0.99)
    return Result(
        benchmark="backlog",
        parameters={"tasks": tasks, "claims": claims, "batch": BATCH},
        figures=[
            Figure("empty_p50_ms", "claim p50, almost empty queue", quantile(empty, 0.5), "ms"),
            Figure("empty_p99_ms", "claim p99, almost empty queue", limit, "ms"),
            *_figures("stale", stale, limit),
            *_figures("fresh", fresh, limit),
            Figure("plan_faults", "sequential scans and sorts in its plans", len(faults), at_most=0),
        ],
        samples={"empty_claim_ms": empty, "stale_claim_ms": stale, "fresh_claim_ms": fresh},
        picture=faults,
    )


def _figures(statistics: str, claims: list[float], limit: float) -> list[Figure]:
    p99 = quantile(claims, 0.99)
    return [
        Figure(f"{statistics}_p50_ms", f"claim p50, backlog, {statistics} statistics", quantile(claims, 0.5), "ms"),
        Figure(f"{statistics}_p99_ms", f"claim p99, backlog, {statistics} statistics", p99, "ms", at_most=P99_BAR),
        Figure(f"{statistics}_ratio", "p99 backlog / almost empty", p99 / limit, at_most=RATIO_BAR),
    ]


REGISTER: Final[LiteralString] = """
INSERT INTO taskflow.workers (name, host, pid, version, priorities, concurrency)
VALUES ('bench', 'bench', 0, '', '{high,normal,low}', 100)
RETURNING id
"""


def register(conn: Session) -> int:
    """The id of a worker that lives as far as claims can tell."""
    (worker,) = one(conn, REGISTER)
    return worker


def _time(stage: Stage, worker: int, claims: int, name: str, *, top_up: bool) -> list[float]:
    with stage.step(f"claiming: {name}"):
        return sorted(run_async(time_claims(stage.dsn, worker, claims, top_up=top_up)))


async def time_claims(dsn: str, worker: int, claims: int, *, top_up: bool) -> list[float]:
    """Milliseconds of each claim alone; *top_up* enqueues before each what it takes. What is claimed is finished."""
    marks: dict[Priority, Mark] = {}
    taken: list[float] = []
    link = Link(dsn, "taskflow bench", statement_timeout=STATEMENT_SECONDS)  # with a worker's settings
    async with await link.get() as conn:
        for number in range(claims):
            if number % FULL_LOOK_EVERY == 0:
                marks.clear()
            if top_up:
                await conn.execute(FILL_MIXED, {"type": "noop", "first": 1, "last": BATCH})
            taken.append(await _claim_and_finish(conn, worker, marks))
    return taken


async def _claim_and_finish(conn: Connection, worker: int, marks: dict[Priority, Mark]) -> float:
    began = time.perf_counter()
    claimed = await claim(conn, worker, EVERYDAY, BATCH, marks)
    took = (time.perf_counter() - began) * 1000
    await succeed(conn, worker, 1, [task.id for task in claimed])
    return took


PARAMETERS: Final = {
    name: f"${number}"
    for number, name in enumerate(("worker", "priorities", "scheduled_at", "ids", "limit", "excluded"), start=1)
}

EXPLAIN: Final[LiteralString] = """
EXPLAIN (FORMAT JSON) EXECUTE bench_claim (1, '{high,normal,low}', '{0,0,0}', '{0,0,0}', 100, '{}')
"""


def plan_faults(conn: Session) -> list[str]:
    """What the claim's plans, for its first executions and for all later ones, should not hold."""
    found: list[str] = []
    conn.execute(f"PREPARE bench_claim AS {CLAIM % PARAMETERS}".encode())
    for mode in ("force_custom_plan", "force_generic_plan"):
        conn.execute("SELECT set_config('plan_cache_mode', %(mode)s, false)", {"mode": mode})
        (plans,) = one(conn, EXPLAIN)
        found += [f"{mode}: {fault}" for fault in _faults(plans[0]["Plan"])]
    conn.execute("DEALLOCATE bench_claim")
    return found


def _faults(node: dict[str, Any]) -> Generator[str]:
    kind = node["Node Type"]
    if "Sort" in kind or (kind == "Seq Scan" and node["Relation Name"] == "tasks"):
        yield kind
    for child in node.get("Plans", ()):
        yield from _faults(child)
