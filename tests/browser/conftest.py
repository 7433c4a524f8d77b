"""A real browser before a real server. Needs Debian's chromium, and `uv run --group browser`."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from serving import served_in_a_thread

PROGRAM = shutil.which("chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]  # fmt: skip

FILL = """
INSERT INTO taskflow.workers (name, host, pid, version, priorities, concurrency)
VALUES ('a-worker-whose-name-is-as-long-as-those-of-pods-are-7d9f8b6c5-x2x9q', 'node-3', 1, '0', '{high,normal}', 10);
INSERT INTO taskflow.tasks (name, type, payload, status, attempt, worker_id, started_at, finished_at, updated_at, error)
SELECT CASE WHEN number % 9 = 0 THEN repeat('a long name ', 10) ELSE 'order ' || number END, 'send_email',
       '{"to": "ada@example.com"}', 'failed', 5, 1, now(), now(), now() - number * interval '1 s',
       'E: ' || CASE number % 2 WHEN 0 THEN 'order ' || number ELSE 'x' END || repeat(E'\\n  in a line', 10000)
FROM generate_series(1, 20) AS number;
INSERT INTO taskflow.tasks (name, type, payload, status, attempt, worker_id, started_at)
SELECT 'runs', 'anything', '{}', 'running', 1, 1, now() FROM generate_series(1, 3);
SELECT taskflow.enqueue('anything', scheduled_at => now() + interval '1 h') FROM generate_series(1, 60);
SELECT taskflow.enqueue_group('[{"type": "anything"}]', '{"type": "anything", "name": "the end"}', 'a group');
"""


@pytest.fixture
def filled(own_database: str) -> str:
    """The DSN of a database that gives each screen something to show."""
    with psycopg.connect(own_database, autocommit=True) as conn:
        conn.execute(FILL)
    return own_database


@pytest.fixture
def address(filled: str) -> Iterator[str]:
    """The dashboard over that database."""
    with served_in_a_thread(filled) as url:
        yield f"{url}/dashboard"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, without a window."""
    if PROGRAM is None:
        pytest.skip("there is no chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """``open_page(width=1400, color_scheme="light", …)``: a page of a browser of its own.

    What goes wrong in one fails the test.
    """
    contexts: list[Any] = []
    wrong: list[str] = []

    def open_page(width: int = 1400, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [text for text in wrong if not text.startswith("Failed to load resource")] == [], (
        "a page that is refused is told so"
    )
