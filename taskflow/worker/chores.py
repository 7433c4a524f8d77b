"""Chores: what a worker does now and then, for itself and for all, over one connection that it keeps."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from taskflow.database import TROUBLE, Connection
from taskflow.worker.link import Link


class Chore(Struct, frozen=True):
    """*step* is called every *seconds*, or sooner if it answers in how many seconds it has to be.

    It has to be short: the other chores wait for it.
    """

    seconds: float
    step: Callable[[Connection], Awaitable[float | None]]


async def do_chores(link: Link, chores: Sequence[Chore], stop: asyncio.Event) -> None:
    """Call each chore when it is time, until *stop*; while Postgres is away, or refuses one, they wait."""
    due = [0.0] * len(chores)
    while not stop.is_set():
        next_at = min(due)
        try:
            await asyncio.wait_for(stop.wait(), max(next_at - time.monotonic(), 0.0))
            return
        except TimeoutError:
            pass
        position = due.index(next_at)
        chore = chores[position]
        conn = await link.get()
        try:
            sooner = await chore.step(conn)
        except TROUBLE as error:
            await link.lost(error)
            due[position] = time.monotonic()  # the others first, for it may be this chore alone that fails
            continue
        link.works()
        due[position] = time.monotonic() + (chore.seconds if sooner is None else min(chore.seconds, sooner))
