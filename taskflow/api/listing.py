"""Find tasks."""

import re
from typing import Annotated, Any, Final, TypeVar

import msgspec
from litestar import route
from msgspec import Meta, Struct, structs

from taskflow import queries
from taskflow.api.auth import needs
from taskflow.api.body import check_text
from taskflow.api.problems import InvalidRequest, documented
from taskflow.api.services import GET, ApiRequest, services
from taskflow.errors import fault
from taskflow.filters import Sort, TaskFilter, read_cursor, write_cursor
from taskflow.queries import TaskSummary
from taskflow.scopes import Scope

T = TypeVar("T", bound=Struct)

LARGEST_PAGE: Final = 500
LIMIT_RULE: Final = f"limit: must be a whole number from 1 to {LARGEST_PAGE}"


class ListRequest(TaskFilter, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `GET /tasks` may be asked."""

    sort: Annotated[Sort, Meta(description="`-id`: newest first; `id`: oldest first")] = Sort.NEWEST
    limit: Annotated[int, Meta(ge=1, le=LARGEST_PAGE, description="tasks of one page")] = 50
    cursor: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        Meta(description="the `next` of the page before, for the same filter and order"),
    ] = None


class TaskPage(Struct, frozen=True):
    """Some of the tasks that were asked for."""

    tasks: list[TaskSummary]
    next: Annotated[str | None, Meta(description="the `cursor` of the next page; null: there is none")]
    complete: Annotated[
        bool,
        Meta(
            description="false: enough was read for one request before the page was full, or even anything was found; "
            "go on with `next`"
        ),
    ]


FILTER: Final = tuple(field.name for field in structs.fields(TaskFilter))


@route(
    "/tasks",
    **needs(Scope.READ),
    http_method=GET,
    status_code=200,
    summary="Find tasks",
    response_description="The tasks",
    tags=["tasks"],
    responses=documented(InvalidRequest(LIMIT_RULE, "limit"), TimeoutError()),
)
async def list_tasks(request: ApiRequest) -> TaskPage:
    """Page by page, newest first. What a page costs is bounded, whatever it looks for."""
    asked = read_query(request, ListRequest)
    check_text("type", asked.type or "")
    check_text("name", asked.name or "")
    check_text("tenant", asked.tenant or "")
    check_text("key", asked.key or "")
    filter = TaskFilter(**{name: getattr(asked, name) for name in FILTER})
    cursor = None if asked.cursor is None else read_cursor(asked.cursor, filter, asked.sort)
    async with services(request).pool.connection() as conn:
        found = await queries.find_ids(conn, filter, asked.sort, asked.limit, cursor)
        tasks = await queries.find_tasks(conn, found.ids)
    next = None if found.next is None else write_cursor(found.next, filter, asked.sort)
    return TaskPage(tasks, next, found.is_full)


def read_query(request: ApiRequest, kind: type[T]) -> T:
    """What the query asks for, a struct of *kind* with a limit; raises InvalidRequest naming the parameter at fault."""
    given: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise InvalidRequest(f"{name}: given twice", name)
        if "\ufffd" in value:
            raise InvalidRequest(f"{name}: not text in UTF-8", name)
        given[name] = value
    if "limit" in given:
        if not re.fullmatch("[0-9]{1,9}", given["limit"]) or not 1 <= int(given["limit"]) <= LARGEST_PAGE:
            raise InvalidRequest(LIMIT_RULE, "limit")
        given["limit"] = int(given["limit"])
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        field, problem = fault(error)
        raise InvalidRequest(f"{field}: {problem}", field) from error


def parameters(described: dict[str, Any]) -> list[dict[str, Any]]:
    """The parameters of a list for its OpenAPI description, from the schema of what it may be asked."""
    return [_parameter(name, dict(field)) for name, field in described["properties"].items()]


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    schema.pop("default", None) if schema.get("default") is None else None
    description = schema.pop("description", None)
    for choice in schema.pop("anyOf", []):
        schema |= {} if choice == {"type": "null"} else choice
    parameter = {"name": name, "in": "query", "required": False, "schema": schema}
    return parameter if description is None else parameter | {"description": description}
