"""Bytes that no honest client sends: each gets an answer or an end, stores nothing, and the server goes on."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx
import pytest
from serving import dialled, head, served, stored

from taskflow.api import protocol
from taskflow.database import Connection

TASK = b'{"name": "a task", "type": "anything", "payload": {}}'
POST = b"POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GET = b"GET /liveness HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a real server over the emptied database, which must answer after the test too."""
    async with served(dsn, server_time_out_in_seconds=1) as client:
        yield client
        assert (await client.get("/readiness")).status_code == 200


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that gives a head and the rest of a body little time."""
    monkeypatch.setattr(protocol, "PATIENCE", 0.3)


async def talk(client: httpx.AsyncClient, *pieces: bytes, times: int = 1) -> bytes:
    """All that the server answers to *pieces*, until it ends the connection; the last piece is sent *times* times."""
    async with dialled(client) as (reader, writer), asyncio.timeout(9):

        async def speak() -> None:
            with suppress(ConnectionError):
                for piece in [*pieces[:-1], *[pieces[-1]] * times]:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)

        speaking = asyncio.create_task(speak())
        answers = b""
        with suppress(ConnectionError):  # it may be reset after the answer, if we were still speaking
            while said := await reader.read(65_536):
                answers += said
        speaking.cancel()
        return answers


def statuses(answers: bytes) -> list[int]:
    """The statuses of all answers."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answers)]


def problem(answers: bytes) -> dict[str, object]:
    """The body of the last answer."""
    return json.loads(answers.rpartition(b"\r\n\r\n")[2])


GARBAGE = {
    "a greeting": b"hello\r\n\r\n",
    "zeros": b"\0" * 100,
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9": b"GET / HTTP/9.9\r\n\r\n",
    "an unknown method": b"FROB / HTTP/1.1\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\n\r\n",
    "a path of raw bytes": b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "CONNECT": b"CONNECT api:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a space in a header's name": GET + b"A b: c\r\n\r\n",
    "U+0000 in a header": GET + b"A: \0\r\n\r\n",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a length that is no number": POST + b"Content-Length: 1e3\r\n\r\n",
    "a length beyond 64 bits": POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk without a size": POST + b"Transfer-Encoding: chunked\r\n\r\nhello\r\n",
    "a chunk larger than its size": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
    "a chunk of a huge size": POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
}


@pytest.mark.parametrize("said", GARBAGE.values(), ids=GARBAGE.keys())
async def test_what_is_no_http_is_refused(client: httpx.AsyncClient, conn: Connection, said: bytes):
    answers = await talk(client, said)
    assert statuses(answers) == [400]
    assert b"application/problem+json" in answers
    assert problem(answers)["status"] == 400
    assert await stored(conn) == []


