"""The pictures of docs/dashboard.md, taken anew of `taskflow demo`: just screenshots."""

import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
from browser.conftest import ARGUMENTS, PROGRAM
from commands import api, free_port, started, until
from playwright.sync_api import Browser, Page, sync_playwright

WIDE: Final[Any] = {"width": 1400, "height": 900}
NARROW: Final[Any] = {"width": 400, "height": 860}

FULL: Final = ("overview-narrow", "task")
"""Pictures of a whole page, however high."""

SCREENS: Final = ("tasks", "failures", "workers", "schedules", "system", "enqueue")


@contextmanager
def demo() -> Generator[httpx.Client]:
    """The demo at work, and the API beside its dashboard: when its samples have ended, and long reports still run."""
    with TemporaryDirectory() as home:
        port = free_port()
        with started(Path(home), "taskflow", "demo", SERVER_PORT=str(port)) as process, api(port) as client:
            process.await_said("Everything stays up until Ctrl-C")
            for last in ("orders of Lisbon", "archive the reports"):
                until(lambda name=last: find(client, name)["status"] == "succeeded", lambda: process.said)
            try:
                yield client
            finally:
                process.end(signal.SIGINT)


def find(client: httpx.Client, name: str) -> dict[str, Any]:
    """The newest task of the demo with this name."""
    return client.get("/tasks", params={"name": name}).raise_for_status().json()["tasks"][0]


def pictures(client: httpx.Client) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, path and options of each."""
    task, group = find(client, "orders of Lisbon")["id"], find(client, "report for Grace")["id"]
    return [
        ("overview", "", {"viewport": WIDE}),
        ("overview-dark", "", {"viewport": WIDE, "color_scheme": "dark"}),
        ("overview-narrow", "", {"viewport": NARROW}),
        *((name, f"/{name}", {"viewport": WIDE}) for name in SCREENS),
        ("task", f"/tasks/{task}", {"viewport": WIDE}),
        ("group", f"/tasks/{group}", {"viewport": WIDE}),
    ]


def main(into: Path) -> None:
    """Every screen, as somebody sees it who may do everything."""
    into.mkdir(parents=True, exist_ok=True)
    with demo() as client, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=ARGUMENTS)
        for name, path, options in pictures(client):
            page = opened(browser, f"{client.base_url}/dashboard{path}", options)
            page.screenshot(path=into / f"{name}.png", full_page=name in FULL)
            page.close()
        page = opened(browser, f"{client.base_url}/dashboard/tasks?status=failed", {"viewport": WIDE})
        page.get_by_role("link", name="Retry…").click()
        page.get_by_role("dialog").wait_for()
        page.screenshot(path=into / "bulk.png")
        browser.close()


def opened(browser: Browser, address: str, options: dict[str, Any]) -> Page:
    """A page that lives, with its times in the browser's zone."""
    page = browser.new_page(**options)
    page.goto(address)
    page.wait_for_function("document.querySelector('time')?.title.includes(' · ') ?? true")
    if page.locator("[data-live]").count():
        page.locator("#live").get_by_text("live", exact=True).wait_for()
    return page


if __name__ == "__main__":
    main(Path(sys.argv[1]))
