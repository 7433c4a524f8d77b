"""The original's two sample task types: they only pretend to work, and one of them fails now and then."""

import asyncio
import random
from collections.abc import Callable
from typing import Annotated, Final

from msgspec import Meta

from taskflow.registry import task

Texts = Annotated[dict[str, str], Meta(min_length=1)]
"""A non-empty object of string values."""

SECONDS: Final = 3
FAILING_PERCENT: Final = 20


class QueryFailed(Exception):
    """The pretended query failed; the queue will try it again."""


@task("send_email")
async def send_email(payload: Texts) -> None:
    """Pretend to send an e-mail: takes three seconds and succeeds."""
    await asyncio.sleep(SECONDS)


@task("run_query")
async def run_query(payload: Texts) -> None:
    """Pretend to run a query: takes three seconds and fails for one in five."""
    await asyncio.sleep(SECONDS)
    decide(random.randrange)


def decide(draw: Callable[[int], int]) -> None:
    """Raise QueryFailed for a *draw* from 0 to 99 below 20, so that exactly a fifth of all fail."""
    if draw(100) < FAILING_PERCENT:
        raise QueryFailed(f"the query failed, as {FAILING_PERCENT} % of them do")
