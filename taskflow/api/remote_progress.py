"""What workers over HTTP tell of the attempts that they run."""

from typing import Annotated, Final

import msgspec
from litestar import post
from msgspec import Meta, Raw, Struct, field

from taskflow.api.auth import needs
from taskflow.api.depth import is_deeper
from taskflow.api.problems import WorkerNotFound
from taskflow.api.remote import MOST, NOTHING, Id, read_body, refusals
from taskflow.api.services import ApiRequest, services
from taskflow.api.workers import WorkerId, read_worker_id, wrong_worker_id
from taskflow.context import CHECKPOINT_LIMIT, MESSAGE_LIMIT, encode_checkpoint
from taskflow.errors import InvalidTask
from taskflow.model import Note
from taskflow.queue import workers
from taskflow.queue.progress import tell_progress
from taskflow.scopes import Scope
from taskflow.storable import storable


class ProgressNote(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an attempt tells; what is left out keeps its value."""

    id: Id
    attempt: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    fraction: Annotated[Annotated[float, Meta(ge=0, le=1)] | None, Meta(description="how much of it is done")] = None
    message: Annotated[str, Meta(max_length=MESSAGE_LIMIT, description="beside a fraction")] = ""
    checkpoint: Annotated[
        Raw,
        Meta(
            description=f"an object of up to {CHECKPOINT_LIMIT:,} bytes, given to the next attempt with its claim",
            extra_json_schema={"type": ["object", "null"]},
        ),
    ] = field(default_factory=lambda: NOTHING)  # a default that the description does not have to write


class ProgressNotes(Struct, frozen=True, forbid_unknown_fields=True):
    """What attempts tell; each task once."""

    progress: Annotated[list[ProgressNote], Meta(max_length=MOST)]


class Told(Struct, frozen=True):
    """Tasks whose progress is kept; those that are not this worker's any more: end their handlers."""

    kept: list[int]
    lost: list[int]


_notes: Final = msgspec.json.Decoder(ProgressNotes)


@post(
    "/workers/{id:str}/progress",
    **needs(Scope.WORK),
    status_code=200,
    summary="Tell how far tasks are",
    response_description="It is kept",
    tags=["workers"],
    responses=refusals(wrong_worker_id(), WorkerNotFound()),
)
async def tell(request: ApiRequest, id: WorkerId) -> Told:
    """Once a second is often enough. `GET /tasks/{id}` shows it."""
    given = services(request)
    worker = read_worker_id(id)
    told: list[ProgressNote] = (await read_body(request, _notes, "progress")).progress
    notes = _read(told, given.settings.server_max_json_depth)
    async with given.pool.connection() as conn:
        if await workers.beat(conn, worker) is None:
            raise WorkerNotFound
        kept = await tell_progress(conn, worker, notes)
    return Told(sorted(kept), [note.id for note in notes if note.id not in kept])


def _read(told: list[ProgressNote], depth: int) -> list[Note]:
    """Raises InvalidTask for what cannot be kept."""
    notes: dict[int, Note] = {}
    for index, note in enumerate(told):
        where = f"progress[{index}]"
        if note.id in notes:
            raise InvalidTask(f"{where}.id", "given twice")
        message = None if note.fraction is None else storable(note.message)
        checkpoint = _checkpoint(note.checkpoint, depth, f"{where}.checkpoint")
        notes[note.id] = Note(note.id, note.attempt, note.fraction, message, checkpoint)
    return list(notes.values())


def _checkpoint(given: Raw, depth: int, where: str) -> bytes | None:
    if bytes(given) == b"null":
        return None
    if is_deeper(bytes(given), depth):
        raise InvalidTask(where, f"at most {depth} deep")
    try:
        return encode_checkpoint(given)
    except ValueError as error:
        raise InvalidTask(where, str(error)) from error
