"""The two pictures of docs/performance.md, from what `taskflow bench pinned --json` and `latency --json` found.

Run from the root of the repository: `python docs/benchmarks/plot.py`. Needs nothing but Python.
"""

import json
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).parent

WIDTH, HEIGHT = 760, 340
LEFT, RIGHT, TOP, BOTTOM = 70, 30, 72, 50
INK, FAINT, GRID = "#222222", "#666666", "#e4e4e4"
GREEN, BLUE = "#2e7d4f", "#4051b5"


class Chart:
    """Axes from 0 to *right* and *top*, on which lines, bars and words are drawn in the units of the axes."""

    def __init__(self, title: str, subtitle: str, right: float, top: float) -> None:
        self._right = right
        self._top = top
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
            f'font-size="12" role="img" aria-label="{escape(title)}">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>',
            f'<text x="20" y="28" font-size="16" fill="{INK}">{escape(title)}</text>',
            f'<text x="20" y="48" fill="{FAINT}">{escape(subtitle)}</text>',
        ]

    def x(self, value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * value / self._right, 1)

    def y(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self._top, 1)

    def axes(self, x_ticks: Iterable[float], x_label: str, y_ticks: Iterable[float]) -> None:
        for tick in y_ticks:
            y = self.y(tick)
            self._parts.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="{INK if tick == 0 else GRID}"/>')
            self._text(LEFT - 8, y + 4, f"{tick:,.0f}", FAINT, "end")
        for tick in x_ticks:
            self._text(self.x(tick), HEIGHT - BOTTOM + 18, f"{tick:g}", FAINT, "middle")
        self._text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x_label, FAINT, "middle")

    def line(self, points: Iterable[tuple[float, float]], colour: str) -> None:
        path = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5" stroke-linejoin="round"/>'
        )

    def bar(self, left: float, right: float, height: float, colour: str) -> None:
        x, y = self.x(left) + 0.5, self.y(height)
        width, tall = round(self.x(right) - 0.5 - x, 1), round(self.y(0) - y, 1)
        self._parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{tall}" rx="1.5" fill="{colour}"/>')

    def mark(self, x: float, label: str, height: float) -> None:
        """A dashed line up at *x*, *height* of the chart's high, with words beside it."""
        top = self.y(self._top * height)
        self._parts.append(f'<path d="M{self.x(x)} {self.y(0)}V{top}" stroke="{INK}" stroke-dasharray="3 3"/>')
        self._text(self.x(x) + 6, top + 10, label, INK, "start")

    def legend(self, entries: Sequence[tuple[str, str]]) -> None:
        """Colours and words, on the right above the chart."""
        for row, (colour, words) in enumerate(entries):
            y = 24 + 18 * row
            self._parts.append(f'<path d="M{WIDTH - 236} {y - 4}h18" stroke="{colour}" stroke-width="2.5"/>')
            self._text(WIDTH - 212, y, words, INK, "start")

    def _text(self, x: float, y: float, words: str, colour: str, anchor: str) -> None:
        self._parts.append(f'<text x="{x}" y="{y}" fill="{colour}" text-anchor="{anchor}">{escape(words)}</text>')

    def svg(self) -> str:
        return "\n".join([*self._parts, "</svg>", ""])


def steps(highest: float, wanted: int) -> list[float]:
    """Round numbers from 0 to just above *highest*, about so many."""
    size = 10 ** (len(str(int(highest))) - 1) if highest >= 1 else 0.1
    step = min((size * factor for factor in (0.1, 0.2, 0.25, 0.5, 1, 2)), key=lambda s: abs(highest / s - wanted))
    count = int(-(-highest // step))
    return [step * number for number in range(count + 1)]


def rates(tasks: int, seconds: Sequence[float], together: int = 5) -> list[tuple[float, float]]:
    """Time and tasks per second, *together* so many hundredths of the tasks at a time."""
    ends = [0.0, *seconds[together - 1 :: together]]
    return [((start + end) / 2, tasks * together / 100 / (end - start)) for start, end in pairwise(ends)]


def pinned(found: dict) -> str:
    tasks, samples = found["parameters"]["tasks"], found["samples"]
    alone = rates(tasks, samples["free_seconds_to_each_hundredth"])
    beside = rates(tasks, samples["seconds_to_each_hundredth"])
    x_ticks = steps(max(time for time, _ in alone + beside), 8)
    y_ticks = steps(max(rate for _, rate in alone + beside), 5)
    chart = Chart(
        f"A drain of {tasks:,} tasks beside an idle transaction",
        f"tasks per second; Python {found['environment']['python']}, one worker, defaults",
        x_ticks[-1],
        y_ticks[-1],
    )
    chart.axes(x_ticks, "seconds", y_ticks)
    chart.line(alone, BLUE)
    chart.line(beside, GREEN)
    chart.legend([(BLUE, "nothing beside it"), (GREEN, "a session holds a snapshot")])
    return chart.svg()


def latency(found: dict) -> str:
    figures, pickups = found["figures"], found["samples"]["pickup_ms"]
    x_ticks = steps(max(1.0, figures["p99_ms"] * 1.4), 8)
    width = 0.05 if x_ticks[-1] <= 3 else 0.1
    counts = [0] * round(x_ticks[-1] / width)
    shown = [pickup for pickup in pickups if pickup < x_ticks[-1]]
    for pickup in shown:  # a handler may have started before the enqueuing side saw its answer
        counts[min(max(int(pickup / width), 0), len(counts) - 1)] += 1
    y_ticks = steps(1.2 * max(counts), 5)  # room for the marks
    beyond = len(pickups) - len(shown)
    chart = Chart(
        "From an enqueue's commit to the start of its handler",
        f"{len(pickups):,} tasks, one every {found['parameters']['every'] * 1000:g} ms, to an idle worker; "
        f"max {figures['max_ms']:.1f} ms" + (f" ({beyond} beyond this picture)" if beyond else ""),
        x_ticks[-1],
        y_ticks[-1],
    )
    chart.axes(x_ticks, "milliseconds", y_ticks)
    for number, count in enumerate(counts):
        if count:
            chart.bar(number * width, (number + 1) * width, count, GREEN)
    chart.mark(figures["p50_ms"], f"p50 {figures['p50_ms']:.2f} ms", 1.0)
    chart.mark(figures["p99_ms"], f"p99 {figures['p99_ms']:.2f} ms", 0.6)
    return chart.svg()


PICTURES = {"pinned": pinned, "latency": latency}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        svg = draw(json.loads((HERE / f"{name}.json").read_text()))
        (HERE / f"{name}.svg").write_text(svg, encoding="utf-8")
