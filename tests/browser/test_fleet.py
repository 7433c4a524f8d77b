"""The screens Workers, Schedules and System in a real browser: readable everywhere, alive, and each action done."""

from collections.abc import Callable

import psycopg
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page
from serving import make_token

from taskflow.scopes import Scope

OpenPage = Callable[..., Page]

SCREENS = ("/workers", "/schedules", "/system")

SCHEDULES = """
INSERT INTO taskflow.schedules (name, rule, time_zone, type, payload, next_tick, paused_at, pause_reason)
VALUES ('daily report', '0 7 * * 1-5', 'Europe/Berlin', 'anything', '{}', now() + interval '9 h', NULL, NULL),
       (repeat('a-long-name', 11), 'every 30s', 'UTC', 'anything', '{}', now(), now(), repeat('a reason ', 50))
"""


@pytest.fixture
def with_schedules(filled: str) -> str:
    """The DSN of a database with schedules as well."""
    with psycopg.connect(filled, autocommit=True) as conn:
        conn.execute(SCHEDULES)
    return filled


@pytest.mark.usefixtures("with_schedules")
@pytest.mark.parametrize(("width", "scheme"), [(1400, "dark"), (400, "light")])
def test_each_screen_fits_and_can_be_read_by_everybody(address: str, open_page: OpenPage, width: int, scheme: str):
    page = open_page(width, color_scheme=scheme)
    for path in SCREENS:
        page.goto(address + path)
        for details in page.locator("details").all():
            details.evaluate("element => element.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        violations = [
            f"{violation['id']}: {node['html']}"
            for violation in Axe().run(page).response["violations"]
            for node in violation["nodes"]
        ]
        assert violations == [], path


def test_workers_are_drained_and_rescued(address: str, filled: str, open_page: OpenPage):
    page = open_page()
    page.goto(address + "/workers")
    page.get_by_text("Runs 3 tasks").click()
    page.get_by_role("link", name="21", exact=True).wait_for()
    page.get_by_role("link", name="Drain").click()
    page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    page.get_by_text("claims nothing more").wait_for()
    page.get_by_text("draining", exact=True).wait_for()
    page.get_by_role("link", name="Rescue").click()
    page.get_by_role("dialog").get_by_role("link", name="Not now").click()
    page.get_by_role("link", name="Rescue").click()
    page.get_by_role("dialog").get_by_role("button", name="Rescue").click()
    page.get_by_text("counts as gone; 3 tasks put back.").wait_for()
    page.get_by_text("No worker runs").wait_for()
    with psycopg.connect(filled, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO taskflow.workers (name, host, pid, version, priorities, concurrency)"
            " VALUES ('just came', 'h', 0, '0', '{low}', 1)"
        )
    page.get_by_role("heading", name="just came").wait_for()


def test_schedules_are_run_paused_and_resumed(address: str, with_schedules: str, open_page: OpenPage):
    page = open_page()
    page.goto(address + "/schedules")
    schedule = page.locator("article", has_text="daily report")
    schedule.get_by_text("At 07:00 on Monday through Friday").wait_for()
    schedule.get_by_role("button", name="Run now").click()
    page.get_by_role("dialog").get_by_role("button", name="Run now").click()
    page.get_by_text("of schedule daily report is queued.").wait_for()
    schedule.get_by_text("Pause …").click()
    schedule.get_by_label("Reason").fill("a <b>holiday</b>")
    schedule.get_by_role("button", name="Pause").click()
    page.get_by_text("Schedule daily report is paused.").wait_for()
    schedule.get_by_text("a <b>holiday</b>").wait_for()
    schedule.get_by_role("button", name="Resume").click()
    page.get_by_text("goes on with its next tick.").wait_for()
    with psycopg.connect(with_schedules) as conn:
        assert conn.execute("SELECT count(*) FROM taskflow.tasks WHERE name = 'daily report'").fetchone() == (1,)


def test_who_may_only_look_sees_no_actions(address: str, with_schedules: str, open_page: OpenPage):
    token = make_token(with_schedules, Scope.READ)
    page = open_page()
    page.goto(address + "/workers")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
    page.get_by_text("Runs 3 tasks").wait_for()
    for path in SCREENS:
        page.goto(address + path)
        assert [button.inner_text() for button in page.get_by_role("button").all() if button.is_visible()] in (
            ["Log out", "☾"],
            ["Log out", "☀"],
        )
