"""The dashboard's frame: who is let in, which forms are taken, and what pages carry."""

import re
from typing import Any

import httpx
import pytest
from serving import api, make_token, until

from taskflow import tokens
from taskflow.api import keyring
from taskflow.dashboard import pages
from taskflow.dashboard.assets import FILES
from taskflow.database import connect
from taskflow.scopes import Scope

HERE = {"Origin": "http://localhost"}


def cookies_of(answer: httpx.Response) -> dict[str, str]:
    """The cookies that *answer* sets; httpx keeps none of them, for they are for HTTPS."""
    pairs = (header.partition(";")[0].partition("=") for header in answer.headers.get_list("set-cookie"))
    return {name: value for name, _, value in pairs}


def carrying(cookies: dict[str, str]) -> dict[str, str]:
    """The header that brings *cookies* back."""
    return {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}


def csrf_in(answer: httpx.Response) -> str:
    """The hidden field of the forms on a page."""
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', answer.text)
    assert found
    return found[1]


async def log_in(client: httpx.AsyncClient, token: str, to: str = "/dashboard") -> dict[str, str]:
    """The header of a browser that has logged in with *token*."""
    form = await client.get("/dashboard/login")
    visitor = carrying(cookies_of(form))
    sent = {"csrf": csrf_in(form), "token": token, "to": to}
    answer = await client.post("/dashboard/login", data=sent, headers=visitor | HERE)
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"] == to
    return carrying({name: value for name, value in cookies_of(answer).items() if value})


async def test_the_root_leads_to_the_dashboard(dsn: str):
    async with api(dsn) as client:
        answer = await client.get("/")
        assert (answer.status_code, answer.headers["location"]) == (307, "/dashboard")
        assert "<h1>Overview</h1>" in (await client.get("/dashboard")).text


async def test_once_there_is_a_token_a_browser_has_to_log_in_and_comes_back_to_where_it_was(own_database: str):
    token = make_token(own_database, Scope.READ)
    async with api(own_database) as client:
        refused = await client.get("/dashboard?window=day")
        assert (refused.status_code, refused.headers["location"]) == (
            303, "/dashboard/login?to=%2Fdashboard%3Fwindow%3Dday",
        )  # fmt: skip
        browser = await log_in(client, token, "/dashboard?window=day")
        shown = await client.get("/dashboard?window=day", headers=browser)
        assert shown.status_code == 200
        assert "Logged in with the token" in shown.text
        assert (await client.get("/tasks", headers=browser)).status_code == 401, "the API takes no cookies"


async def test_a_session_ends_when_its_browser_logs_out_or_its_token_is_revoked(own_database: str):
    token = make_token(own_database, Scope.READ)
    async with api(own_database) as client:
        first, second = await log_in(client, token), await log_in(client, token)
        shown = await client.get("/dashboard", headers=first)
        out = await client.post("/dashboard/logout", data={"csrf": csrf_in(shown)}, headers=first | HERE)
        assert out.status_code == 303
        assert (await client.get("/dashboard", headers=first)).status_code == 303
        assert (await client.get("/dashboard", headers=second)).status_code == 200
        async with await connect(own_database, "test") as conn:
            (made,) = await tokens.list_all(conn)
            await tokens.revoke(conn, made.name)

        async def is_out() -> bool:
            return (await client.get("/dashboard", headers=second)).status_code == 303

        await until(is_out, patience=5)


async def test_a_session_that_began_on_another_server_is_known_at_once(
    own_database: str, monkeypatch: pytest.MonkeyPatch
):
    token = make_token(own_database, Scope.READ)
    monkeypatch.setattr(keyring, "SOON", 0.0)
    async with api(own_database) as one, api(own_database) as other:
        await other.get("/dashboard")
        assert (await other.get("/dashboard", headers=await log_in(one, token))).status_code == 200


@pytest.mark.parametrize("token", ["", "tf_1_" + "0" * 64, "nonsense", "\x00", "tf_1"])
async def test_a_wrong_token_is_told_and_begins_nothing(own_database: str, token: str):
    make_token(own_database, Scope.READ)
    async with api(own_database) as client:
        form = await client.get("/dashboard/login")
        headers = carrying(cookies_of(form)) | HERE
        answer = await client.post("/dashboard/login", data={"csrf": csrf_in(form), "token": token}, headers=headers)
        assert answer.status_code == 403
        assert "unknown, expired or revoked" in answer.text
        assert pages.COOKIE not in cookies_of(answer)


