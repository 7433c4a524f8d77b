"""The API's description: OpenAPI 3.1, and a page to browse it that needs no internet."""

from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import msgspec
from litestar import Request, Router
from litestar.enums import MediaType
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.static_files import create_static_files_router  # pyright: ignore[reportUnknownVariableType]
from msgspec import Struct
from swagger_ui_bundle import swagger_ui_path

import taskflow
from taskflow.api import examples, listing, once, remote, remote_progress, remote_results
from taskflow.api.actions import ActionRequest, ActionResult, Cancellation
from taskflow.api.auth import open_to_all
from taskflow.api.batch import JSON, NDJSON, AddedTasks
from taskflow.api.body import TaskRequest
from taskflow.api.groups import AddedGroup, GroupRequest
from taskflow.api.health import Alive, Ready
from taskflow.api.listing import ListRequest, TaskPage
from taskflow.api.policy import LimitRequest, Limits, Pause, Queues
from taskflow.api.problems import Problem
from taskflow.api.schedule_body import ScheduleChanges, ScheduleRequest
from taskflow.api.schedules import ListSchedules, SchedulePage
from taskflow.api.tasks import Added, History, Logs
from taskflow.api.types import Types, payload_schemas
from taskflow.api.workers import Draining, Rescued, Stats, Workers
from taskflow.model import EVERYDAY, Priority
from taskflow.queries import GroupView, TaskView
from taskflow.registry import Registry
from taskflow.schedules import ScheduleView
from taskflow.settings import Settings

PAGES: Final = Path(str(files("taskflow.api") / "pages"))

BODIES: Final = (
    TaskRequest,
    Cancellation,
    ActionRequest,
    ActionResult,
    Added,
    AddedTasks,
    TaskView,
    History,
    Logs,
    Workers,
    Types,
    Queues,
    Limits,
    LimitRequest,
    Pause,
    GroupRequest,
    AddedGroup,
    GroupView,
    Stats,
    Draining,
    Rescued,
    remote.Registration,
    remote.Registered,
    remote.ClaimRequest,
    remote.Claims,
    remote.Heartbeat,
    remote.Beat,
    remote_progress.ProgressNotes,
    remote_progress.Told,
    remote_results.Results,
    remote_results.Recorded,
    remote.Left,
    TaskPage,
    ListRequest,
    ScheduleRequest,
    ScheduleChanges,
    ScheduleView,
    SchedulePage,
    ListSchedules,
    Problem,
    Ready,
    Alive,
)

REQUESTS: Final[dict[tuple[str, str], tuple[type[Struct], bool]]] = {
    ("post", "/tasks/{id}/cancel"): (Cancellation, False),
    ("post", "/workers"): (remote.Registration, True),
    ("post", "/workers/{id}/claims"): (remote.ClaimRequest, True),
    ("post", "/workers/{id}/heartbeat"): (remote.Heartbeat, True),
    ("post", "/workers/{id}/progress"): (remote_progress.ProgressNotes, True),
    ("post", "/workers/{id}/results"): (remote_results.Results, True),
    ("post", "/groups"): (GroupRequest, True),
    ("put", "/limits/{type}"): (LimitRequest, True),
    ("post", "/limits/{type}/pause"): (Pause, False),
    ("post", "/queues/{priority}/pause"): (Pause, False),
    ("patch", "/schedules/{name}"): (ScheduleChanges, True),
    ("post", "/schedules/{name}/pause"): (Pause, False),
}
"""What routes take, and whether it is required."""

TOKEN: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "made by `taskflow token create`; until there is one, a server on loopback asks for none",
}


class Document(JsonRenderPlugin):
    """Litestar's description of the routes, with msgspec's description of the bodies, which is exact."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        super().__init__(media_type=MediaType.JSON)
        self._registry = registry
        self._settings = settings

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The document as JSON."""
        return msgspec.json.encode(self._complete(openapi_schema))

    def _complete(self, document: dict[str, Any]) -> dict[str, Any]:
        _, schemas = msgspec.json.schema_components(BODIES, ref_template="#/components/schemas/{name}")
        examples.add_to(schemas)
        offered = Priority if self._settings.enable_test_queue else EVERYDAY
        for body in ("TaskRequest", "ScheduleRequest", "ScheduleChanges"):
            fields = schemas[body]["properties"]
            fields["type"]["enum"] = self._registry.names()
            fields["priority"] = {"description": "which queue", "enum": [priority.value for priority in offered]}
            if body != "ScheduleChanges":
                fields["priority"]["default"] = Priority.NORMAL.value
        names, payloads = payload_schemas(self._registry)
        schemas |= payloads
        schemas["TaskRequest"]["properties"]["payload"]["anyOf"][0] = {
            "type": "object",
            "anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in names],
        }
        paths = {path: dict(operations) for path, operations in document["paths"].items()}
        task = {"$ref": "#/components/schemas/TaskRequest"}
        batch = {"type": "array", "items": task, "maxItems": self._settings.server_max_batch_tasks}
        _take(paths["/tasks"], {JSON: {"schema": task, "example": examples.REQUEST}})
        _take(
            paths["/tasks/batch"],
            {
                JSON: {"schema": batch, "example": examples.BATCH},
                NDJSON: {"schema": {"type": "string"}, "example": examples.LINES},
            },
        )
        for (method, path), (body, required) in REQUESTS.items():
            schema = {"$ref": f"#/components/schemas/{body.__name__}"}
            paths[path][method]["requestBody"] = {"required": required, "content": {JSON: {"schema": schema}}}
        action = {"$ref": "#/components/schemas/ActionRequest"}
        _take(paths["/tasks/actions"], {JSON: {"schema": action, "example": examples.ACTION}})
        schedule = {"$ref": "#/components/schemas/ScheduleRequest"}
        _take(paths["/schedules"], {JSON: {"schema": schedule, "example": examples.SCHEDULE}})
        for path, asked in (("/tasks", "ListRequest"), ("/schedules", "ListSchedules")):
            paths[path]["get"] = paths[path]["get"] | {"parameters": listing.parameters(schemas.pop(asked))}
        for path in ("/tasks", "/tasks/batch", "/groups"):
            paths[path]["post"] = paths[path]["post"] | {"parameters": [once.PARAMETER]}
        for operations in paths.values():
            operations.pop("head", None)  # it is GET without the body
        return document | {"paths": paths, "components": {"schemas": schemas, "securitySchemes": {"token": TOKEN}}}


def _take(path: dict[str, Any], content: dict[str, Any]) -> None:
    """Describe what POST takes on *path*."""
    path["post"]["requestBody"] = {"required": True, "content": content}


class Page(OpenAPIRenderPlugin):
    """Swagger UI."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The page's HTML; scripts and styles come from ASSETS."""
        return (PAGES / "schema.html").read_bytes()

    def receive_router(self, router: Router) -> None:
        """Drop Litestar's own page for what is not found below the router; our problems tell that."""
        router.routes[:] = [route for route in router.routes if not route.path_parameters]


ASSETS: Final = create_static_files_router(
    "/schema/assets", directories=[PAGES, swagger_ui_path], include_in_schema=False, **open_to_all()
)


def describe(registry: Registry, settings: Settings) -> OpenAPIConfig:
    """What Litestar needs to serve `/schema` and `/schema/openapi.json`."""
    return OpenAPIConfig(
        title="Taskflow",
        version=taskflow.__version__,
        description="A background task queue on PostgreSQL alone.",
        openapi_router=Router("/schema", route_handlers=[], include_in_schema=False, **open_to_all()),
        render_plugins=[Page(), Document(registry, settings)],
        use_handler_docstrings=True,
    )
