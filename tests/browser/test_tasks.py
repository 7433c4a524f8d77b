"""The screens of tasks in a real browser: readable everywhere, alive, and each action done."""

from collections.abc import Callable
from time import monotonic
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page
from serving import make_token

from taskflow.scopes import Scope

OpenPage = Callable[..., Page]

PATHS = (
    "/tasks",
    "/tasks?status=failed&name=order&tenant=",
    "/tasks?name=nothing",
    "/tasks/1",
    "/tasks/85",
    "/tasks/actions?action=cancel",
    "/failures",
    "/enqueue?type=print_letter",
    "/enqueue?type=send_email",
)


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_each_screen_fits_and_can_be_read_by_everybody(address: str, open_page: OpenPage, width: int, scheme: str):
    page = open_page(width, color_scheme=scheme)
    for path in PATHS:
        page.goto(address + path)
        page.wait_for_function("document.querySelector('time') === null || document.querySelector('time').title")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        violations = [
            f"{violation['id']}: {node['html']}"
            for violation in Axe().run(page).response["violations"]
            if violation["impact"] in {"serious", "critical"}
            for node in violation["nodes"]
        ]
        assert violations == [], path


def test_a_list_shows_a_new_task_within_a_second(address: str, open_page: OpenPage):
    page = open_page()
    page.goto(address + "/tasks")
    page.get_by_text("live", exact=True).wait_for()
    page.wait_for_timeout(1_000)  # until the server listens
    began = monotonic()
    root = "{0.scheme}://{0.netloc}".format(urlsplit(address))
    httpx.post(f"{root}/tasks", json={"name": "just came", "type": "anything", "payload": {}}).raise_for_status()
    page.get_by_text("just came").wait_for()
    assert monotonic() - began < 4, "a second, and three for a busy machine"


def test_what_is_asked_in_a_dialog_is_done(address: str, filled: str, open_page: OpenPage):
    page = open_page()
    page.goto(address + "/failures")
    page.get_by_role("link", name="Retry all").first.click()
    page.get_by_role("dialog").get_by_role("link", name="Not now").click()
    assert page.get_by_role("dialog").count() == 0
    page.get_by_role("link", name="Retry all").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Retry 10").click()
    page.get_by_text("10 tasks queued again.").wait_for()
    page.goto(address + "/tasks?status=failed")
    page.get_by_role("link", name="Delete…").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete 10").click()
    page.get_by_text("10 tasks deleted.").wait_for()
    page.goto(address + "/tasks?type=anything")
    page.get_by_role("link", name="Cancel…").click()
    page.get_by_role("dialog").get_by_label("Reason").fill("too many")
    page.get_by_role("dialog").get_by_role("button").click()
    page.get_by_text("65 tasks cancelled.").wait_for()
    with psycopg.connect(filled) as conn:
        counts = conn.execute("SELECT status::text, count(*) FROM taskflow.tasks GROUP BY 1 ORDER BY 1").fetchall()
    assert counts == [("cancelled", 65), ("queued", 10)]


def test_a_task_is_changed_and_another_enqueued(address: str, open_page: OpenPage):
    page = open_page()
    page.goto(address + "/tasks/1")
    page.get_by_text("10,000 more lines").click()
    assert page.get_by_text("in a line").first.is_visible()
    page.get_by_role("button", name="Retry").click()
    page.get_by_text("Task 1 is queued again.").wait_for()
    page.goto(address + "/tasks/30")
    page.get_by_role("button", name="Run now").click()
    page.get_by_text("Task 30 is due now.").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    page.get_by_text("Task 30 is cancelled.").wait_for()
    page.goto(address + "/enqueue")
    page.get_by_label("Task type").select_option("print_letter")
    page.wait_for_url("**type=print_letter")
    page.get_by_role("button", name="Enqueue").click()
    page.get_by_text("missing required field").wait_for()
    page.get_by_label("to", exact=True).fill("Ada")
    page.get_by_role("button", name="Enqueue").click()
    page.get_by_text("is enqueued.").wait_for()


def test_who_may_only_look_sees_no_actions(address: str, filled: str, open_page: OpenPage):
    token = make_token(filled, Scope.READ)
    page = open_page()
    page.goto(address + "/tasks/1")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
    page.get_by_text("10,000 more lines").wait_for()
    assert page.get_by_role("button", name="Retry").count() == 0
    page.goto(address + "/failures")
    assert page.get_by_role("link", name="Retry all").count() == 0
    page.goto(address + "/enqueue")
    assert "Forbidden" in page.title()
