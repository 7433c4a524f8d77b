"""The processes of isolated handlers, as their worker sees them: started when needed, used again, killed to stop."""

import asyncio
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Self

import msgspec
import structlog
from msgspec import Struct

from taskflow.context import Context
from taskflow.errors import HandlerDied
from taskflow.model import Line
from taskflow.process import kill_started_by
from taskflow.worker.attempt import Attempt, IsolatedFailure
from taskflow.worker.wire import LENGTH, Broken, Ended, Job, Message, Ready, Said, Told, pack, read_message

log = structlog.get_logger(__name__)

RENEWED_AFTER: Final = 100
"""Attempts; then the process makes place for a new one, for handlers that are isolated may well leak."""

START_SECONDS: Final = 60.0
"""In which a process has to be ready; loading the app is most of it."""

Hear = Callable[[Line], None]


class Isolation(Struct, frozen=True):
    """How many processes there are at most, and what they load: the app's modules; the least level that they log."""

    processes: int
    apps: tuple[str, ...]
    log_level: str


class Process:
    """One process. It runs an attempt at a time; whoever gives one up kills it."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.runs = 0
        self._process = process
        self._reader = reader
        self._writer = writer
        self._watch = asyncio.create_task(self._end_stream())

    @classmethod
    async def start(cls, isolation: Isolation) -> Self:
        """One that is ready; raises HandlerDied if it cannot load the app, or takes longer than START_SECONDS."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                made = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "taskflow.worker.isolated"),
                    *(str(theirs.fileno()), str(os.getpid()), isolation.log_level, *isolation.apps),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # the terminal's Ctrl-C reaches the worker alone, and a kill all it started
                )
                process = cls(made, *await asyncio.open_connection(sock=ours))
            except BaseException:
                ours.close()  # it ends when nobody is there
                raise
        try:
            async with asyncio.timeout(START_SECONDS):
                said = await process.read()
        except TimeoutError as error:
            process.kill()
            raise HandlerDied(f"it was not ready within {START_SECONDS:g} s") from error
        except BaseException:
            process.kill()
            raise
        if isinstance(said, Broken):
            process.kill()
            raise HandlerDied(said.reason)
        assert isinstance(said, Ready)
        return process

    async def _end_stream(self) -> None:
        """When the process has ended, what it started may still hold its socket."""
        await self._process.wait()
        self._reader.feed_eof()

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return self._process.returncode is None

    async def run(self, job: Job, context: Context, hear: Hear | None) -> Ended:
        """Run one attempt; raises HandlerDied if the process ends before it."""
        self.runs += 1
        self._writer.write(pack(job))
        while True:
            match await self.read():
                case Told(note):
                    context.adopt(note)
                case Said(line):
                    if hear is not None:
                        hear(line)
                case Ended() as ended:
                    return ended
                case Ready() | Broken():
                    raise HandlerDied("it spoke out of turn")

    async def read(self) -> Message:
        """What the process says next; raises HandlerDied."""
        try:
            (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            return read_message(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise HandlerDied(_ending(await self._process.wait())) from error

    def kill(self) -> None:
        """End the process, and what it has started, at once."""
        self._writer.close()
        if self.is_alive:
            kill_started_by(self._process.pid)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _ending(status: int) -> str:
    if status >= 0:
        return f"it ended with status {status}"
    try:
        return f"it was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"it was ended by signal {-status}"


class Processes:
    """At most so many processes as *isolation* says; an attempt's time begins when it gets one."""

    def __init__(self, isolation: Isolation) -> None:
        self._isolation = isolation
        self._room = asyncio.Semaphore(isolation.processes)
        self._idle: list[Process] = []

    async def call(self, attempt: Attempt, context: Context, hear: Hear | None) -> Any:
        """Run the handler in a process: its result. Raises IsolatedFailure, or HandlerDied; cancelled, it kills it."""
        attempt.began = math.inf
        try:
            await self._room.acquire()
        except BaseException:
            attempt.began = time.monotonic()
            raise
        try:
            try:
                process = await self._get()
            finally:
                attempt.began = time.monotonic()
            try:
                ended = await process.run(Job(attempt.task, context.saved), context, hear)
            except BaseException:
                process.kill()
                raise
            self._put_back(process)
        finally:
            self._room.release()
        if (failure := ended.failure) is not None:
            raise IsolatedFailure(failure)
        return None if ended.result is None else msgspec.Raw(ended.result)

    async def _get(self) -> Process:
        while self._idle:
            process = self._idle.pop()
            if process.is_alive:
                return process
            process.kill()
        return await Process.start(self._isolation)

    def _put_back(self, process: Process) -> None:
        if process.runs < RENEWED_AFTER:
            self._idle.append(process)
        else:
            process.kill()

    def close(self) -> None:
        """End the processes that run nothing."""
        while self._idle:
            self._idle.pop().kill()
