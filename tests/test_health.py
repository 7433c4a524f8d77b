"""A worker's health endpoints, over real sockets."""

import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from taskflow.worker.health import serve_health

HOST = "127.0.0.1"


class Switch:
    is_on = True

    def __call__(self) -> bool:
        return self.is_on


def measure() -> bytes:
    return b"taskflow_worker_ready 1\n"


@pytest.fixture
def ready() -> Switch:
    return Switch()


@pytest.fixture
def port(ready: Switch) -> Iterator[int]:
    with serve_health(HOST, 0, ready, measure) as port:
        yield port


def get(port: int, path: str) -> tuple[int, object]:
    answer = httpx.get(f"http://{HOST}:{port}{path}", trust_env=False, timeout=30)
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, answer.json()


def test_a_ready_worker_says_so(port: int):
    assert get(port, "/readiness") == (200, {"status": "ready"})
    assert get(port, "/liveness") == (200, {"status": "up"})


def test_a_worker_without_its_database_is_not_ready_but_alive(port: int, ready: Switch):
    ready.is_on = False
    assert get(port, "/readiness") == (503, {"status": "not ready"})
    assert get(port, "/liveness") == (200, {"status": "up"})
    ready.is_on = True
    assert get(port, "/readiness") == (200, {"status": "ready"})


def test_a_probe_may_carry_a_query(port: int):
    assert get(port, "/readiness?verbose=1") == (200, {"status": "ready"})


def test_metrics_are_told_as_they_are_measured(port: int):
    answer = httpx.get(f"http://{HOST}:{port}/metrics", trust_env=False, timeout=30)
    assert (answer.status_code, answer.content) == (200, measure())
    assert answer.headers["content-type"] == "text/plain; version=0.0.4"


def test_nothing_else_is_served(port: int):
    for path in ("/", "/metrics/", "/liveness/", "/readinesses"):
        assert get(port, path) == (404, {"status": "not found"})
    assert httpx.post(f"http://{HOST}:{port}/liveness", trust_env=False, timeout=30).status_code == 501


def test_clients_that_say_nothing_hold_up_nobody(port: int):
    silent = [socket.create_connection((HOST, port)) for _ in range(4)]
    assert get(port, "/liveness") == (200, {"status": "up"})
    for connection in silent:
        connection.close()


def test_probes_at_once_are_all_answered(port: int):
    answers: list[object] = []
    threads = [threading.Thread(target=lambda: answers.append(get(port, "/liveness"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [(200, {"status": "up"})] * 20


def test_the_endpoints_are_answered_while_the_calling_thread_is_blocked(ready: Switch):
    """A handler that blocks the worker's event loop must not make its worker look dead."""
    answers: list[object] = []
    with serve_health(HOST, 0, ready, measure) as port:
        probe = threading.Thread(target=lambda: answers.append(get(port, "/liveness")))
        probe.start()
        deadline = time.monotonic() + 30
        while not answers and time.monotonic() < deadline:
            time.sleep(0.01)
    assert answers == [(200, {"status": "up"})]


def test_the_port_is_free_again_afterwards_and_refused_while_it_is_taken(ready: Switch):
    with (
        serve_health(HOST, 0, ready, measure) as port,
        pytest.raises(OSError),
        serve_health(HOST, port, ready, measure),
    ):
        pass
    with pytest.raises(httpx.ConnectError):
        get(port, "/liveness")
    with serve_health(HOST, port, ready, measure) as again:
        assert again == port
        assert get(port, "/liveness") == (200, {"status": "up"})
