"""What a benchmark found: figures, each with its bar where there is one; as a table, or as JSON."""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct, field
from rich.console import Console, Group, RenderableType
from rich.table import Table

from taskflow.bench.environment import Environment


class Figure(Struct, frozen=True):
    """One number; *key* names it in JSON. None: it cannot be known here."""

    key: str
    label: str
    value: float | None
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def bar(self) -> str:
        """What the figure should reach, in words."""
        if self.at_least is not None:
            return f"≥ {_short(self.at_least)}"
        return "" if self.at_most is None else f"≤ {_short(self.at_most)}"


class Result(Struct, frozen=True, kw_only=True):
    """All that one benchmark found. *samples* are the single measurements, and are in JSON only."""

    benchmark: str
    parameters: Mapping[str, int | float | str]
    figures: Sequence[Figure]
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])
    picture: Sequence[str] = ()


def to_json(result: Result, environment: Environment) -> str:
    """One object: figures by key, and what those should reach that have a bar."""
    document = {
        "benchmark": result.benchmark,
        "environment": environment,
        "parameters": result.parameters,
        "figures": {figure.key: figure.value for figure in result.figures},
        "at_least": {figure.key: figure.at_least for figure in result.figures if figure.at_least is not None},
        "at_most": {figure.key: figure.at_most for figure in result.figures if figure.at_most is not None},
        "samples": result.samples,
    }
    return msgspec.json.encode(document).decode()


def to_table(result: Result, environment: Environment) -> RenderableType:
    """The figures as a table, with the environment below."""
    given = ", ".join(f"{name} {_short(value)}" for name, value in result.parameters.items())
    table = Table(title=f"taskflow bench {result.benchmark}: {given}", title_justify="left")
    table.add_column("")
    table.add_column("measured", justify="right")
    table.add_column("unit")
    table.add_column("bar", justify="right")
    for figure in result.figures:
        measured = "unknown" if figure.value is None else _short(figure.value)
        table.add_row(figure.label, measured, figure.unit, figure.bar)
    return Group(table, *result.picture, *environment.lines())


def show(console: Console, result: Result, environment: Environment) -> None:
    """Print the table on *console*."""
    console.print(to_table(result, environment), highlight=False, soft_wrap=True)


def quantile(values: Sequence[float], share: float) -> float:
    """The value of the sorted *values* below which *share* of them lie."""
    return values[min(len(values) - 1, int(len(values) * share))]


def _short(value: float | str) -> str:
    """Three digits, or all of a large number's before the point."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"
