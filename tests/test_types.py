"""The task types are told by the API, by its description, and by the command."""

import json
from pathlib import Path
from typing import Any

from commands import run
from msgspec import Struct
from serving import api, registry

from taskflow.api.types import payload_schemas
from taskflow.registry import Registry


class Address(Struct):
    """A part of a payload."""

    street: str


class Parcel(Struct):
    """A payload with a part."""

    to: Address


async def test_the_api_tells_each_type_with_the_schema_of_its_payload(dsn: str):
    async with api(dsn) as client:
        types = {type.pop("name"): type for type in (await client.get("/types")).json()["types"]}
    assert list(types) == registry.names()
    letter = types["print_letter"]
    assert (letter["max_attempts"], letter["timeout"]) == (2, None)
    assert letter["payload"]["$defs"]["Letter"]["required"] == ["to"]
    assert types["anything"]["payload"]["type"] == "object"


async def test_the_description_has_a_schema_for_each_payload(dsn: str):
    async with api(dsn) as client:
        schemas = (await client.get("/schema/openapi.json")).json()["components"]["schemas"]
    assert schemas["payload.print_letter"] == {
        "title": "print_letter",
        "$ref": "#/components/schemas/payload.print_letter.Letter",
    }
    assert schemas["payload.print_letter.Letter"]["required"] == ["to"]
    offered = schemas["TaskRequest"]["properties"]["payload"]["anyOf"][0]["anyOf"]
    assert {"$ref": "#/components/schemas/payload.send_email"} in offered


def test_types_whose_names_look_alike_or_whose_payloads_cannot_be_described_have_schemas_of_their_own():
    own = Registry()
    for name in ("send/parcel", "send parcel"):

        @own.task(name)
        async def send(payload: Parcel) -> None: ...

    @own.task("odd")
    async def odd(payload: dict[str, Any]) -> None: ...

    names, components = payload_schemas(own)
    assert names == ["payload.odd", "payload.send_parcel", "payload.send_parcel.2"]
    parcel = components["payload.send_parcel.2.Parcel"]
    assert parcel["properties"]["to"] == {"$ref": "#/components/schemas/payload.send_parcel.2.Address"}


def test_the_command_shows_them(work_dir: Path):
    shown = run(work_dir, "taskflow", "types")
    assert "send_email" in shown.stdout
    types = json.loads(run(work_dir, "taskflow", "types", "--json").stdout)
    assert {"name", "max_attempts", "timeout", "payload"} == types[0].keys()
