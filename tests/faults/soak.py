"""Chaos: 200 tasks a second, a random fault every 30 s, the promise checked in the end: ``just soak --minutes 10``."""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

from producing import Producer

from faults.arena import Arena, Postgres
from faults.mischief import BLOCKED, LEASE, Fault, Mischief
from taskflow.migrate import migrate

RATE: Final = 200.0
NAMES: Final = ("1", "2", "3", "4", "5")

LASTS: Final = {BLOCKED: 3 * LEASE}
"""Seconds more until the next fault, which would be measured by what is left of this one."""

OLDEST: Final = """
SELECT extract(epoch FROM least(
    (SELECT min(created_at) FROM taskflow.tasks WHERE status = 'queued'),
    (SELECT min(created_at) FROM taskflow.tasks WHERE status = 'running')))::float8
"""

GAP: Final = """
SELECT extract(epoch FROM max(gap))::float8 FROM (
    SELECT finished_at - lag(finished_at) OVER (ORDER BY finished_at) AS gap, finished_at
    FROM taskflow.tasks WHERE finished_at BETWEEN to_timestamp(%s) - interval '1 s' AND to_timestamp(%s)
) AS steps WHERE finished_at >= to_timestamp(%s)
"""


@dataclass
class Episode:
    """One fault: when it began (Unix), and how many seconds later all tasks of before had ended."""

    fault: str
    began: float
    recovered: float | None = None
    write_gap: float | None = None
    completion_gap: float | None = None


class Soak:
    """Load, and one fault after another."""

    def __init__(self, arena: Arena, seed: int, every: float) -> None:
        self.episodes: list[Episode] = []
        self._arena = arena
        self._chance = random.Random(seed)
        self._every = every
        self.mischief = Mischief(arena, NAMES, self._chance)
        self._faults = self._in_turn(self.mischief.faults())

    def _in_turn(self, faults: dict[str, Fault]) -> Iterator[tuple[str, Fault]]:
        """Each once in random order, and again."""
        while True:
            yield from self._chance.sample(list(faults.items()), len(faults))

    def run(self, seconds: float) -> None:
        """Have faults for *seconds*, then wait until all tasks that were before the last one have ended."""
        ends_at = time.monotonic() + seconds
        next_at = time.monotonic() + 5
        while time.monotonic() < ends_at:
            if time.monotonic() >= next_at:
                name, fault = next(self._faults)
                self._begin(name, fault)
                next_at = max(next_at, time.monotonic() + LASTS.get(name, 0.0)) + self._every
            self._look()
        self.mischief.end_all()
        give_up = time.monotonic() + 4 * LEASE
        while any(episode.recovered is None for episode in self.episodes) and time.monotonic() < give_up:
            self._look()

    def _begin(self, name: str, fault: Fault) -> None:
        print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
        self.episodes.append(Episode(name, time.time()))
        fault()

    def _look(self) -> None:
        self.mischief.tick()
        open_ones = [episode for episode in self.episodes if episode.recovered is None]
        if open_ones:
            oldest = self._arena.database.one(OLDEST)
            for episode in open_ones:
                if oldest is None or oldest > episode.began:
                    episode.recovered = time.time() - episode.began
        time.sleep(0.1)

    def measure_gaps(self, producers: Sequence[Producer]) -> None:
        """Find the longest time without an acknowledgement, and without a completion, from each fault to the next."""
        offset = time.time() - time.monotonic()
        acks = sorted(at + offset for producer in producers for at, _ in producer.acks)
        for episode in self.episodes:
            until = episode.began + self._every
            steps = pairwise(at for at in acks if episode.began - 1 <= at < until)
            episode.write_gap = max((later - at for at, later in steps if later >= episode.began), default=None)
            episode.completion_gap = self._arena.database.one(GAP, episode.began, until, episode.began)


