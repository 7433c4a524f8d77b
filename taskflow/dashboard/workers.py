"""Who works on what: the workers, those over HTTP as well; drain and rescue."""

from litestar import get, post
from litestar.params import FromPath
from litestar.response import Redirect, Template

from taskflow import stats
from taskflow.api.auth import shows
from taskflow.api.services import ApiRequest, services
from taskflow.api.workers import read_worker_id
from taskflow.dashboard.pages import HOME, done, page, snapshot
from taskflow.maintenance import rescue_all
from taskflow.queue import workers
from taskflow.scopes import Scope

HERE = f"{HOME}/workers"
GONE = "There is no such worker any more."


@get("/workers", **shows(Scope.READ))
async def workers_page(request: ApiRequest) -> Template:
    """Those that have not stopped."""
    found = await snapshot(request, "workers", stats.find_workers)
    return page(
        request,
        "workers.html",
        title="Workers",
        workers=found,
        lease=services(request).settings.worker_lease_in_seconds,
        slots=sum(worker.concurrency for worker in found),
        running=sum(worker.running for worker in found),
    )


@get(["/workers/{id:str}/drain", "/workers/{id:str}/rescue"], **shows(Scope.OPERATE))
async def confirm(request: ApiRequest, id: FromPath[str]) -> Redirect | Template:
    """What becomes of the worker and of what it runs, and a form that asks."""
    number, action = read_worker_id(id), request.url.path.rpartition("/")[2]
    found = await snapshot(request, "workers", stats.find_workers)
    worker = next((worker for worker in found if worker.id == number), None)
    if worker is None:
        return Redirect(HERE, status_code=303)
    return page(
        request,
        "worker_confirm.html",
        title=f"{action.capitalize()} {worker.name}?",
        action=action,
        worker=worker,
        silent=worker.silent_seconds > services(request).settings.worker_lease_in_seconds,
    )


@post("/workers/{id:str}/drain", **shows(Scope.OPERATE))
async def drain(request: ApiRequest, id: FromPath[str]) -> Redirect:
    """Have it end what it runs, and stop."""
    number = read_worker_id(id)
    async with services(request).pool.connection() as conn:
        name = await workers.drain(conn, number)
    if name is None:
        return done(request, GONE, to=HERE, kind="bad", worker=number)
    return done(
        request, f"Worker {name} claims nothing more, and stops once what it runs has ended.", to=HERE, worker=name
    )


@post("/workers/{id:str}/rescue", **shows(Scope.OPERATE))
async def rescue(request: ApiRequest, id: FromPath[str]) -> Redirect:
    """Take it for gone, and put back what it runs."""
    number = read_worker_id(id)
    async with services(request).pool.connection() as conn:
        name = await workers.stop(conn, number)
        if name is None:
            return done(request, GONE, to=HERE, kind="bad", worker=number)
        rescued = await rescue_all(conn, number)
    tasks = f"{rescued:,} task{'' if rescued == 1 else 's'}"
    return done(request, f"Worker {name} counts as gone; {tasks} put back.", to=HERE, worker=name, rescued=rescued)


ROUTES = (workers_page, confirm, drain, rescue)
