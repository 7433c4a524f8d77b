"""What features cost that are used: drains of queues in which every task uses one, beside a plain one."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, Final, LiteralString

import msgspec

from taskflow.bench.drain import drain_once
from taskflow.bench.report import Figure, Result
from taskflow.bench.stage import Session, Stage, settle

RATIO_BAR: Final = 0.5
CHUNK: Final = 1000
KEYS: Final = 10_000

FEATURES: Final[Mapping[str, Callable[[int], dict[str, Any]]]] = {
    "plain": lambda number: {},
    "result": lambda number: {"type": "answer"},
    "order_key": lambda number: {"order_key": f"key {number % KEYS}"},
    "tenant": lambda number: {"tenant": f"tenant {number % 10}"},
    "limit": lambda number: {"type": "limited"},
    "limit_key": lambda number: {"type": "limited_by_key", "limit_key": f"key {number % 100}"},
    "rate": lambda number: {"type": "rated"},
    "after": lambda number: {"after": [1]},
    "group": lambda number: {},
    "unique_key": lambda number: {"unique_key": f"key {number}"},
    "delay": lambda number: {"delay": number % KEYS / KEYS},
    "aging": lambda number: {"priority": "low"},
}
"""What the tasks of a drain have, by their number."""

LIMITS: Final[LiteralString] = """
SELECT taskflow.set_limit('limited', concurrency => 10000),
       taskflow.set_limit('limited_by_key', concurrency_per_key => 100),
       taskflow.set_limit('rated', rate => 1000000)
"""

FILL: Final[LiteralString] = "SELECT count(*) FROM taskflow.enqueue_many(%(tasks)s)"

FILL_GROUP: Final[LiteralString] = """
SELECT taskflow.enqueue_group(%(tasks)s, '{"type": "noop", "payload": {"i": 0}}')
"""

AGE: Final[LiteralString] = "UPDATE taskflow.tasks SET scheduled_at = scheduled_at - interval '1 hour'"

CLEAR: Final[LiteralString] = """
TRUNCATE taskflow.tasks, taskflow.attempts, taskflow.holds, taskflow.limits,
         taskflow.buckets, taskflow.groups, taskflow.members
RESTART IDENTITY
"""

FIRST: Final[LiteralString] = "INSERT INTO taskflow.tasks (name, type) VALUES ('the first', 'noop')"


def run(stage: Stage, tasks: int, concurrency: int, rounds: int, features: tuple[str, ...]) -> Result:
    """Drain with each feature in turns; medians of the rounds, as ratios to the plain drain."""
    rates: defaultdict[str, list[float]] = defaultdict(list)
    with stage.connect() as conn:
        for _ in range(rounds):
            for feature in ("plain", *features):
                _fill(stage, conn, tasks, feature)
                settings = {"PRIORITY_AGING_IN_SECONDS": "600"} if feature == "aging" else {}
                rates[feature].append(drain_once(stage, conn, tasks, 1, concurrency, **settings).rate)
    plain = median(rates["plain"])
    return Result(
        benchmark="features",
        parameters={"tasks": tasks, "concurrency": concurrency, "rounds": rounds},
        figures=[
            Figure("plain_tasks_per_second", "plain", plain, "tasks/s"),
            *(Figure(feature, feature, median(rates[feature]) / plain, at_least=RATIO_BAR) for feature in features),
        ],
        samples={f"{feature}_tasks_per_second": values for feature, values in rates.items()},
    )


def _fill(stage: Stage, conn: Session, tasks: int, feature: str) -> None:
    """Replace all tasks by *tasks* queued ones that use *feature*, and settle the database."""
    conn.execute(CLEAR)
    if feature in ("limit", "limit_key", "rate"):
        conn.execute(LIMITS)
    while conn.execute("SELECT taskflow.adopt()").fetchone() == (False,):
        pass
    if feature == "after":
        conn.execute(FIRST)
    with stage.step(f"enqueueing {tasks:,} tasks: {feature}", tasks) as done:
        for first in range(0, tasks, CHUNK):
            numbers = range(first, min(first + CHUNK, tasks))
            given = [{"type": "noop", "payload": {"i": number}} | FEATURES[feature](number) for number in numbers]
            fill = FILL_GROUP if feature == "group" else FILL
            conn.execute(fill, {"tasks": msgspec.json.encode(given).decode()})
            done(numbers[-1] + 1)
    if feature == "aging":
        conn.execute(AGE)
    conn.execute("VACUUM ANALYZE taskflow.holds")
    settle(conn)
