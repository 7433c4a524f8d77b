"""The task types of the benchmarks; their workers load this module with --app."""

import asyncio
import os
import time
from functools import cache
from typing import Final

from taskflow.registry import task

STARTS: Final = "TASKFLOW_BENCH_STARTS"
"""The variable that names the file to which ``note_start`` writes."""


@task("noop")
async def noop(payload: dict[str, int]) -> None:
    """Do nothing."""


@task("answer")
async def answer(payload: dict[str, int]) -> int:
    """Have a result."""
    return payload["i"]


@task("limited")
@task("limited_by_key")
@task("rated")
async def limited(payload: dict[str, int]) -> None:
    """Do nothing; ``taskflow bench features`` limits these types."""


@task("note_start")
async def note_start(payload: dict[str, int]) -> None:
    """Write the task's number and the time of its start (CLOCK_MONOTONIC, ns)."""
    now = time.monotonic_ns()
    os.write(_starts(), b"%d %d\n" % (payload["i"], now))


@task("block", timeout=3600)
async def block() -> None:
    """Keep a slot until the worker stops."""
    await asyncio.sleep(3600)


@cache
def _starts() -> int:
    return os.open(os.environ[STARTS], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
