"""The terminal: keys one by one, the whole screen, and everything as it was afterwards."""

import asyncio
import codecs
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable
from typing import Any, Final

from rich.console import Console, RenderableType
from rich.live import Live

SEQUENCES: Final = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "right",
    "\x1b[D": "left",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1bOC": "right",
    "\x1bOD": "left",
    "\x1b[H": "home",
    "\x1b[F": "end",
    "\x1b[1~": "home",
    "\x1b[4~": "end",
    "\x1b[5~": "pageup",
    "\x1b[6~": "pagedown",
    "\x1b[Z": "backtab",
    "\x1b": "escape",
    "\t": "tab",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
}

STOP: Final = "stop"
REDRAW: Final = "redraw"
"""Beside the keys: the user or the system wants us to end; the screen has another size."""


def read_keys(text: str) -> list[str]:
    """The keys that a terminal sends as *text*: characters, and the names of others; unknown sequences are no keys."""
    keys: list[str] = []
    while text:
        length = _length(text)
        sequence, text = text[:length], text[length:]
        key = SEQUENCES.get(sequence, sequence)
        if len(key) > 1 and key not in SEQUENCES.values():
            continue
        keys.append(key)
    return keys


def _length(text: str) -> int:
    """Of the first key: an escape sequence ends with a letter or ``~``."""
    if text[:2] == "\x1bO":
        return 3
    if text[:2] != "\x1b[":
        return 1
    for index, character in enumerate(text[2:], 3):
        if character.isalpha() or character == "~":
            return index
    return len(text)


class Terminal:
    """The screen of *console* and the keyboard, until this context ends; *tell* gets each key, STOP and REDRAW."""

    def __init__(self, console: Console, tell: Callable[[str], None]) -> None:
        self._console = console
        self._tell = tell
        self._input = sys.stdin.fileno()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._saved: list[Any] = []
        self._live: Live | None = None

    def __enter__(self) -> "Terminal":
        loop = asyncio.get_running_loop()
        self._saved = termios.tcgetattr(self._input)
        self._begin()
        loop.add_reader(self._input, self._read)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._tell, STOP)
        loop.add_signal_handler(signal.SIGWINCH, self._resize)
        loop.add_signal_handler(signal.SIGTSTP, self._suspend)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._input)
        self._end()

    def draw(self, content: RenderableType) -> None:
        """Fill the screen with *content*."""
        assert self._live is not None
        self._live.update(content, refresh=True)

    def _begin(self) -> None:
        tty.setcbreak(self._input, termios.TCSADRAIN)  # what was typed ahead counts
        self._fit()
        self._live = Live(
            console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._live.start()

    def _end(self) -> None:
        try:
            if self._live is not None:
                self._live.stop()
        finally:
            termios.tcsetattr(self._input, termios.TCSADRAIN, self._saved)

    def _read(self) -> None:
        try:
            data = os.read(self._input, 1000)
        except OSError:
            data = b""
        if not data:
            self._tell(STOP)  # the terminal is gone
        for key in read_keys(self._decoder.decode(data)):
            self._tell(key)

    def _fit(self) -> None:
        """Take the terminal's size, whatever COLUMNS and LINES said when we began."""
        width, height = os.get_terminal_size(sys.stdout.fileno())
        self._console.size = (max(width, 1), max(height, 1))  # pyright: ignore[reportAttributeAccessIssue]

    def _resize(self) -> None:
        self._fit()
        self._tell(REDRAW)

    def _suspend(self) -> None:
        """Ctrl-Z: leave the terminal as it was, and come back when the shell says so."""
        self._end()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._begin()
        self._tell(REDRAW)
