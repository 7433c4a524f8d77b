"""The limit of ``POST /tasks``: a Litestar app that validates the body as Taskflow does, and stores nothing."""

import gc
from typing import Final

from litestar import Litestar, get, post

from taskflow.api.body import read_task
from taskflow.api.services import ApiRequest
from taskflow.api.tasks import Added
from taskflow.bench.workers import HANDLERS
from taskflow.cli.server import YOUNG
from taskflow.process import keep_loaded
from taskflow.registry import load
from taskflow.settings import Settings

REGISTRY: Final = load([HANDLERS])
SETTINGS: Final = Settings()


@post("/tasks", status_code=200)
async def add_task(request: ApiRequest) -> Added:
    """Validate, and answer at once."""
    read_task(await request.body(), REGISTRY, SETTINGS)
    return Added(1)


@get("/readiness")
async def readiness() -> None:
    """It answers, so it is ready."""


app = Litestar([add_task, readiness], logging_config=None)

# As Taskflow's server does.
keep_loaded()
gc.set_threshold(YOUNG)
