"""Hostile values in every place of every request: each gets an answer that blames the client, or does no harm."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest
from conftest import MakeTask
from serving import api, make_app

Document = dict[str, Any]

TASK: Final[dict[str, Any]] = {"name": "n", "type": "anything", "payload": {}}

BODIES: Final[dict[str, Any]] = {
    "POST /tasks": TASK,
    "POST /tasks/batch": [TASK],
    "POST /tasks/actions": {"action": "cancel", "filter": {"type": "no such type"}},
    "POST /tasks/{id}/cancel": {},
    "POST /groups": {"tasks": [TASK], "on_complete": TASK},
    "POST /queues/{priority}/pause": {},
    "PUT /limits/{type}": {"concurrency": 1},
    "POST /limits/{type}/pause": {},
    "POST /schedules": {"name": "s", "rule": "0 7 * * *", **TASK},
    "PATCH /schedules/{name}": {},
    "POST /schedules/{name}/pause": {},
    "POST /workers": {"name": "w", "priorities": ["low"], "concurrency": 1},
    "POST /workers/{id}/claims": {"limit": 1},
    "POST /workers/{id}/heartbeat": {"running": [1]},
    "POST /workers/{id}/progress": {
        "progress": [{"id": 1, "attempt": 1, "fraction": 0.5, "message": "m", "checkpoint": {}}]
    },
    "POST /workers/{id}/results": {"results": [{"id": 1, "attempt": 1, "outcome": "succeeded"}]},
}
"""A body of each operation that takes one, that could be accepted."""

WORDS: Final = {
    "U+0000": "\0",
    "SQL": "'; DROP TABLE taskflow.tasks; --",
    "formats": "%s %(id)s {0} {name!r} $1 ${jndi:x} \\x00",
    "another directory": "../../etc/passwd",
    "another server": "//example.com/\\",
    "a page": "<script>alert(1)</script>",
    "10,000 emoji": "💣" * 10_000,
    "a line feed": "a\r\nX-Header: b",
    "the year 0001": "0001-01-01T00:00:00+14:00",
    "the year 9999": "9999-12-31T23:59:59.999999-14:00",
    "2^63": str(2**63),
    "a negative number": "-1",
    "5,000 digits": "9" * 5_000,
    "a huge exponent": "1e400000",
    "digits of another script": "١٢",
    "nothing": "",
}

JSON_TEXTS: Final = {
    **{name: json.dumps(word) for name, word in WORDS.items()},
    "half of a surrogate pair": r'"\ud83d"',
    "5,000 digits as a number": "9" * 5_000,
    "-5,000 digits as a number": "-" + "9" * 5_000,
    "a huge exponent as a number": "1e400000",
    "2^63 as a number": str(2**63),
    "-1 as a number": "-1",
    "nesting of 100": "[" * 100 + "]" * 100,
    "nesting of 100,000": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "null": "null",
    "true": "true",
    "an object of the wrong kind": '{"\\u0000": "\\ud83d"}',
}

FORM: Final = {"content-type": "application/x-www-form-urlencoded"}

HOLE: Final = "a place for something hostile"


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API over the emptied database."""
    async with api(dsn) as client:
        yield client


@pytest.fixture
async def document(client: httpx.AsyncClient) -> Document:
    return (await client.get("/schema/openapi.json")).json()


@pytest.fixture
async def places(client: httpx.AsyncClient, make_task: MakeTask) -> dict[str, str]:
    """What stands in each path in place of its parameters."""
    worker = (await client.post("/workers", json=BODIES["POST /workers"])).json()["id"]
    await client.post("/schedules", json=BODIES["POST /schedules"])
    task = await make_task()
    return {"/tasks": str(task), "/workers": str(worker), "/queues": "low", "/limits": "anything", "/schedules": "s"}


def filled(path: str, places: dict[str, str]) -> str:
    """*path* with what exists in place of its parameter."""
    head, has, tail = path.partition("{")
    return head + places.get(head.rstrip("/"), "1") + tail.partition("}")[2] if has else path


def objects(schema: Any, document: Document) -> Iterator[dict[str, Any]]:
    """The properties of each object that *schema* allows at its top."""
    if reference := schema.get("$ref"):
        schema = document["components"]["schemas"][reference.rpartition("/")[2]]
    if "properties" in schema:
        yield schema["properties"]
    for one in [*schema.get("anyOf", ()), *schema.get("oneOf", ())]:
        yield from objects(one, document)


