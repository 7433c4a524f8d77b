"""The overview in a real browser: readable everywhere, alive, and of use without a script."""

from collections.abc import Callable
from time import monotonic

import psycopg
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

OpenPage = Callable[..., Page]


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_the_overview_fits_and_can_be_read_by_everybody(address: str, open_page: OpenPage, width: int, scheme: str):
    page = open_page(width, color_scheme=scheme)
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    violations = [
        f"{violation['id']}: {node['html']}"
        for violation in Axe().run(page).response["violations"]
        if violation["impact"] in {"serious", "critical"}
        for node in violation["nodes"]
    ]
    assert violations == []


def test_a_new_task_is_seen_on_the_overview_by_itself(address: str, filled: str, open_page: OpenPage):
    page = open_page()
    page.goto(address)
    page.get_by_text("live", exact=True).wait_for()
    with psycopg.connect(filled, autocommit=True) as conn:
        conn.execute("SELECT taskflow.enqueue('anything', priority => 'high') FROM generate_series(1, 1234)")
    page.locator("#queues").get_by_text("1,234").wait_for()


@pytest.mark.parametrize(
    ("screen", "change", "sight"),
    [
        ("/tasks", "SELECT taskflow.enqueue('anything', name => 'just came')", "just came"),
        ("/workers", "UPDATE taskflow.workers SET draining_at = now()", "draining"),
        ("/schedules", "INSERT INTO taskflow.schedules (name, rule, type, next_tick)"
         " VALUES ('just made', '@daily', 'anything', now())", "just made"),
        ("", "INSERT INTO taskflow.pauses (priority, reason) VALUES ('high', 'just so')", "just so"),
    ],
)  # fmt: skip
def test_what_nobody_tells_is_seen_within_a_second_as_well(
    address: str, filled: str, open_page: OpenPage, screen: str, change: str, sight: str
):
    page = open_page()
    page.goto(address + screen)
    page.locator("#live").get_by_text("live", exact=True).wait_for()
    page.wait_for_timeout(1_000)  # until the server looks
    began = monotonic()
    with psycopg.connect(filled, autocommit=True) as conn:
        conn.execute(change.encode())
    page.get_by_text(sight).first.wait_for()
    assert monotonic() - began < 2.5, "a second, and more for a busy machine"


def test_the_charts_are_drawn_without_a_script(address: str, filled: str, open_page: OpenPage):
    with psycopg.connect(filled, autocommit=True) as conn:
        conn.execute("INSERT INTO taskflow.minutes (at, succeeded) VALUES (date_trunc('minute', now()), 5)")
    page = open_page(java_script_enabled=False)
    page.goto(address)
    page.get_by_role("link", name="Last day").click()
    assert page.locator("#charts svg g").count() == 1
    assert page.get_by_text("20 tasks of type send_email failed in the last hour").is_visible()
