"""What the view shows and what keys do to it, without a terminal."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from taskflow.bulk import APPLIES_TO, Action
from taskflow.cli.top.sources import Snapshot
from taskflow.filters import TaskFilter
from taskflow.model import Priority, Status
from taskflow.queries import TaskSummary

TABS: Final = (Status.RUNNING, Status.QUEUED, Status.FAILED, Status.CANCELLED, Status.SUCCEEDED)

REMEMBERED: Final = 300
"""Looks whose rates are kept."""

PAGE: Final = 10
"""Rows that PageUp and PageDown move."""


class Quit(Struct, frozen=True):
    """The user wants to leave."""


class Look(Struct, frozen=True):
    """Other tasks shall be shown than those that were looked for."""


class Change(Struct, frozen=True):
    """A task shall be changed."""

    action: Action
    id: int


Wish = Quit | Look | Change


class Rate(NamedTuple):
    """Tasks a second."""

    enqueued: float
    attempts: float


class View(Struct, kw_only=True):
    """The state of the screen."""

    where: str
    tab: Status = Status.RUNNING
    filter: str = ""  # as the user wrote it
    typed: str | None = None  # the filter while it is written
    asked: Change | None = None  # waits for a yes
    selected: int | None = None  # the task's id
    snapshot: Snapshot | None = None
    trouble: str | None = None  # why there is no newer snapshot
    note: str = ""  # what came of the last key
    is_helping: bool = False
    rates: list[Rate] = []  # between two looks each, the latest last

    @property
    def wanted(self) -> TaskFilter:
        """The tasks to look for."""
        return msgspec.structs.replace(read_filter(self.filter), status=self.tab)

    @property
    def tasks(self) -> list[TaskSummary]:
        """The tasks that are listed."""
        return self.snapshot.tasks if self.snapshot else []

    @property
    def position(self) -> int:
        """The row of the selected task; the first, if it is gone."""
        ids = [task.id for task in self.tasks]
        return ids.index(self.selected) if self.selected in ids else 0

    @property
    def task(self) -> TaskSummary | None:
        """The selected task."""
        return self.tasks[self.position] if self.tasks else None

    def press(self, key: str) -> Wish | None:
        """Do what *key* stands for: a character, or a name such as ``up``."""
        self.note = ""
        if self.is_helping:
            self.is_helping = False
            return Quit() if key == "q" else None
        if self.typed is not None:
            return self._type(key)
        if self.asked is not None:
            asked, self.asked = self.asked, None
            return asked if key in {"y", "Y"} else None
        action = KEYS.get(key)
        return action(self) if action else None

    def show(self, snapshot: Snapshot) -> None:
        """Show *snapshot* from now on; where the selected task is gone, what stands in its row."""
        row = self.position
        if self.snapshot is not None and (rate := _rate(self.snapshot, snapshot)):
            self.rates = [*self.rates[1 - REMEMBERED :], rate]
        self.snapshot, self.trouble = snapshot, None
        if self.selected not in {task.id for task in snapshot.tasks}:
            self.selected = snapshot.tasks[min(row, len(snapshot.tasks) - 1)].id if snapshot.tasks else None

    def _type(self, key: str) -> Wish | None:
        typed = self.typed or ""
        if key == "escape":
            self.typed = None
        elif key == "backspace":
            self.typed = typed[:-1]
        elif key == "enter":
            return self._use_filter(typed)
        elif len(key) == 1 and key.isprintable():
            self.typed = typed + key
        return None

    def _use_filter(self, typed: str) -> Wish | None:
        try:
            read_filter(typed)
        except ValueError as error:
            self.note = str(error)
            return None
        self.typed, self.filter, self.selected = None, typed.strip(), None
        return Look()

    def move(self, rows: int) -> None:
        """Select the task so many *rows* further down."""
        if self.tasks:
            self.selected = self.tasks[min(max(self.position + rows, 0), len(self.tasks) - 1)].id

    def turn(self, steps: int) -> Wish:
        """Go to the list so many *steps* further to the right."""
        return self.open(TABS[(TABS.index(self.tab) + steps) % len(TABS)])

    def open(self, tab: Status) -> Wish:
        """Go to the list *tab*."""
        self.tab, self.selected = tab, None
        if self.snapshot:
            self.snapshot = msgspec.structs.replace(self.snapshot, tasks=[])
        return Look()

    def change(self, action: Action) -> Wish | None:
        """Ask for *action* on the selected task, if its status allows it; a cancel wants a yes first."""
        if (task := self.task) is None:
            return None
        statuses = APPLIES_TO[action]
        if task.status not in statuses:
            self.note = f"{action} is for {' and '.join(statuses)} tasks"
            return None
        wish = Change(action, task.id)
        if action is Action.RETRY:
            return wish
        self.asked = wish
        return None

    def begin_filter(self) -> None:
        """Let the user write the filter."""
        self.typed = self.filter

    def drop_filter(self) -> Wish | None:
        """Show all again."""
        if not self.filter:
            return None
        self.filter, self.selected = "", None
        return Look()

    def help(self) -> None:
        """Show what the keys do."""
        self.is_helping = True


KEYS: Final[Mapping[str, Callable[[View], Wish | None]]] = {
    "q": lambda _: Quit(),
    "?": View.help,
    "h": View.help,
    "up": lambda view: view.move(-1),
    "k": lambda view: view.move(-1),
    "down": lambda view: view.move(1),
    "j": lambda view: view.move(1),
    "pageup": lambda view: view.move(-PAGE),
    "pagedown": lambda view: view.move(PAGE),
    "home": lambda view: view.move(-(10**9)),
    "end": lambda view: view.move(10**9),
    "tab": lambda view: view.turn(1),
    "right": lambda view: view.turn(1),
    "backtab": lambda view: view.turn(-1),
    "left": lambda view: view.turn(-1),
    "/": View.begin_filter,
    "escape": View.drop_filter,
    "r": lambda view: view.change(Action.RETRY),
    "c": lambda view: view.change(Action.CANCEL),
    **{str(number): lambda view, tab=tab: view.open(tab) for number, tab in enumerate(TABS, 1)},
}


def _rate(before: Snapshot, after: Snapshot) -> Rate | None:
    """What came between; None where the statistics began anew, or the looks were too close to each other."""
    seconds = (after.at - before.at).total_seconds()
    enqueued = after.enqueued_total - before.enqueued_total
    attempts = after.attempts_total - before.attempts_total
    return Rate(enqueued / seconds, attempts / seconds) if seconds > 0 and enqueued >= 0 and attempts >= 0 else None


def read_filter(text: str) -> TaskFilter:
    """The filter that *text* writes: ``type=send_email priority=high``, and what the name holds.

    Raises ValueError, saying what is wrong.
    """
    given: dict[str, Any] = {}
    words: list[str] = []
    for word in text.split():
        name, equals, value = word.partition("=")
        if equals and name in {"type", "priority"}:
            given[name] = value
        else:
            words.append(word)
    if "priority" in given and given["priority"] not in set(Priority):
        raise ValueError(f"a priority is {', '.join(Priority)}")
    if words:
        given["name"] = " ".join(words)
    try:
        return msgspec.convert(given, TaskFilter)
    except msgspec.ValidationError as error:
        raise ValueError(str(error).partition(" - at ")[0]) from error
