"""The process of isolated handlers: runs one attempt after the other, and dies with its worker.

``python -m taskflow.worker.isolated FD PARENT LEVEL [MODULE]…``
"""

import os
import signal
import socket
import sys
from queue import SimpleQueue
from threading import Lock, Thread

from msgspec.structs import replace

from taskflow import logs
from taskflow.context import Context
from taskflow.errors import TaskflowError
from taskflow.lines import heard_by
from taskflow.model import Failed, Line, Retry
from taskflow.process import die_with, kill_started_by
from taskflow.registry import Registry, load
from taskflow.worker.attempt import call_sync, encode_result, outcome_of_error
from taskflow.worker.wire import LENGTH, Broken, Ended, Job, Message, Ready, Said, Told, pack, read_job


class Channel:
    """The socket to the worker; any thread may send."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._turn = Lock()

    def send(self, message: Message) -> None:
        """Send *message*, waiting while the worker is busy."""
        with self._turn:
            self._link.sendall(pack(message))

    def read(self, jobs: "SimpleQueue[Job]") -> None:
        """Hand on what the worker sends; when it is gone, this process and those it has started end at once."""
        with self._link.makefile("rb") as stream:
            while head := stream.read(LENGTH.size):
                jobs.put(read_job(stream.read(*LENGTH.unpack(head))))
        kill_started_by(os.getpid())
        os.killpg(0, signal.SIGKILL)


def main(link: int, parent: int, level: str, apps: list[str]) -> None:
    """Serve the worker *parent* over the socket *link* until it is gone."""
    die_with(parent)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ignore)  # unlike SIG_IGN, what a handler starts does not inherit it
    channel = Channel(socket.socket(fileno=link))
    os.set_inheritable(link, False)
    logs.configure(level)
    try:
        registry = load(apps)
    except TaskflowError as error:
        channel.send(Broken(str(error)))
        return
    if any(task_type.keep_logs for task_type in registry):
        logs.listen()
    jobs = SimpleQueue[Job]()
    Thread(target=channel.read, args=[jobs], daemon=True).start()
    channel.send(Ready())
    while True:
        channel.send(run(registry, jobs.get(), channel))


def _ignore(_number: int, _frame: object) -> None: ...


def run(registry: Registry, job: Job, channel: Channel) -> Ended:
    """Run one attempt. Never raises."""
    task = job.task
    task_type = registry.find(task.type)
    if task_type is None:
        return Ended(error=f"UnknownTaskType: the process of the handler knows no task type {task.type!r}")
    sent = [job.checkpoint]

    def tell(context: Context) -> None:
        note = context.note
        if note.checkpoint is sent[0]:
            note = replace(note, checkpoint=None)
        else:
            sent[0] = note.checkpoint
        channel.send(Told(note))

    context = Context(task, job.checkpoint, tell)

    def say(line: Line) -> None:
        channel.send(Said(line))

    logs.current_task.set(task)
    heard_by.set(say if task_type.keep_logs else None)
    try:
        result = call_sync(task_type, task_type.decode(task.payload), context)
        return Ended(None if result is None else encode_result(result))
    except BaseException as error:  # noqa: BLE001 – the handler's own: data here
        outcome = outcome_of_error(task, task_type, error)
        assert isinstance(outcome, Retry | Failed)
        return Ended(error=outcome.error, delay=outcome.delay.total_seconds() if isinstance(outcome, Retry) else None)
    finally:
        logs.current_task.set(None)
        heard_by.set(None)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
