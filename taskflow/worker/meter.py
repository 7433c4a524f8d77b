"""What a worker measures of its attempts, for `/metrics`."""

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Final

from taskflow import metrics
from taskflow.metrics import Histogram, Metric, Sample
from taskflow.model import Cancelled, ClaimedTask, Failed, Outcome, Released, Retry, Succeeded

Kind = type[Outcome]

OUTCOMES: Final[dict[Kind, str]] = {
    Succeeded: "succeeded",
    Retry: "retry",
    Failed: "failed",
    Released: "released",
    Cancelled: "cancelled",
}

GATHERED: Final = 1000
"""Ended attempts are counted so many at a time, which takes a quarter of the time."""

TYPES: Final = 200
"""Task types that are told apart; what comes after them is counted together, for each is a series in Prometheus."""

OTHERS: Final = "(others)"


class Meter:
    """Counts claims and attempts in the event loop's thread; any thread may read. *clock* tells the database's time."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._ended: deque[tuple[str, Kind, float]] = deque()
        self._lock = threading.Lock()
        self._waits: defaultdict[str, Histogram] = defaultdict(Histogram)
        self._durations: defaultdict[str, Histogram] = defaultdict(Histogram)
        self._outcomes: Counter[tuple[str, Kind]] = Counter()

    def claimed(self, tasks: Iterable[ClaimedTask]) -> None:
        """Count *tasks*, which were claimed just now."""
        now = self._clock()
        waited = defaultdict[str, list[float]](list)
        for task in tasks:
            waited[task.type].append(now - task.scheduled_at)
        with self._lock:
            for type, seconds in waited.items():
                self._waits[_among(self._waits, type)].add_all(seconds)

    def ended(self, task: ClaimedTask, outcome: Outcome, seconds: float) -> None:
        """Count an attempt that took *seconds*."""
        self._ended.append((task.type, outcome.__class__, seconds))
        if len(self._ended) >= GATHERED:
            self._count()

    def _count(self) -> None:
        with self._lock:
            taken = defaultdict[tuple[str, Kind], list[float]](list)
            for _ in range(len(self._ended)):
                type, outcome, seconds = self._ended.popleft()
                taken[type, outcome].append(seconds)
            for (type, outcome), many in taken.items():
                among = _among(self._durations, type)
                self._durations[among].add_all(many)
                self._outcomes[among, outcome] += len(many)

    def read(self) -> list[tuple[Metric, list[Sample]]]:
        """The metrics as they stand."""
        self._count()
        with self._lock:
            outcomes = {(type, OUTCOMES[outcome]): count for (type, outcome), count in self._outcomes.items()}
            return [
                (metrics.CLAIMED, [((type,), waits.copy()) for type, waits in sorted(self._waits.items())]),
                (metrics.ATTEMPTS, sorted(outcomes.items())),
                (metrics.ATTEMPT_SECONDS, [((type,), some.copy()) for type, some in sorted(self._durations.items())]),
            ]


def _among(known: dict[str, Histogram], type: str) -> str:
    return type if type in known or len(known) < TYPES else OTHERS
