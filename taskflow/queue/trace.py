"""Traces: which span enqueued a task, kept beside it so that tasks without one cost nothing."""

from collections.abc import Mapping, Sequence

from taskflow.database import Connection, array
from taskflow.tracing import sending

KEEP_TRACES = """
INSERT INTO taskflow.traces (task_id, traceparent)
SELECT task_id, traceparent FROM unnest(%(ids)s::bigint[], %(traces)s::text[]) AS given (task_id, traceparent)
ON CONFLICT DO NOTHING
"""


async def keep_traces(conn: Connection, traces: Sequence[tuple[int, str | None]]) -> None:
    """Remember of each task the ``traceparent`` of the span that enqueued it; None has none."""
    known = [(id, trace) for id, trace in traces if trace is not None]
    await conn.execute(KEEP_TRACES, {"ids": [id for id, _ in known], "traces": [trace for _, trace in known]})


async def trace_enqueued(
    conn: Connection, type: str, ids: Sequence[int], headers: Mapping[str, str] | None = None
) -> None:
    """Make a span of the enqueue of *ids*, all of *type*, in the transaction that is open; none if nobody traces."""
    with sending([type] * len(ids), headers) as carrier:
        if trace := carrier.get("traceparent"):
            await keep_traces(conn, [(id, trace) for id in ids])


FIND_TRACES = "SELECT task_id, traceparent FROM taskflow.traces WHERE task_id = ANY (%(ids)s::bigint[])"


async def find_traces(conn: Connection, ids: Sequence[int]) -> dict[int, str]:
    """The ``traceparent`` of those of *ids* that have one."""
    return dict(await (await conn.execute(FIND_TRACES, {"ids": array(ids)})).fetchall())


FORGET_TRACES = """
DELETE FROM taskflow.traces
WHERE task_id < taskflow.first_id_since(now() - make_interval(days => %(days)s))
"""


async def forget_traces(conn: Connection, days: int) -> None:
    """Forget those of tasks that were enqueued more than *days* ago: an attempt that comes later begins its own."""
    await conn.execute(FORGET_TRACES, {"days": days})
