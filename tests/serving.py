"""The API for tests: in this process without a socket, or behind a real server on loopback."""

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from threading import Thread
from typing import Annotated, Any
from uuid import uuid4

import httpx
import uvicorn
from litestar import Litestar
from msgspec import Meta, Struct
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from taskflow import tokens
from taskflow.api.protocol import BoundedProtocol
from taskflow.api.stopping import Server
from taskflow.dashboard.app import create_app
from taskflow.database import Connection, connect
from taskflow.registry import Registry
from taskflow.scopes import Scope
from taskflow.settings import Settings

registry = Registry()
"""Task types of which each has another kind of payload."""


class Letter(Struct):
    """Fields beside these are ignored."""

    to: str
    copies: int = 1


@registry.task("send_email")
async def send_email(payload: Annotated[dict[str, str], Meta(min_length=1)]) -> None:
    """A non-empty object of texts."""


@registry.task("print_letter", max_attempts=2)
async def print_letter(payload: Letter) -> None:
    """A struct."""


@registry.task("anything")
async def anything() -> None:
    """No parameter: any object will do."""


def make_app(dsn: str, **settings: Any) -> Litestar:
    """The app over *dsn* with the task types above."""
    return create_app(Settings(**settings), dsn, registry)


@asynccontextmanager
async def api(dsn: str, **settings: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of the app over *dsn* in this process, without a socket between."""
    async with client_of(make_app(dsn, **settings)) as client:
        yield client


@asynccontextmanager
async def client_of(app: Litestar) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of *app* in this process."""
    started, ending = asyncio.Event(), asyncio.Event()

    async def live() -> None:  # a task of its own, for pytest leaves a fixture in another one than it entered
        async with app.lifespan():
            started.set()
            await ending.wait()

    living = asyncio.create_task(live())
    await started.wait()
    transport = httpx.ASGITransport(app)  # pyright: ignore[reportArgumentType] - Litestar types its scope more narrowly
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client
    finally:
        ending.set()
        await living


@asynccontextmanager
async def served(dsn: str, **settings: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of a real server that runs in this loop."""
    async with served_app(make_app(dsn, **settings)) as client:
        yield client


@asynccontextmanager
async def served_app(app: Litestar) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of a real server of *app* that runs in this loop."""
    with _server(app) as (server, listener, url):
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: holds(server.started))
        try:
            async with httpx.AsyncClient(base_url=url) as client:
                yield client
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def dialled(client: httpx.AsyncClient) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection to the server that *client* talks to."""
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def head(length: int) -> bytes:
    """The head of a POST whose body shall have *length* bytes."""
    return (
        f"POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


@contextmanager
def served_in_a_thread(dsn: str, **settings: Any) -> Generator[str]:
    """The URL of a real server with a loop of its own, for tests that are not asynchronous."""
    with _server(make_app(dsn, **settings)) as (server, listener, url):
        thread = Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.01)
            yield url
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def _server(app: Litestar) -> Generator[tuple[Server, socket.socket, str]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app,  # pyright: ignore[reportArgumentType] - Litestar types its scope more narrowly
            http=BoundedProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
        )
        yield Server(config), listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


def make_token(dsn: str, *scopes: Scope, lifetime: timedelta | None = None) -> str:
    """A token of its own name; from now on the database at *dsn* lets in nobody without one."""

    async def make() -> str:
        async with await connect(dsn, "test") as conn:
            return await tokens.create(conn, f"token {uuid4()}", scopes, lifetime)

    with ThreadPoolExecutor(1) as thread:  # the caller may be in a loop, or not
        return thread.submit(asyncio.run, make()).result()


async def stored(conn: Connection) -> list[tuple[Any, ...]]:
    """What the database holds, oldest first."""
    cursor = await conn.execute(
        "SELECT id, name, type, payload, priority::text, status::text, max_attempts FROM taskflow.tasks ORDER BY id"
    )
    return await cursor.fetchall()


def is_problem(response: httpx.Response, status: int, field: str | None = None) -> bool:
    """Whether *response* is a well-formed problem of this status, with this field at fault."""
    problem = response.json()
    return (
        response.status_code == status == problem["status"]
        and response.headers["content-type"] == "application/problem+json"
        and problem.keys() - {"field", "errors"} == {"type", "title", "status", "detail"}
        and problem.get("field") == field
    )


class Wire:
    """A way to Postgres that can be cut and mended; `dsn` leads over it."""

    def __init__(self, dsn: str) -> None:
        parts = conninfo_to_dict(dsn)
        self._host = str(parts.get("host") or "127.0.0.1")
        self._port = int(parts.get("port") or 5432)
        self._writers: set[asyncio.StreamWriter] = set()
        self._listener: asyncio.Server | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._own_port = free.getsockname()[1]
        self.dsn = make_conninfo(dsn, host="127.0.0.1", port=self._own_port)

    async def mend(self) -> None:
        """Let connections through."""
        self._listener = await asyncio.start_server(self._carry, "127.0.0.1", self._own_port)

    async def cut(self) -> None:
        """End all connections and refuse new ones."""
        assert self._listener is not None
        self._listener.close()
        for writer in self._writers:
            writer.close()
        await self._listener.wait_closed()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._host.startswith("/"):
            far_reader, far_writer = await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
        else:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        self._writers |= {writer, far_writer}
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        self._writers -= {writer, far_writer}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while block := await reader.read(65536):
            writer.write(block)
            await writer.drain()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@asynccontextmanager
async def wire(dsn: str) -> AsyncGenerator[Wire]:
    """A mended wire, cut in the end."""
    wire = Wire(dsn)
    await wire.mend()
    try:
        yield wire
    finally:
        await wire.cut()


async def until(condition: Callable[[], Awaitable[bool]], patience: float = 10.0) -> None:
    """Return once *condition* holds; fail after *patience* seconds."""
    deadline = time.monotonic() + patience
    while not await condition():
        assert time.monotonic() < deadline, f"not within {patience:g} s"
        await asyncio.sleep(0.01)


async def holds(fact: bool) -> bool:
    """*fact*, as a condition for `until`."""
    return fact


async def waiting_for_a_lock(conn: Connection, application: str, count: int) -> bool:
    """Whether so many sessions of *application* wait for a lock now."""
    await conn.execute("SELECT pg_stat_clear_snapshot()")  # within a transaction, the first look would be kept
    cursor = await conn.execute(
        """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = %s AND wait_event_type = 'Lock'
        """,
        [application],
    )
    return await cursor.fetchone() == (count,)