@pytest.mark.parametrize(
    "pieces",
    [
        [GET + b"A: " + b"b" * 40_000 + b"\r\n\r\n"],
        [GET + b"A: b\r\n" * 7000 + b"\r\n"],
        [GET, *[b"A: b\r\n"] * 7000, b"\r\n"],
        [b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"],
        [b"GET /tasks/1?" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"],
        [GET, b"a" * 40_000],
        [b"GET /", b"a" * 100_000],
    ],
    ids=["a header", "headers", "headers, one by one", "a path", "a query", "half a header", "half a path"],
)
async def test_a_head_that_is_too_large_is_refused(client: httpx.AsyncClient, pieces: list[bytes]):
    answers = await talk(client, *pieces)
    assert statuses(answers) == [431]
    assert problem(answers)["detail"] == "a head has at most 32,768 bytes"


async def test_a_head_without_end_is_refused(client: httpx.AsyncClient):
    assert statuses(await talk(client, GET + b"A: ", b"b" * 65_536, times=1000)) == [431]


@pytest.mark.parametrize("path", ["/tasks", "/liveness"])
@pytest.mark.parametrize("before", [b"2\r\n{}\r\n0\r\nA: ", b"2;a"])
async def test_what_comes_beside_a_body_without_end_is_not_kept_and_not_waited_for(
    client: httpx.AsyncClient, path: str, before: bytes
):
    """Trailers and the extensions of chunks, also after the answer."""
    post = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
    answers = await talk(client, post + b"Transfer-Encoding: chunked\r\n\r\n" + before, b"b" * 65_536, times=50)
    assert statuses(answers) == [431 if path == "/tasks" else 405]


async def test_a_head_within_the_limit_is_read(client: httpx.AsyncClient):
    assert statuses(await talk(client, GET + b"A: " + b"b" * 32_000 + b"\r\nConnection: close\r\n\r\n")) == [200]


async def test_a_body_that_is_longer_than_announced_is_cut(client: httpx.AsyncClient, conn: Connection):
    answers = await talk(client, head(len(TASK) - 1) + TASK)
    assert statuses(answers) == [400]
    assert "JSON" in str(problem(answers)["detail"])
    assert await stored(conn) == []


async def test_a_complete_request_is_answered_before_the_garbage_after_it(client: httpx.AsyncClient, conn: Connection):
    answers = await talk(client, head(len(TASK)) + TASK + b"and more\r\n\r\n")
    assert statuses(answers) == [200]
    assert problem(answers) == {"added_task_id": (await stored(conn))[0][0]}


async def test_a_body_that_is_shorter_than_announced_is_given_up(client: httpx.AsyncClient, conn: Connection):
    answers = await talk(client, head(len(TASK) + 1) + TASK)
    assert statuses(answers) == [408]
    assert problem(answers)["detail"] == "the body did not come in time"
    assert await stored(conn) == []


async def test_a_body_that_trickles_in_is_given_up(client: httpx.AsyncClient, conn: Connection):
    async with dialled(client) as (reader, writer):
        writer.write(head(100_000))
        reading = asyncio.create_task(reader.readline())
        while not reading.done():
            writer.write(b" ")
            await asyncio.sleep(0.05)
        assert b" 408 " in await reading
    assert await stored(conn) == []


@pytest.mark.usefixtures("impatience")
async def test_chunks_that_never_end_are_refused_and_cut_off(client: httpx.AsyncClient, conn: Connection):
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    answers = await talk(client, POST + b"Transfer-Encoding: chunked\r\n\r\n", chunk, times=1_000_000)
    assert statuses(answers) == [413]
    assert await stored(conn) == []


@pytest.mark.usefixtures("impatience")
async def test_a_head_that_does_not_come_is_given_up(client: httpx.AsyncClient):
    assert await talk(client, b"") == b""
    assert statuses(await talk(client, GET)) == [408]
    async with dialled(client) as (reader, writer):
        writer.write(GET + b"\r\n")
        await reader.readuntil(b'"up"}')
        writer.write(b"\r\n")  # a blank line between requests is allowed
        assert await reader.read() == b""


@pytest.mark.usefixtures("impatience")
async def test_a_head_that_trickles_in_is_given_up(client: httpx.AsyncClient):
    async with dialled(client) as (reader, writer):
        writer.write(GET)
        reading = asyncio.create_task(reader.readline())
        while not reading.done():
            writer.write(b"A: b\r\n")
            await asyncio.sleep(0.05)
        assert b" 408 " in await reading


async def test_who_reads_no_answers_is_not_read_on(client: httpx.AsyncClient):
    async with dialled(client) as (_, writer):
        writer.transport.set_write_buffer_limits(0)

        async def flood() -> None:
            while True:
                writer.write((GET + b"\r\n") * 1000)
                await asyncio.wait_for(writer.drain(), 1)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(flood(), 20)
        writer.transport.abort()
    assert (await client.get("/readiness")).status_code == 200


async def test_requests_sent_in_one_go_are_answered_in_order(client: httpx.AsyncClient, conn: Connection):
    post = head(len(TASK)) + TASK
    answers = await talk(client, post + GET + b"\r\n" + post + GET + b"Connection: close\r\n\r\n")
    assert statuses(answers) == [200, 200, 200, 200]
    assert len(await stored(conn)) == 2


async def test_another_protocol_is_not_switched_to(client: httpx.AsyncClient):
    answers = await talk(client, GET + b"Connection: close, upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert statuses(answers) == [200]


async def test_a_compressed_body_is_refused_without_a_look_at_it(client: httpx.AsyncClient, conn: Connection):
    for encoding in ["gzip", "GZIP", "deflate", "br", "gzip, identity"]:
        headers = {"content-type": "application/json", "content-encoding": encoding}
        for path in ["/tasks", "/tasks/batch"]:
            answer = await client.post(path, content=TASK, headers=headers)
            assert (answer.status_code, answer.json()["detail"]) == (415, "the body must not be compressed")
    assert await stored(conn) == []


async def test_a_hundred_connections_that_say_nothing_keep_nobody_out(client: httpx.AsyncClient):
    silent = [await asyncio.open_connection(client.base_url.host, client.base_url.port) for _ in range(100)]
    assert (await client.get("/readiness")).status_code == 200
    for _, writer in silent:
        writer.close()
        await writer.wait_closed()
