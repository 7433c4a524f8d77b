"""Whatever is sent to the API gets a clear answer, and nothing of what is refused is stored."""

import json
from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx
import pytest
from serving import api, is_problem, stored

from taskflow.database import Connection

JSON = {"content-type": "application/json"}


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API over the emptied database."""
    async with api(dsn) as client:
        yield client


def task(payload: str = "{}", *, name: str = '"a task"', type: str = '"anything"', more: str = "") -> bytes:
    """The body of a request, put together from JSON texts."""
    return f'{{"name": {name}, "type": {type}, "payload": {payload}{more}}}'.encode()


def text(payload: str, **others: str) -> bytes:
    """The same, its payload as a string."""
    return task(json.dumps(payload), **others)


def nested(depth: int) -> str:
    """An object that holds arrays, *depth* of them."""
    return '{"a": ' + "[" * depth + "]" * depth + "}"


NO_JSON = {
    "nothing": b"",
    "a word": b"hello",
    "half an object": b'{"name": "a task"',
    "two objects": task() + task(),
    "a byte order mark": b"\xef\xbb\xbf" + task(),
    "UTF-16": task().decode().encode("utf-16"),
    "an invalid byte": task(name='"a \udcff task"'.encode("ascii", "surrogateescape").decode("latin-1")).replace(
        b"\xc3\xbf", b"\xff"
    ),
    "half of a surrogate pair in the name": task(name=r'"\ud83d"'),
    "the other half": task(name=r'"\udca3"'),
    "a raw control character": task(name='"a\x01"'),
    "a leading zero": task('{"a": 01}'),
    "NaN": task('{"a": NaN}'),
    "a comment": task("{} // no"),
    "200,000 arrays": task(nested(200_000)),
    "200,000 objects": b'{"a":' * 200_000,
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
}

NO_TASK = {
    "an array": (b"[]", None),
    "null": (b"null", None),
    "a number": (b"1", None),
    "an empty object": (b"{}", "name"),
    "no payload": (b'{"name": "a task", "type": "anything"}', "payload"),
    "no type": (b'{"name": "a task", "payload": {}}', "type"),
    "an unknown field": (task(more=', "colour": "red"'), "colour"),
    "a name of another case": (task(more=', "Name": "a"'), "Name"),
    "an empty name": (task(name='""'), "name"),
    "a name of 129 characters": (task(name=json.dumps("n" * 129)), "name"),
    "a name of 129 emoji": (task(name=json.dumps("💣" * 129, ensure_ascii=False)), "name"),
    "a name of 10,000 emoji": (task(name=json.dumps("💣" * 10_000)), "name"),
    "a name that is null": (task(name="null"), "name"),
    "a name that is a number": (task(name="1"), "name"),
    "U+0000 in the name": (task(name=r'"a\u0000b"'), "name"),
    "an unknown type": (task(type='"nope"'), "type"),
    "an empty type": (task(type='""'), "type"),
    "U+0000 in the type": (task(type=r'"anything\u0000"'), "type"),
    "a type that is an object": (task(type="{}"), "type"),
    "an unknown priority": (task(more=', "priority": "urgent"'), "priority"),
    "a priority of another case": (task(more=', "priority": "High"'), "priority"),
    "a priority that is null": (task(more=', "priority": null'), "priority"),
    "the test queue": (task(more=', "priority": "test"'), "priority"),
    "a negative delay": (task(more=', "delay_seconds": -1'), "delay_seconds"),
    "a delay above a century": (task(more=', "delay_seconds": 3155760001'), "delay_seconds"),
    "a delay of 1e300 seconds": (task(more=', "delay_seconds": 1e300'), "delay_seconds"),
    "a delay of 5,000 digits": (task(more=f', "delay_seconds": {"9" * 5000}'), "delay_seconds"),
    "a delay that is a text": (task(more=', "delay_seconds": "1"'), "delay_seconds"),
    "a delay that is true": (task(more=', "delay_seconds": true'), "delay_seconds"),
    "the year 0001": (task(more=', "scheduled_at": "0001-01-01T00:00:00Z"'), "scheduled_at"),
    "the year 0001, an hour before": (task(more=', "scheduled_at": "0001-01-01T00:00:00+01:00"'), "scheduled_at"),
    "the year 1969": (task(more=', "scheduled_at": "1969-12-31T23:59:59.999999Z"'), "scheduled_at"),
    "the year 9999": (task(more=', "scheduled_at": "9999-01-01T00:00:00Z"'), "scheduled_at"),
    "the end of 9999 far in the west": (
        task(more=', "scheduled_at": "9999-12-31T23:59:59-23:59"'),
        "scheduled_at",
    ),
    "the year 10000": (task(more=', "scheduled_at": "10000-01-01T00:00:00Z"'), "scheduled_at"),
    "a time without a zone": (task(more=', "scheduled_at": "2030-01-01T00:00:00"'), "scheduled_at"),
    "a time that is a number": (task(more=', "scheduled_at": 1893456000'), "scheduled_at"),
    "infinity": (task(more=', "scheduled_at": "infinity"'), "scheduled_at"),
    "the 30th of February": (task(more=', "scheduled_at": "2030-02-30T00:00:00Z"'), "scheduled_at"),
    "a delay beside a time": (
        task(more=', "scheduled_at": "2030-01-01T00:00:00Z", "delay_seconds": 1'),
        "scheduled_at",
    ),
    "no attempts": (task(more=', "max_attempts": 0'), "max_attempts"),
    "2^31 attempts": (task(more=', "max_attempts": 2147483648'), "max_attempts"),
    "one attempt and a half": (task(more=', "max_attempts": 1.5'), "max_attempts"),
}

BAD_PAYLOADS = {
    "null": "null",
    "true": "true",
    "a number": "1",
    "an array": "[]",
    "U+0000 in a value": r'{"a": "\u0000"}',
    "U+0000 in a key": r'{"\u0000": 1}',
    "U+0000 deep within": r'{"a": [{"b": "c\u0000d"}]}',
    "U+0000 after a backslash": r'{"a": "\\\u0000"}',
    "half of a surrogate pair": r'{"a": "\ud83d"}',
    "half of a surrogate pair before another character": r'{"a": "\ud83d\u0041"}',
    "the other half": r'{"a": "\uDCA3"}',
    "the halves in the wrong order": r'{"a": "\udca3\ud83d"}',
    "half of a pair in a key": r'{"\ud83d": 1}',
    "a huge exponent": '{"a": 1e400000}',
    "nesting of 65": nested(64),
    "nesting of 100": nested(100),
    "nesting of 100 among brackets in texts": '{"]\\"]": ' + nested(99) + "}",
    "a number of 200,000 digits": '{"a": ' + "9" * 200_000 + "}",
}

BAD_TEXTS = {
    "nothing": "",
    "a word": "hello",
    "a raw U+0000": '{"a": "\0"}',
    "a raw line feed": '{"a": "\n"}',
    "half an object": "{",
    "two objects": "{} {}",
    "a string that holds one": json.dumps("{}"),
    "100,000 arrays": nested(100_000),
}

FINE = {
    "a payload with spaces around": text(' \n{"a": 1}\t'),
    "duplicate keys": task('{"a": 1, "a": 2}', more=', "name": "again"'),
    "a name of 128 emoji": task(name=json.dumps("💣" * 128)),
    "an escaped pair": task(r'{"a": "\ud83d\ude00 \uD83D\uDE00"}'),
    "an escaped backslash before u0000": task(r'{"a": "\\u0000 \\ud83d"}'),
    "characters of SQL and of formats": task(
        '{"a": "\'; DROP TABLE taskflow.tasks; -- %s %(id)s {0}"}', name=json.dumps("%s'\"\\{}")
    ),
    "any Unicode": task(json.dumps({"ключ": "\u202e\ufffe\ud7ff\U0010ffff"}, ensure_ascii=False)),
    "nesting of 64": task(nested(63)),
    "brackets within a text": task(json.dumps({"a": '"[{' * 1000})),
    "a precise number": task('{"a": 1e-300, "b": -0.0, "c": 1.50e3}'),
}


@pytest.mark.parametrize("body", NO_JSON.values(), ids=NO_JSON.keys())
async def test_what_is_no_json_is_refused(client: httpx.AsyncClient, conn: Connection, body: bytes):
    answer = await client.post("/tasks", content=body, headers=JSON)
    assert is_problem(answer, 400, answer.json().get("field")), answer.text
    assert await stored(conn) == []


@pytest.mark.parametrize(("body", "field"), NO_TASK.values(), ids=NO_TASK.keys())
async def test_what_is_no_task_is_refused_by_the_field_at_fault(
    client: httpx.AsyncClient, conn: Connection, body: bytes, field: str | None
):
    answer = await client.post("/tasks", content=body, headers=JSON)
    assert is_problem(answer, 400, field), answer.text
    assert await stored(conn) == []


@pytest.mark.parametrize("type", ['"anything"', '"send_email"', '"print_letter"'])
@pytest.mark.parametrize("payload", BAD_PAYLOADS.values(), ids=BAD_PAYLOADS.keys())
async def test_a_payload_that_cannot_be_stored_is_refused_for_every_type(
    client: httpx.AsyncClient, conn: Connection, payload: str, type: str
):
    with_letter = payload.replace("{", '{"to": "Ada", ', 1)  # so that print_letter finds all that it looks at
    for body in (task(with_letter, type=type), text(with_letter, type=type)):
        answer = await client.post("/tasks", content=body, headers=JSON)
        assert answer.status_code == 400, answer.text
        assert answer.json().get("field", "payload").startswith("payload")
    assert await stored(conn) == []


@pytest.mark.parametrize("payload", BAD_TEXTS.values(), ids=BAD_TEXTS.keys())
async def test_a_text_that_is_no_json_object_is_refused(client: httpx.AsyncClient, conn: Connection, payload: str):
    answer = await client.post("/tasks", content=text(payload), headers=JSON)
    assert is_problem(answer, 400, "payload"), answer.text
    assert await stored(conn) == []


async def test_a_batch_refuses_the_same_tasks(client: httpx.AsyncClient, conn: Connection):
    bad = [body for body, _ in NO_TASK.values()]
    bad += [make(payload) for payload in BAD_PAYLOADS.values() for make in (task, text)]
    bad += [text(payload) for payload in BAD_TEXTS.values()]
    for body in bad:
        alone = (await client.post("/tasks", content=body, headers=JSON)).json()
        array, lines = b"[%b,%b,%b]" % (task(), body, task()), b"%b\n%b\n%b" % (task(), body, task())
        assert is_problem(await client.post("/tasks/batch", content=array, headers=JSON), 400)
        answer = await client.post("/tasks/batch", content=lines, headers={"content-type": "application/x-ndjson"})
        assert is_problem(answer, 400), answer.text
        (error,) = answer.json()["errors"]
        assert (error["index"], error.get("field"), error["detail"]) == (1, alone.get("field"), alone["detail"])
    assert await stored(conn) == []


@pytest.mark.parametrize("body", NO_JSON.values(), ids=NO_JSON.keys())
async def test_a_batch_with_something_that_is_no_json_is_refused(
    client: httpx.AsyncClient, conn: Connection, body: bytes
):
    for content, content_type in [
        (b"[%b,%b,]" % (task(), body), "application/json"),
        (b"%b\n%b\n{" % (task(), body), "application/x-ndjson"),
    ]:
        answer = await client.post("/tasks/batch", content=content, headers={"content-type": content_type})
        assert is_problem(answer, 400), answer.text
    assert await stored(conn) == []


@pytest.mark.parametrize(
    "words",
    [
        "'; DROP TABLE taskflow.tasks; --",
        "%s %(id)s %%",
        "{0} {name!r}",
        "$1 $$",
        r"\\x00 \n \\'",
        "${jndi:x}",
        "<script>",
    ],
)
async def test_code_in_any_text_is_just_text(client: httpx.AsyncClient, conn: Connection, words: str):
    quoted = json.dumps(words)
    for field, body in [
        ("type", task(type=quoted)),
        ("priority", task(more=f', "priority": {quoted}')),
        ("scheduled_at", task(more=f', "scheduled_at": {quoted}')),
        ("delay_seconds", task(more=f', "delay_seconds": {quoted}')),
        ("payload", task(quoted)),
        (words, task(more=f", {quoted}: 1")),
    ]:
        assert is_problem(await client.post("/tasks", content=body, headers=JSON), 400, field)
    assert is_problem(await client.get(f"/tasks/{quote(words, safe='')}"), 400, "id")
    payload = {words: [words, {"a": words}]}
    for body in (task(json.dumps(payload), name=quoted), text(json.dumps(payload), name=quoted)):
        assert (await client.post("/tasks", content=body, headers=JSON)).status_code == 200
        assert (await client.post("/tasks/batch", content=b"[%b]" % body, headers=JSON)).status_code == 200
    assert [row[1:4] for row in await stored(conn)] == [(words, "anything", payload)] * 4


@pytest.mark.parametrize(
    ("type", "payload", "field"),
    [
        ("send_email", "{}", "payload"),
        ("send_email", '{"a": 1}', "payload[...]"),
        ("anything", '{"a": ' + "9" * 5000 + "}", "payload[...]"),
        ("print_letter", "{}", "payload"),
        ("print_letter", '{"to": null}', "payload.to"),
        ("print_letter", '{"to": "Ada", "copies": "two"}', "payload.copies"),
    ],
)
async def test_a_payload_must_fit_its_type(
    client: httpx.AsyncClient, conn: Connection, type: str, payload: str, field: str
):
    for body in (task(payload, type=json.dumps(type)), text(payload, type=json.dumps(type))):
        assert is_problem(await client.post("/tasks", content=body, headers=JSON), 400, field)
    assert await stored(conn) == []


@pytest.mark.parametrize("body", FINE.values(), ids=FINE.keys())
async def test_what_is_merely_odd_is_stored_as_it_is(client: httpx.AsyncClient, conn: Connection, body: bytes):
    answer = await client.post("/tasks", content=body, headers=JSON)
    assert answer.status_code == 200, answer.text
    ((id, name, _, payload, *_),) = await stored(conn)
    given = json.loads(body)
    expected = json.loads(given["payload"]) if isinstance(given["payload"], str) else given["payload"]
    assert (id, name, payload) == (answer.json()["added_task_id"], given["name"], expected)


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "json", "💣"]
)
async def test_a_body_that_is_not_announced_as_json_is_refused(
    client: httpx.AsyncClient, conn: Connection, content_type: str | None
):
    headers = [] if content_type is None else [(b"content-type", content_type.encode())]
    assert is_problem(await client.post("/tasks", content=task(), headers=headers), 415)
    assert await stored(conn) == []


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON ; charset=utf-8"])
async def test_json_may_be_announced_in_any_spelling(client: httpx.AsyncClient, content_type: str):
    answer = await client.post("/tasks", content=task(), headers={"content-type": content_type})
    assert answer.status_code == 200


async def test_a_body_above_the_limit_is_refused_and_one_at_it_is_not(client: httpx.AsyncClient, conn: Connection):
    body = task('{"a": ""}').ljust(1_000_000)
    assert is_problem(await client.post("/tasks", content=body + b" ", headers=JSON), 413)
    assert await stored(conn) == []
    assert (await client.post("/tasks", content=body, headers=JSON)).status_code == 200
