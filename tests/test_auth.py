"""Who is let in: nobody without a token once there is one, and with one only where its scope reaches."""

from datetime import timedelta
from typing import Any

import httpx
import pytest
from litestar import Litestar, get
from litestar.routes import HTTPRoute
from serving import api, client_of, is_problem, make_app, make_token, until, wire

from taskflow import tokens
from taskflow.api import keyring
from taskflow.api.auth import PUBLIC
from taskflow.database import Connection, connect
from taskflow.scopes import Scope

TASK: dict[str, object] = {"name": "a task", "type": "anything", "payload": {}}


@pytest.fixture
async def conn(own_database: str):
    """A connection to a database of this test's own: a token would shut the others out of the shared one."""
    async with await connect(own_database, "test") as conn:
        yield conn


@pytest.fixture
def no_keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server asks the database about tokens at each request."""
    monkeypatch.setattr(keyring, "FRESH", 0.0)


def bearing(token: str) -> dict[str, str]:
    """The header of a request with *token*."""
    return {"Authorization": f"Bearer {token}"}


async def statuses(client: httpx.AsyncClient, token: str) -> tuple[int, int, int]:
    """What *token* gets for enqueueing a task, for a look at none, and for the history of none."""
    headers = bearing(token)
    return (
        (await client.post("/tasks", json=TASK, headers=headers)).status_code,
        (await client.get("/tasks/0", headers=headers)).status_code,
        (await client.get("/tasks/0/history", headers=headers)).status_code,
    )


# --- what routes declare ---


def declared(app: Litestar) -> dict[tuple[str, str], object]:
    """Path and method of each route, with the scope that it declares."""
    return {
        (route.path, method): handler.opt.get("scope")
        for route in app.routes
        for handler in (route.route_handlers if isinstance(route, HTTPRoute) else [route.route_handler])
        for method in sorted(getattr(handler, "http_methods", {"any"}))
    }


def test_every_route_declares_a_scope_or_that_it_is_public(dsn: str):
    scopes = declared(make_app(dsn))
    assert len(scopes) > 10
    assert {route for route, scope in scopes.items() if not (isinstance(scope, Scope) or scope is PUBLIC)} == set()


def test_public_is_what_tells_nothing_of_the_tasks(dsn: str):
    public = {path for (path, method), scope in declared(make_app(dsn)).items() if scope is PUBLIC if method == "GET"}
    assert public == {
        *("/readiness", "/liveness", "/schema", "/schema/openapi.json", "/schema/assets/{file_path:path}", "/"),
        *("/dashboard/login", "/dashboard/assets/{version:str}/{name:str}", "/dashboard/{path:path}"),
    }


async def test_nobody_is_let_through_to_a_route_that_declares_nothing(own_database: str):
    @get("/forgotten")
    async def forgotten() -> str:
        return "a secret"

    app = make_app(own_database)
    app.register(forgotten)
    async with client_of(app) as client:
        assert is_problem(await client.get("/forgotten"), 403)
    admin = make_token(own_database, Scope.ADMIN)
    async with client_of(app) as client:
        assert is_problem(await client.get("/forgotten", headers=bearing(admin)), 403)


# --- with and without tokens ---


async def test_without_any_token_a_server_on_loopback_answers_everyone_here(own_database: str):
    async with api(own_database) as client:
        assert (await client.post("/tasks", json=TASK)).status_code == 200


@pytest.mark.parametrize("settings", [{}, {"server_host": "::", "allow_anonymous": True}])
async def test_as_soon_as_there_is_a_token_requests_need_one(own_database: str, settings: dict[str, Any]):
    async with api(own_database, **settings) as client:
        assert (await client.post("/tasks", json=TASK)).status_code == 200
        token = make_token(own_database, Scope.ENQUEUE)

        async def is_shut() -> bool:
            return is_problem(await client.post("/tasks", json=TASK), 401)

        await until(is_shut, patience=5)
        assert (await client.post("/tasks", json=TASK, headers=bearing(token))).status_code == 200


async def test_a_server_for_others_lets_nobody_in_without_a_token_even_if_there_is_none(own_database: str):
    async with api(own_database, server_host="::") as client:
        assert is_problem(await client.post("/tasks", json=TASK), 401)


async def test_public_routes_need_no_token(own_database: str):
    make_token(own_database, Scope.READ)
    async with api(own_database) as client:
        for path in ["/readiness", "/liveness", "/schema", "/schema/openapi.json", "/schema/assets/schema.js"]:
            assert (await client.get(path)).status_code == 200, path
        assert (await client.options("/tasks")).status_code == 204


async def test_of_two_authorizations_none_counts(own_database: str):
    good = ("Authorization", f"Bearer {make_token(own_database, Scope.READ)}")
    other = ("Authorization", "Bearer of something else")
    async with api(own_database) as client:
        for headers in ([good, other], [other, good], [good, good]):
            assert is_problem(await client.get("/tasks", headers=headers), 401)
        assert (await client.get("/tasks", headers=[good])).status_code == 200


@pytest.mark.parametrize(
    "host", ["tasks.example.com", "tasks.example.com:8086", "localhost.example.com", "8.8.8.8", ""]
)
async def test_a_web_page_whose_name_leads_to_loopback_is_not_let_in_without_a_token(own_database: str, host: str):
    async with api(own_database) as client:
        assert is_problem(await client.post("/tasks", json=TASK, headers={"Host": host}), 401)
    token = make_token(own_database, Scope.ENQUEUE)
    async with api(own_database) as client:
        answer = await client.post("/tasks", json=TASK, headers={"Host": host, **bearing(token)})
        assert answer.status_code == 200


@pytest.mark.parametrize("host", ["localhost", "localhost:8086", "127.0.0.1:1", "127.0.0.2", "[::1]", "[::1]:8086"])
async def test_this_machine_has_many_names(own_database: str, host: str):
    async with api(own_database) as client:
        assert (await client.post("/tasks", json=TASK, headers={"Host": host})).status_code == 200


# --- scopes ---


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [
        ([Scope.READ], (403, 404, 404)),
        ([Scope.ENQUEUE], (200, 403, 403)),
        ([Scope.OPERATE], (403, 403, 403)),
        ([Scope.READ, Scope.ENQUEUE], (200, 404, 404)),
        ([Scope.ADMIN], (200, 404, 404)),
    ],
)
async def test_a_token_opens_what_its_scopes_reach(own_database: str, scopes: list[Scope], expected: tuple[int, ...]):
    token = make_token(own_database, *scopes)
    async with api(own_database) as client:
        assert await statuses(client, token) == expected


async def test_whoever_is_refused_is_told_what_is_missing(own_database: str):
    token = make_token(own_database, Scope.READ)
    async with api(own_database) as client:
        anonymous = await client.post("/tasks", json=TASK)
        unknown = await client.post("/tasks", json=TASK, headers=bearing(token[:-1] + "x"))
        reader = await client.post("/tasks", json=TASK, headers=bearing(token))
    assert is_problem(anonymous, 401)
    assert anonymous.headers["www-authenticate"] == "Bearer"
    assert is_problem(unknown, 401)
    assert unknown.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert is_problem(reader, 403)
    assert reader.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="enqueue"'
    assert token[5:] not in anonymous.text + unknown.text + reader.text


# --- tokens that open nothing ---


async def test_what_only_resembles_a_token_opens_nothing(own_database: str):
    token = make_token(own_database, Scope.ADMIN)
    other = make_token(own_database, Scope.ADMIN)
    id, secret = token.split("_")[1:]
    wrong = [
        "",
        f"Bearer {id}",
        f"Bearer tf_{id}_{secret[:-1]}",
        f"Bearer tf_{id}_{secret}0",
        f"Bearer tf_{id}_{secret.upper()}",
        f"Bearer tf_{id}_{'0' * 64}",
        f"Bearer tf_{id}_{other.split('_')[2]}",
        f"Bearer tf_999_{secret}",
        f"Basic {token}",
        token,
        f"Bearer {token} {token}",
        f"Bearer {token},",
    ]
    async with api(own_database) as client:
        for header in wrong:
            assert is_problem(await client.get("/tasks/0", headers={"Authorization": header}), 401), header
        for header in (f"Bearer {token}", f"bearer  {token} "):
            assert (await client.get("/tasks/0", headers={"Authorization": header})).status_code == 404, header
        assert is_problem(await client.get(f"/tasks/0?token={token}&access_token={token}"), 401)


async def test_a_revoked_token_is_refused_within_five_seconds(own_database: str, conn: Connection):
    token = make_token(own_database, Scope.READ)
    async with api(own_database) as client:
        assert await statuses(client, token) == (403, 404, 404)
        await tokens.revoke(conn, token.split("_")[1])

        async def is_refused() -> bool:
            return await statuses(client, token) == (401, 401, 401)

        await until(is_refused, patience=5)


async def test_a_token_that_expires_while_it_is_kept_is_refused(own_database: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keyring, "FRESH", 3600.0)
    token = make_token(own_database, Scope.READ, lifetime=timedelta(seconds=1))
    async with api(own_database) as client:

        async def is_refused() -> bool:
            return await statuses(client, token) == (401, 401, 401)

        await until(is_refused)


@pytest.mark.usefixtures("no_keeping")
async def test_when_the_last_token_is_revoked_or_expired_the_door_stays_shut(own_database: str, conn: Connection):
    make_token(own_database, Scope.ADMIN, lifetime=timedelta(seconds=-1))
    async with api(own_database) as client:
        assert is_problem(await client.get("/tasks/0"), 401)
        token = make_token(own_database, Scope.ADMIN)
        await tokens.revoke(conn, token.split("_")[1])
        assert is_problem(await client.get("/tasks/0"), 401)


@pytest.mark.usefixtures("no_keeping")
async def test_while_the_tokens_cannot_be_read_nobody_is_let_in(own_database: str):
    token = make_token(own_database, Scope.READ)
    async with wire(own_database) as way, api(way.dsn) as client:
        assert (await client.get("/tasks/0", headers=bearing(token))).status_code == 404
        await way.cut()
        assert is_problem(await client.get("/tasks/0", headers=bearing(token)), 503)
        assert is_problem(await client.get("/tasks/0"), 503)
        await way.mend()

        async def is_back() -> bool:
            return (await client.get("/tasks/0", headers=bearing(token))).status_code == 404

        await until(is_back)


async def test_a_crowd_of_requests_reads_the_tokens_once(own_database: str, monkeypatch: pytest.MonkeyPatch):
    reads = 0
    find_live = tokens.find_live

    async def count(conn: Connection) -> list[tokens.LiveToken]:
        nonlocal reads
        reads += 1
        return await find_live(conn)

    monkeypatch.setattr(keyring, "FRESH", 3600.0)
    monkeypatch.setattr(tokens, "find_live", count)
    token = make_token(own_database, Scope.READ)
    async with api(own_database) as client:
        for _ in range(20):
            assert await statuses(client, token) == (403, 404, 404)
            assert await statuses(client, token[:-64] + 64 * "0") == (401, 401, 401)
    assert reads == 1
