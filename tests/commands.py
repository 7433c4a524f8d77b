"""Taskflow's commands as real processes, for tests: started, waited for, and gone with the test."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TypeVar

import httpx

from taskflow.settings import VARIABLES

T = TypeVar("T")


def environment(**settings: str) -> dict[str, str]:
    """Our environment with *settings* instead of Taskflow's own variables."""
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return {**inherited, "COLUMNS": "200", **settings}


def command(name: str) -> str:
    """The installed script."""
    script = shutil.which(name, path=Path(sys.executable).parent)
    assert script, f"{name} is not installed beside {sys.executable}"
    return script


def run(directory: Path, name: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command in *directory* to its end."""
    return subprocess.run(
        [command(name), *arguments],
        cwd=directory,
        env=environment(**settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@dataclass
class Started:
    """A command that runs."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def said(self) -> str:
        """All that it wrote to stdout and stderr so far."""
        return self.output.read_text()

    def await_said(self, text: str) -> None:
        """Wait until it wrote *text*."""
        until(lambda: text in self.said or self.process.poll() is not None, lambda: f"no {text!r} in: {self.said}")
        assert text in self.said, self.said

    def end(self, signal: int) -> int:
        """Send *signal*; the exit status."""
        self.process.send_signal(signal)
        return self.process.wait(60)


@contextmanager
def started(directory: Path, name: str, *arguments: str, **settings: str) -> Generator[Started]:
    """Run a command in *directory* until this context ends."""
    with NamedTemporaryFile("wb") as output:
        process = subprocess.Popen(
            [command(name), *arguments],
            cwd=directory,
            env=environment(**settings),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            yield Started(process, Path(output.name))
        finally:
            process.kill()
            process.wait()


def until(condition: Callable[[], T], otherwise: Callable[[], str] = str, seconds: float = 60) -> T:
    """Wait for *condition*; what it gave. Fails saying *otherwise*."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {otherwise()}"
        time.sleep(0.05)
    return answer


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def api(port: int) -> httpx.Client:
    """A client of the API on *port*."""
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30)


def await_ready(client: httpx.Client, server: Started) -> None:
    """Wait until the API says that it is ready."""

    def is_ready() -> bool:
        assert server.process.poll() is None, server.said
        try:
            return client.get("/readiness").status_code == 200
        except httpx.TransportError:
            return False

    until(is_ready, lambda: server.said)


def await_status(client: httpx.Client, id: int, status: str) -> dict[str, object]:
    """Wait until the task has *status*; the task as the API tells it."""

    def look() -> dict[str, object] | None:
        response = client.get(f"/tasks/{id}")
        assert response.status_code == 200, response.text
        task = response.json()
        return task if task["status"] == status else None

    task = until(look, lambda: client.get(f"/tasks/{id}").text)
    assert task is not None
    return task


def processes_of(directory: Path) -> dict[int, str]:
    """The command lines of all other processes that work in *directory* or were started there, by pid (Linux)."""
    found: dict[int, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            inside = (process / "cwd").readlink().is_relative_to(directory)
        except OSError:
            continue  # it has ended meanwhile, or is not ours
        if (inside or str(directory) in line) and int(process.name) != os.getpid():
            found[int(process.name)] = line
    return found


def await_nothing_left(directory: Path) -> None:
    """Wait until no process of *directory* is left."""
    until(lambda: not processes_of(directory), lambda: f"left behind: {processes_of(directory)}", seconds=30)
