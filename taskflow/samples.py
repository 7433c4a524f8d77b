"""Sample task types that only pretend to work: the original's two, and three that show what else there is."""

import asyncio
import random
from collections.abc import Callable
from datetime import date
from typing import Annotated, Final, Literal

import structlog
from msgspec import Meta, Struct

from taskflow.context import Context
from taskflow.errors import Fail
from taskflow.registry import task

log = structlog.get_logger(__name__)

Texts = Annotated[dict[str, str], Meta(min_length=1)]
"""A non-empty object of string values."""

SECONDS: Final = 3
FAILING_PERCENT: Final = 20
PAGE_SECONDS: Final = 0.1


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


class Report(Struct, frozen=True, kw_only=True):
    """What shall be in a report."""

    customer: Annotated[str, Meta(min_length=1, description="who gets it")]
    format: Annotated[Literal["pdf", "html", "csv"], Meta(description="csv cannot be written, and fails")] = "pdf"
    pages: Annotated[int, Meta(ge=1, le=1000, description="each takes a tenth of a second")] = 10
    month: date | None = None
    draft: bool = False
    recipients: list[str] = []


class ReportFailed(Exception):
    """The pretended report could not be written."""


@task("make_report", max_attempts=3, timeout=120, keep_logs=20)
async def make_report(report: Report, context: Context) -> dict[str, object]:
    """Pretend to write a report, page by page."""
    for page in range(1, report.pages + 1):
        await write_page(report, page)
        log.info("page.written", page=page)
        context.progress(page / report.pages, f"page {page} of {report.pages}")
    return {"file": f"{report.customer}.{report.format}", "pages": report.pages}


async def write_page(report: Report, page: int) -> None:
    """Take a tenth of a second; raise ReportFailed for the last page of a csv."""
    await asyncio.sleep(PAGE_SECONDS)
    if report.format == "csv" and page == report.pages:
        raise ReportFailed(f"page {page} cannot be written as csv")


class Import(Struct, frozen=True, kw_only=True):
    """Which orders shall be fetched."""

    shop: Annotated[str, Meta(min_length=1, description="whose orders")]
    orders: Annotated[int, Meta(ge=1, le=1000, description="each takes a tenth of a second")] = 12
    is_closed: Annotated[bool, Meta(description="nothing comes from a closed shop, however often it is asked")] = False


class ShopAway(Exception):
    """The pretended shop did not answer in time."""


@task("import_orders", max_attempts=3, keep_logs=20)
async def import_orders(wanted: Import, context: Context) -> dict[str, object]:
    """Pretend to fetch orders: the first two attempts break off, and the next ones go on where they did."""
    if wanted.is_closed:
        raise Fail("this shop is closed for good")
    done = (context.checkpoint or {}).get("done", 0)
    breaks_at = wanted.orders * context.task.attempt // 3 if context.task.attempt < 3 else wanted.orders
    for order in range(done + 1, breaks_at + 1):
        await asyncio.sleep(PAGE_SECONDS)
        log.info("order.fetched", order=order, shop=wanted.shop)
        context.progress(order / wanted.orders, f"order {order} of {wanted.orders}")
        context.save({"done": order})
    if breaks_at < wanted.orders:
        await ask_in_vain(wanted.shop)
    return {"orders": wanted.orders}


async def ask_in_vain(shop: str) -> None:
    """Raise ShopAway, because of a TimeoutError."""
    log.warning("shop.slow", shop=shop)
    try:
        async with asyncio.timeout(PAGE_SECONDS):
            await asyncio.Event().wait()
    except TimeoutError as error:
        raise ShopAway(f"the shop of {shop} did not answer within {PAGE_SECONDS:g} s") from error


@task("send_newsletter")
async def send_newsletter(payload: Texts) -> None:
    """Pretend to send a newsletter: takes three seconds and succeeds."""
    await asyncio.sleep(SECONDS)
