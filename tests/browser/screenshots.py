"""The pictures of docs/dashboard.md, taken anew of a shop on an ordinary day: just screenshots."""

import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
from browser.conftest import ARGUMENTS, PROGRAM
from playwright.sync_api import Browser, sync_playwright
from serving import served_in_a_thread

from taskflow import tokens
from taskflow.database import connect
from taskflow.embedded import private_server
from taskflow.migrate import migrate
from taskflow.scopes import Scope

FILL = """
INSERT INTO taskflow.workers (name, host, pid, version, priorities, concurrency, started_at)
SELECT name, 'node-' || number, 4000 + number, '0.1.0', priorities::taskflow.priority[], 20,
       now() - interval '5 hours' * number
FROM (VALUES (1, 'shop-high', '{high}'), (2, 'shop-normal', '{high,normal}'), (3, 'shop-low', '{low}'))
     AS given (number, name, priorities);

INSERT INTO taskflow.tasks (name, type, payload, priority, status, attempt, worker_id, created_at, scheduled_at,
                            updated_at, started_at, finished_at, error, result)
SELECT initcap(replace(type, '_', ' ')) || ' ' || number, type, jsonb_build_object('order', 7000 + number),
       (ARRAY['high', 'normal', 'low'])[1 + number % 3]::taskflow.priority, status::taskflow.status,
       (status <> 'queued')::integer, CASE WHEN status <> 'queued' THEN 1 + number % 3 END,
       at - interval '4 s', at - interval '4 s', at, CASE WHEN status <> 'queued' THEN at - interval '2 s' END,
       CASE WHEN status IN ('succeeded', 'failed') THEN at END,
       CASE WHEN status = 'failed' THEN 'TimeoutError: the mail server did not answer within 15 s' || E'\\n'
            || 'Traceback (most recent call last):' || E'\\n  File "shop.py", line 12, in send_invoice' END,
       CASE WHEN status = 'succeeded' THEN '{"pages": 2}'::jsonb END
FROM (SELECT number, now() - interval '9 s' * number AS at,
             (ARRAY['send_invoice', 'resize_image', 'sync_stock', 'send_email'])[1 + number % 4] AS type,
             CASE WHEN number <= 30 THEN 'queued' WHEN number <= 42 THEN 'running'
                  WHEN number % 4 = 0 AND number % 3 = 0 THEN 'failed' ELSE 'succeeded' END AS status
      FROM generate_series(1, 400) AS number) AS given;

INSERT INTO taskflow.minutes (at, priority, succeeded, retried, failed)
SELECT date_trunc('minute', now()) - interval '1 minute' * ago, priority,
       round(share * (420 + 260 * sin(ago / 90.0) + 90 * sin(ago / 3.0 + share))),
       round(share * (12 + 11 * sin(ago / 5.0))),
       CASE WHEN priority <> 'high' AND ago BETWEEN 20 AND 31 THEN 30 ELSE ago % 3 END
FROM generate_series(0, 1439) AS ago,
     (VALUES ('high'::taskflow.priority, 0.2), ('normal', 0.5), ('low', 0.3)) AS kind (priority, share);

INSERT INTO taskflow.depths (at, priority, waiting, oldest_seconds)
SELECT date_trunc('minute', now()) - interval '1 minute' * ago, priority, round(weight * (12 + 10 * sin(ago / 4.0))), 3
FROM generate_series(0, 1439) AS ago,
     (VALUES ('high'::taskflow.priority, 1), ('normal', 3), ('low', 9)) AS kind (priority, weight);

INSERT INTO taskflow.schedules (name, rule, type, next_tick, last_tick)
VALUES ('nightly stock', '30 2 * * *', 'sync_stock', now() + interval '9 hours', now() - interval '15 hours'),
       ('newsletter', '0 9 * * 1', 'send_email', now() + interval '3 days', now() - interval '4 days');

SELECT taskflow.pause('low', 'the warehouse counts its stock');
"""

WIDE: Any = {"width": 1400, "height": 900}
NARROW: Any = {"width": 400, "height": 800}

PICTURES: list[tuple[str, str, dict[str, Any]]] = [
    ("overview", "/", {"viewport": WIDE}),
    ("overview-dark", "/", {"viewport": WIDE, "color_scheme": "dark"}),
    ("overview-narrow", "/", {"viewport": NARROW}),
    *(
        (name, f"/{name}", {"viewport": WIDE})
        for name in ("tasks", "failures", "workers", "schedules", "system", "enqueue")
    ),
    ("task", "/tasks/60", {"viewport": WIDE}),
]


def main(into: Path) -> None:
    """Every screen, as somebody sees it who may do everything."""
    into.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch, private_server(Path(scratch)) as dsn:
        migrate(dsn)
        token = asyncio.run(make_token(dsn))
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(FILL)
        with served_in_a_thread(dsn) as url, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=PROGRAM, args=ARGUMENTS)
            for name, path, options in PICTURES:
                take(browser, f"{url}/dashboard{path}", token, into / f"{name}.png", options)
            browser.close()


async def make_token(dsn: str) -> str:
    """One whose name is fit to be seen."""
    async with await connect(dsn, "screenshots") as conn:
        return await tokens.create(conn, "ada", [Scope.READ, Scope.OPERATE, Scope.ENQUEUE], None)


def take(browser: Browser, address: str, token: str, path: Path, options: dict[str, Any]) -> None:
    """One picture, after logging in."""
    page = browser.new_page(**options)
    page.goto(address)
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
    page.get_by_text("Logged in with").wait_for()
    page.goto(address)
    page.wait_for_function("document.querySelector('time') === null || document.querySelector('time').title")
    page.screenshot(path=path, full_page=path.stem == "overview-narrow")
    page.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