def with_hole(body: Any, schema: Any, document: Document) -> Iterator[Any]:
    """*body* with a hole in place of each field in turn, also of those that it has not, and in nested objects."""
    yield HOLE
    if isinstance(body, list):
        for item in body:  # pyright: ignore[reportUnknownVariableType]
            for holed in with_hole(item, schema.get("items", {}), document):
                yield [holed]
        return
    if not isinstance(body, dict):
        return
    for properties in objects(schema, document):
        for name, inner in properties.items():
            for holed in with_hole(body.get(name), inner, document):  # pyright: ignore[reportUnknownMemberType]
                yield {**body, name: holed}
    yield {**body, HOLE: 1}


def is_answer(response: httpx.Response) -> bool:
    """Whether it is no failure of the server's, and a well-formed problem if it is one."""
    if response.status_code < 400:
        return True
    return response.status_code < 500 and response.headers["content-type"] == "application/problem+json"


async def test_hostile_values_in_every_field_of_every_body_do_no_harm(
    client: httpx.AsyncClient, document: Document, places: dict[str, str]
):
    asked = 0
    with_body = {
        f"{method.upper()} {path}": operation["requestBody"]["content"]["application/json"]["schema"]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if "requestBody" in operation
    }
    assert with_body.keys() == BODIES.keys(), "each operation that takes a body needs one here"
    for operation, schema in with_body.items():
        method, path = operation.split()
        for holed in with_hole(BODIES[operation], schema, document):
            for name, hostile in JSON_TEXTS.items():
                body = json.dumps(holed).replace(json.dumps(HOLE), hostile).encode()
                answer = await client.request(
                    method, filled(path, places), content=body, headers={"content-type": "application/json"}
                )
                assert is_answer(answer), (operation, holed, name, answer.status_code, answer.text[:500])
                asked += 1
    assert asked > 1000
    assert (await client.get("/readiness")).status_code == 200


async def test_hostile_words_in_every_path_query_and_header_do_no_harm(
    client: httpx.AsyncClient, document: Document, places: dict[str, str]
):
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path.endswith("/events"):
                continue  # a stream has no end
            for parameter in operation.get("parameters", ()):
                for name, word in WORDS.items():
                    url, query, headers = filled(path, places), {}, {}
                    match parameter["in"]:
                        case "path":
                            url = re.sub(r"{\w+}", quote(word, safe="")[:20_000].replace("\\", ""), path)
                        case "query":
                            query = {parameter["name"]: word[:5_000]}
                        case _:
                            headers = {parameter["name"].encode(): word.encode()[:5_000]}
                    answer = await client.request(method, url, params=query, headers=headers)
                    assert is_answer(answer), (method, path, parameter["name"], name, answer.status_code, answer.text)
    assert (await client.get("/readiness")).status_code == 200


async def test_hostile_words_in_every_page_of_the_dashboard_do_no_harm(client: httpx.AsyncClient, dsn: str):
    pages = sorted(route.path for route in make_app(dsn).routes if route.path.startswith("/dashboard"))
    assert "/dashboard/login" in pages
    for path in pages:
        if path == "/dashboard/live":
            continue  # a stream has no end
        for name, word in WORDS.items():
            url = re.sub(r"{[^}]+}", quote(word, safe="")[:20_000], path)
            names = ("to", "token", "csrf", "status", "type", "name", "cursor", "sort", "limit", "id")
            asked = await client.get(url, params=dict.fromkeys(names, word[:400]))
            sent = await client.post(url, data=dict.fromkeys(names, word[:400]))
            garbage = await client.post(url, content=b"token=%ff%00&to=\xff\x00&=", headers=FORM)
            statuses = [answer.status_code for answer in (asked, sent, garbage)]
            assert max(statuses) < 500, (path, name, statuses)
            assert not any(is_elsewhere(answer.headers.get("location", "")) for answer in (asked, sent, garbage))


def is_elsewhere(location: str) -> bool:
    """Whether a redirect leads to another server."""
    return re.match(r"[^/?#]*:|[/\\]{2}", location) is not None
