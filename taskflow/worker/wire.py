"""What a worker and the processes of isolated handlers say to each other: msgpack behind its length, over a socket."""

import struct
from datetime import timedelta
from typing import Final

import msgspec
from msgspec import Struct

from taskflow.model import ClaimedTask, Failed, Line, Note, Outcome, Retry

LENGTH: Final = struct.Struct("!I")


class Job(Struct, frozen=True):
    """An attempt to run, with the checkpoint of earlier ones."""

    task: ClaimedTask
    checkpoint: bytes | None


class Ready(Struct, frozen=True, tag=True):
    """The process knows its task types, and waits for attempts."""


class Broken(Struct, frozen=True, tag=True):
    """The process cannot load the app."""

    reason: str


class Told(Struct, frozen=True, tag=True):
    """The handler told of its progress."""

    note: Note


class Said(Struct, frozen=True, tag=True):
    """The handler logged."""

    line: Line


class Ended(Struct, frozen=True, tag=True):
    """The attempt has ended: it failed where there is an ``error``, for good without a ``delay`` in seconds."""

    result: bytes | None = None
    error: str | None = None
    delay: float | None = None

    @property
    def failure(self) -> Outcome | None:
        """What came of it if it failed."""
        if self.error is None:
            return None
        return Failed(self.error) if self.delay is None else Retry(self.error, timedelta(seconds=self.delay))


Message = Ready | Broken | Told | Said | Ended

_encoder: Final = msgspec.msgpack.Encoder()
read_job: Final = msgspec.msgpack.Decoder(Job).decode
read_message: Final = msgspec.msgpack.Decoder(Message).decode


def pack(message: Job | Message) -> bytes:
    """*message* as it goes over the socket."""
    encoded = _encoder.encode(message)
    return LENGTH.pack(len(encoded)) + encoded
