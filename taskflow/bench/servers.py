"""Real servers on loopback: Taskflow's, and an empty one to compare it with."""

import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Final

import httpx

from taskflow.bench.stage import BenchmarkFailed, Stage
from taskflow.bench.workers import HANDLERS, environment
from taskflow.cli.children import Child, kill, start_child, stop

HOST: Final = "127.0.0.1"
READY_WITHIN: Final = 60.0
STOPPED_WITHIN: Final = 10.0


@contextmanager
def run_taskflow_server(stage: Stage) -> Generator[str]:
    """The URL of one ``taskflow server`` process with the settings in force, until this context ends."""
    port = free_port()
    arguments = ["server", "--host", HOST, "--port", str(port), "--app", HANDLERS]
    with _run(start_child("server", arguments, environment(stage), stage.folder), port) as url:
        yield url


@contextmanager
def run_empty_server(stage: Stage) -> Generator[str]:
    """The URL of `empty_app` on uvicorn, set up as Taskflow's own server is."""
    port = free_port()
    options = f"--host {HOST} --port {port} --http httptools --ws none --no-access-log --no-server-header".split()
    log = stage.folder / "empty-server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "uvicorn", "taskflow.bench.empty_app:app", *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    with _run(Child("the empty server", process, log), port) as url:
        yield url


@contextmanager
def _run(server: Child, port: int) -> Generator[str]:
    url = f"http://{HOST}:{port}"
    try:
        _await_ready(server, url)
        yield url
        stop([server.process], STOPPED_WITHIN)
    finally:
        kill([server.process])


def _await_ready(server: Child, url: str) -> None:
    deadline = time.monotonic() + READY_WITHIN
    with httpx.Client(trust_env=False) as client:
        while time.monotonic() < deadline:
            server.check()
            with suppress(httpx.TransportError):
                if client.get(f"{url}/readiness").status_code == 200:
                    return
            time.sleep(0.05)
    raise BenchmarkFailed(f"{server.name} did not answer within {READY_WITHIN:g} s; see the load of this host")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server((HOST, 0)) as listener:
        return listener.getsockname()[1]
