"""The task types that this server knows."""

import re
from typing import Annotated, Any, Final

import msgspec
from litestar import route
from msgspec import Meta, Struct

from taskflow.api.auth import needs
from taskflow.api.problems import documented
from taskflow.api.services import GET, ApiRequest, services
from taskflow.registry import Registry
from taskflow.scopes import Scope

LOCAL: Final = "#/$defs/"
"""Where the parts of a schema that stands alone refer to."""


class TypeView(Struct, frozen=True, kw_only=True):
    """A task type."""

    name: str
    max_attempts: Annotated[int, Meta(description="of a task that does not say otherwise")]
    timeout: Annotated[float | None, Meta(description="seconds of one attempt; null: what the worker's settings say")]
    payload: Annotated[dict[str, Any], Meta(description="JSON Schema of the payload")]


class Types(Struct, frozen=True):
    """All task types, by name."""

    types: list[TypeView]


@route(
    "/types",
    **needs(Scope.READ),
    http_method=GET,
    status_code=200,
    summary="What can be enqueued",
    response_description="The task types",
    tags=["tasks"],
    responses=documented(TimeoutError()),
)
async def list_types(request: ApiRequest) -> Types:
    """The task types of the server's app, and what their payloads must be."""
    return Types(describe_types(services(request).registry))


def describe_types(registry: Registry) -> list[TypeView]:
    """The task types of *registry*, by name."""
    return [
        TypeView(name=type.name, max_attempts=type.max_attempts, timeout=type.timeout, payload=type.schema())
        for type in sorted(registry, key=lambda type: type.name)
    ]


def payload_schemas(registry: Registry) -> tuple[list[str], dict[str, Any]]:
    """The names of the schemas of the task types' payloads; and those and their parts, as components of OpenAPI."""
    names: list[str] = []
    components: dict[str, Any] = {}
    for number, type in enumerate(describe_types(registry)):
        name = "payload." + re.sub(r"[^A-Za-z0-9_-]", "_", type.name)
        if name in components:
            name = f"{name}.{number}"
        names.append(name)
        schema = _refer(type.payload, f"#/components/schemas/{name}.")
        components |= {f"{name}.{part}": described for part, described in schema.pop("$defs", {}).items()}
        components[name] = {"title": type.name} | schema
    return names, components


def _refer(schema: Any, place: str) -> Any:
    """*schema* with its references leading to *place*."""
    text = msgspec.json.encode(schema).replace(f'"$ref":"{LOCAL}'.encode(), f'"$ref":"{place}'.encode())
    return msgspec.json.decode(text)
