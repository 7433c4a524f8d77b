"""The loop: look now and then, draw whenever something has changed, do what keys ask for."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from rich.console import Console

from taskflow.cli.top.draw import draw
from taskflow.cli.top.sources import Away, Refused, Source
from taskflow.cli.top.terminal import REDRAW, STOP, Terminal
from taskflow.cli.top.view import Change, Look, Quit, View

CHANGED: Final = REDRAW


async def show(source: Source, console: Console, every: float) -> None:
    """Show how it stands, looking *every* so many seconds, until the user quits."""
    try:
        await _Screen(source, console, every).run()
    finally:
        await source.close()


class _Screen:
    def __init__(self, source: Source, console: Console, every: float) -> None:
        self._source = source
        self._console = console
        self._every = every
        self._view = View(where=source.where)
        self._told = asyncio.Queue[str]()
        self._at_once = asyncio.Event()
        self._changes = set[asyncio.Task[None]]()

    async def run(self) -> None:
        """Until the user quits."""
        with Terminal(self._console, self._told.put_nowait) as terminal:
            looking = asyncio.create_task(self._look())
            try:
                while not self._is_over(looking):
                    width, height = self._console.size
                    terminal.draw(draw(self._view, width, height, datetime.now(UTC)))
                    if self._press(await self._told.get()):
                        return
                    while not self._told.empty():
                        if self._press(self._told.get_nowait()):
                            return
            finally:
                for task in (looking, *self._changes):
                    task.cancel()
                await asyncio.gather(looking, *self._changes, return_exceptions=True)

    def _is_over(self, looking: asyncio.Task[None]) -> bool:
        """Raise what ended *looking*, for that would not end otherwise."""
        return looking.done() and looking.result() is None

    def _press(self, key: str) -> bool:
        """Do what *key* stands for; whether the user wants to leave."""
        if key == REDRAW:
            return False
        wish = Quit() if key == STOP else self._view.press(key)
        match wish:
            case Quit():
                return True
            case Look():
                self._at_once.set()
            case Change():
                task = asyncio.create_task(self._change(wish))
                self._changes.add(task)
                task.add_done_callback(self._changes.discard)
            case None:
                pass
        return False

    async def _look(self) -> None:
        is_first = True
        while True:
            self._at_once.clear()
            wanted = self._view.wanted
            try:
                snapshot = await self._source.look(wanted)
                if wanted == self._view.wanted:
                    self._view.show(snapshot)
            except Away as error:
                self._view.trouble = str(error)
            except Refused as error:
                if is_first:
                    self._told.put_nowait(CHANGED)
                    raise
                self._view.trouble = str(error)
            is_first = False
            self._told.put_nowait(CHANGED)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every):
                    await self._at_once.wait()

    async def _change(self, change: Change) -> None:
        try:
            await self._source.change(change.action, change.id)
            done = {"retry": "re-queued", "cancel": "cancelled"}[change.action]
            self._view.note = f"task {change.id} is {done}"
        except (Away, Refused) as error:
            self._view.note = f"task {change.id}: {error}"
        self._at_once.set()
        self._told.put_nowait(CHANGED)
