"""Charts as columns of rectangles on a field of 100 by 100; the template draws them as SVG, without any script."""

from collections.abc import Sequence
from typing import NamedTuple

from taskflow.model import Priority
from taskflow.queries import Span, Step


class Part(NamedTuple):
    """One rectangle: its class in the style sheet, and where it stands."""

    kind: str
    y: float
    height: float


class Column(NamedTuple):
    """One step; *says* is its tooltip."""

    x: float
    says: str
    parts: list[Part]


class Chart(NamedTuple):
    """*top* is what the full height stands for, *width* that of a column."""

    columns: list[Column]
    width: float
    top: float

    @property
    def outlines(self) -> list[tuple[str, str]]:
        """All rectangles of a kind as one path: for a small chart without tooltips, a fraction of the bytes."""
        paths: dict[str, str] = {}
        for column in self.columns:
            for part in column.parts:
                small = Part(part.kind, round(part.y), max(round(part.height), 1))
                paths[part.kind] = paths.get(part.kind, "") + self.path(column, small, 1)
        return list(paths.items())

    def path(self, column: Column, part: Part, digits: int = 2) -> str:
        """One rectangle as a path."""
        x, width = round(column.x, digits), round(self.width, digits)
        return f"M{x:g} {part.y:g}h{width:g}v{part.height:g}h-{width:g}z"


def draw(steps: Sequence[Step], rows: Sequence[tuple[str, Sequence[float]]], unit: str = "") -> Chart:
    """*rows* of values, one for each step, upon each other; each has a name, which is its class as well."""
    top = max((sum(values) for values in zip(*(values for _, values in rows), strict=True)), default=0)
    slot = 100 / max(len(steps), 1)
    columns: list[Column] = []
    for index, step in enumerate(steps):
        floor, parts = 100.0, list[Part]()
        for name, values in rows:
            if values[index] > 0:
                height = max(100 * values[index] / top, 1.0)
                floor = max(floor - height, 0.0)
                parts.append(Part(name, round(floor, 1), round(height, 1)))
        told = ", ".join(f"{values[index]:,.4g}{unit} {name}" for name, values in rows if values[index])
        columns.append(Column(round(index * slot, 2), f"{step.at:%H:%M} UTC: {told or 'nothing'}", parts))
    return Chart(columns, round(slot * 0.78, 2), top)


def throughput(steps: Sequence[Step], span: Span) -> Chart:
    """Ended attempts a minute."""
    minutes = span.step.total_seconds() / 60
    return draw(
        steps,
        [
            ("succeeded", [step.succeeded / minutes for step in steps]),
            ("retried", [step.retried / minutes for step in steps]),
            ("failed", [step.failed / minutes for step in steps]),
        ],
    )


def failure_rate(steps: Sequence[Step]) -> Chart:
    """Per cent of the attempts of each step that failed."""
    return draw(steps, [("failed", [100 * failing(step) for step in steps])], " %")


def failing(*steps: Step) -> float:
    """The share of attempts that failed, for good or to be tried again; 0 to 1."""
    failed = sum(step.failed + step.retried for step in steps)
    return failed / max(failed + sum(step.succeeded for step in steps), 1)


class Lane(NamedTuple):
    """What was done of one priority: in all, the share that failed, and both as a chart."""

    ended: int
    failing: float
    chart: Chart


def done(steps: Sequence[Step], priority: Priority, span: Span) -> Lane:
    """Throughput and failure rate of *priority*."""
    own = [step.of(priority) for step in steps]
    return Lane(sum(step.ended for step in own), failing(*own), throughput(own, span))


def depth(steps: Sequence[Step], priority: Priority) -> Chart:
    """How many tasks of *priority* waited."""
    return draw(steps, [("waiting", [step.waiting.get(priority, 0) for step in steps])])