async def test_a_token_that_may_not_look_cannot_log_in(own_database: str):
    token = make_token(own_database, Scope.ENQUEUE)
    async with api(own_database) as client:
        form = await client.get("/dashboard/login")
        headers = carrying(cookies_of(form)) | HERE
        answer = await client.post("/dashboard/login", data={"csrf": csrf_in(form), "token": token}, headers=headers)
        assert answer.status_code == 403
        assert "lacks the scope read" in answer.text


@pytest.mark.parametrize("to", ["https://example.com/", "//example.com", "/tasks", "/dashboard\\..", "/dashboardx"])
def test_nobody_is_led_away_from_the_dashboard(to: str):
    assert pages.local(to) == "/dashboard"


@pytest.mark.parametrize(
    "changes",
    [
        {"Origin": "https://example.com"},
        {"Origin": "null"},
        {"Origin": "http://localhost:81"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Cookie": ""},
        {"Cookie": "__Host-taskflow=another"},
    ],
    ids=str,
)
async def test_a_form_from_elsewhere_is_refused(own_database: str, changes: dict[str, str]):
    token = make_token(own_database, Scope.READ)
    async with api(own_database) as client:
        form = await client.get("/dashboard/login")
        headers = carrying(cookies_of(form)) | HERE | changes
        sent = {"csrf": csrf_in(form), "token": token}
        answer = await client.post("/dashboard/login", data=sent, headers=headers)
        assert answer.status_code == 403
        assert "Log in" not in re.sub(r"<title>.*?</title>", "", answer.text)
        wrong = await client.post("/dashboard/login", data=sent | {"csrf": "0" * 64}, headers=headers | HERE)
        assert wrong.status_code == 403


async def test_pages_may_have_forms_and_tell_where_these_come_from_but_run_nothing_inline(dsn: str):
    async with api(dsn) as client:
        for path in ("/dashboard", "/dashboard/login", "/dashboard/nowhere"):
            answer = await client.get(path)
            policy = answer.headers["content-security-policy"]
            assert "form-action 'self'" in policy
            assert "unsafe" not in policy
            assert answer.headers["referrer-policy"] == "same-origin"
            assert answer.headers["cache-control"] == "no-store"
            assert not re.search(r"<script(?![^>]*src=)|\sstyle=|\son\w+=", answer.text)


async def test_files_are_kept_for_ever_under_an_address_that_changes_with_them(dsn: str):
    async with api(dsn) as client:
        page = (await client.get("/dashboard")).text
        total = len(page)
        for path in set(re.findall(r'(?:src|href)="(/dashboard/assets/[^"]+)"', page)):
            answer = await client.get(path)
            assert answer.status_code == 200
            assert "immutable" in answer.headers["cache-control"]
            assert answer.headers["content-type"].split(";")[0] in {"text/css", "text/javascript", "image/svg+xml"}
        assert (await client.get("/dashboard/assets/old/app.css")).headers["cache-control"] == "no-store"
        assert (await client.get("/dashboard/assets/old/pages.py")).status_code == 404
        assert total + sum(map(len, FILES.values())) < 100_000


async def test_what_is_not_there_is_told_as_a_page(dsn: str):
    async with api(dsn) as client:
        answer = await client.get("/dashboard/nowhere/at/all")
        assert answer.status_code == 404
        assert answer.headers["content-type"].startswith("text/html")
        assert "There is no such page." in answer.text


async def test_a_message_cannot_bring_markup(dsn: str):
    notice = pages._write_notice(pages.Notice("<script>alert(1)</script>", '"><b>'))  # pyright: ignore[reportPrivateUsage]
    async with api(dsn) as client:
        shown = (await client.get("/dashboard", headers=carrying({pages.NOTICE: notice}))).text
        assert "<script>alert" not in shown
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
        assert "<b>" not in shown
        for broken in ("=", "%%%", "YQ"):
            assert (await client.get("/dashboard", headers=carrying({pages.NOTICE: broken}))).status_code == 200


async def test_many_browsers_ask_the_database_no_more_often_than_one():
    asked = 0

    async def load() -> int:
        nonlocal asked
        asked += 1
        return asked

    snapshots = pages.Snapshots()
    answers: list[Any] = [await snapshots.get("overview", load) for _ in range(50)]
    assert asked < 5
    assert answers[0] == 1