def summary(episodes: Sequence[Episode]) -> list[dict[str, Any]]:
    """By fault: how often it was had, the seconds until recovery (median, most), and the longest gaps."""
    rows: list[dict[str, Any]] = []
    for name in sorted({episode.fault for episode in episodes}):
        those = [episode for episode in episodes if episode.fault == name]
        recovered = [episode.recovered for episode in those if episode.recovered is not None]
        rows.append(
            {
                "fault": name,
                "times": len(those),
                "recovered": len(recovered),
                "recovered_median_s": round(median(recovered), 2) if recovered else None,
                "recovered_most_s": round(max(recovered), 2) if recovered else None,
                "write_gap_s": round(max(episode.write_gap or 0.0 for episode in those), 2),
                "completion_gap_s": round(max(episode.completion_gap or 0.0 for episode in those), 2),
            }
        )
    return rows


def as_text(report: dict[str, Any]) -> str:
    """The report for people."""
    head = {key: value for key, value in report.items() if key not in {"faults", "episodes"}}
    lines = [f"{key}: {value}" for key, value in head.items()]
    lines += [
        "",
        f"{'fault':56} {'times':>5} {'recovered in s: median':>22} {'most':>6} {'gaps: write':>11} {'done':>6}",
    ]
    lines += [
        f"{row['fault']:56} {row['times']:5} {row['recovered_median_s']!s:>22} {row['recovered_most_s']!s:>6} "
        f"{row['write_gap_s']:11} {row['completion_gap_s']:6}"
        for row in report["faults"]
    ]
    return "\n".join(lines)


def soak(directory: Path, seconds: float, every: float, rate: float, seed: int) -> dict[str, Any]:
    """The report of a soak; its ``broken`` says what part of the promise was, if any."""
    postgres = Postgres(directory / "postgres")
    postgres.start()
    migrate(postgres.dsn)
    (directory / "work").mkdir()
    arena = Arena(directory / "work", postgres, seed)
    soak = Soak(arena, seed, every)
    broken: list[str] = soak.mischief.errors
    began = time.monotonic()
    try:
        for name in NAMES:
            arena.start_ready(name, WORKER_LEASE_IN_SECONDS=str(LEASE))
        with arena.load(rate) as producers:
            soak.run(seconds)
        lasted = time.monotonic() - began
        try:
            arena.assert_promise_kept()
        except AssertionError as error:
            broken.append(f"{error}\n{arena.say()}")
        soak.measure_gaps(producers)
        broken += [f"not recovered: {episode.fault}" for episode in soak.episodes if episode.recovered is None]
        return {
            "seed": seed,
            "minutes": round(lasted / 60, 1),
            "asked_per_s": rate,
            "acknowledged_per_s": round(len(arena.acknowledged) / lasted, 1),
            "acknowledged": len(arena.acknowledged),
            "tasks": dict(arena.database.rows("SELECT status::text, count(*) FROM taskflow.tasks GROUP BY 1")),
            "executions": arena.database.one("SELECT count(*) FROM ledger WHERE event = 'began'"),
            "attempts_left_behind": dict(
                arena.database.rows("SELECT outcome::text, count(*) FROM taskflow.attempts GROUP BY 1")
            ),
            "broken": broken,
            "faults": summary(soak.episodes),
            "episodes": [vars(episode) for episode in soak.episodes],
        }
    finally:
        soak.mischief.end_all()
        arena.end()
        postgres.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--every", type=float, default=30, help="seconds from one fault to the next")
    parser.add_argument("--rate", type=float, default=RATE, help="tasks a second")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of the order of the faults")
    parser.add_argument("--report", type=Path, help="where to write it as JSON; the text lies beside, as .txt")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="taskflow-soak-"))
    try:
        report = soak(directory, 60 * options.minutes, options.every, options.rate, options.seed)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(as_text(report))
    if options.report:
        options.report.write_text(json.dumps(report, indent=2) + "\n")
        options.report.with_suffix(".txt").write_text(as_text(report) + "\n")
    sys.exit(1 if report["broken"] else 0)


if __name__ == "__main__":
    main()
