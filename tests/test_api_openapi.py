"""The API keeps what its OpenAPI description promises, and the page that shows it needs no internet."""

import json
import os
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from commands import command
from serving import api, make_token, registry, served_in_a_thread, stored

from taskflow.api import tasks
from taskflow.api.services import ApiRequest
from taskflow.api.waiting import wait_for_end
from taskflow.database import Connection
from taskflow.queries import TaskView
from taskflow.scopes import Scope

Document = dict[str, Any]

EXAMPLES = int(os.environ.get("TASKFLOW_TEST_EXAMPLES", "20"))
"""Of each operation; `just fuzz` tries more."""
TIME = 100 + 8 * EXAMPLES
HOOKS = Path(__file__).parent / "fuzz_hooks.py"


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API over the emptied database."""
    async with api(dsn) as client:
        yield client


@pytest.fixture
async def document(client: httpx.AsyncClient) -> Document:
    """The description as it is served."""
    return (await client.get("/schema/openapi.json")).json()


@pytest.mark.timeout(TIME + 60)
def test_whatever_schemathesis_thinks_of_gets_an_answer_that_is_described(
    own_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def wait_briefly(request: ApiRequest, id: int, _seconds: float) -> TaskView:
        return await wait_for_end(request, id, 0.01)

    monkeypatch.setattr(tasks, "wait_for_end", wait_briefly)
    token = make_token(own_database, Scope.ADMIN)  # so that it also tries without
    with served_in_a_thread(own_database) as url:
        run = subprocess.run(
            [
                command("schemathesis"),
                "run",
                f"{url}/schema/openapi.json",
                f"--header=Authorization: Bearer {token}",
                f"--max-examples={EXAMPLES}",
                "--seed=1",
                "--checks=all",
                "--exclude-path-regex=/events$",  # a stream has no end
                "--exclude-checks=positive_data_acceptance",  # JSON Schema cannot say which payload fits which type
                "--generation-database=none",
                "--no-color",
            ],
            cwd=tmp_path,
            env=os.environ | {"SCHEMATHESIS_HOOKS": str(HOOKS)},
            capture_output=True,
            text=True,
            timeout=TIME,
        )
    assert run.returncode == 0, run.stdout + run.stderr


async def test_the_description_is_openapi_3_1_and_knows_the_task_types(document: Document):
    schemas = document["components"]["schemas"]
    assert document["openapi"].startswith("3.1")
    assert schemas["TaskRequest"]["additionalProperties"] is False
    assert schemas["TaskRequest"]["properties"]["type"]["enum"] == registry.names()
    assert schemas["TaskRequest"]["properties"]["priority"]["enum"] == ["high", "normal", "low"]


async def test_times_are_described_as_times(document: Document):
    schemas = document["components"]["schemas"]
    for schema, field in [("TaskView", "created_at"), ("HistoryEntry", "created_at"), ("TaskRequest", "scheduled_at")]:
        assert '"format": "date-time"' in json.dumps(schemas[schema]["properties"][field]), (schema, field)


async def test_every_reference_leads_somewhere(client: httpx.AsyncClient, document: Document):
    text = (await client.get("/schema/openapi.json")).text
    referred = set(re.findall(r'"\$ref":"#/components/schemas/([^"]+)"', text))
    assert referred <= document["components"]["schemas"].keys()


async def test_every_operation_is_explained_and_its_problems_are_described(document: Document):
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert operation["description"], (method, path)
            for status, answer in operation["responses"].items():
                if status != "200" and path != "/readiness":
                    (content_type,) = answer["content"]
                    assert content_type == "application/problem+json", (method, path, status)
                    (example,) = answer["content"][content_type]["examples"].values()
                    assert example["value"]["status"] == int(status)


async def test_the_description_offers_the_test_queue_only_where_it_is_open(dsn: str):
    async with api(dsn, enable_test_queue=True) as client:
        document = (await client.get("/schema/openapi.json")).json()
    assert "test" in document["components"]["schemas"]["TaskRequest"]["properties"]["priority"]["enum"]


async def test_the_example_of_a_task_can_be_sent_as_it_is(
    client: httpx.AsyncClient, conn: Connection, document: Document
):
    example = document["paths"]["/tasks"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert (await client.post("/tasks", json=example)).status_code == 200
    assert len(await stored(conn)) == 1


async def test_the_page_loads_nothing_from_elsewhere_and_runs_no_inline_script(client: httpx.AsyncClient):
    page = await client.get("/schema")
    assert page.headers["content-type"].startswith("text/html")
    assert not re.findall(r"https?:|//", page.text)
    assert re.findall(r"<script[^>]*>([^<]*)</script>", page.text) == ["", ""]
    for reference in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        asset = await client.get(reference)
        assert asset.status_code == 200, reference
        assert asset.headers["content-type"].split(";")[0] in {"text/css", "text/javascript", "image/png"}
