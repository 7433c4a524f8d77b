"""Producers: threads that enqueue task after task and note which were acknowledged."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from threading import Event, Thread
from typing import Any

import httpx
import psycopg
from commands import api, until

from taskflow.database import with_defaults

Ack = tuple[float, int]
Enqueue = Callable[[], int]
Connect = Callable[[], tuple[Enqueue, Callable[[], None]]]


class Producer:
    """Enqueues a task every *pause* seconds in a thread; ``acks`` are the times (monotonic) and ids acknowledged.

    After an error it connects anew and enqueues another: what became of the former is unknown, and nobody counts on it.
    """

    def __init__(self, route: str, connect: Connect, *, pause: float) -> None:
        self.route = route
        self.acks: list[Ack] = []
        self.errors: Counter[str] = Counter()
        self._connect = connect
        self._pause = pause
        self._stop = Event()
        self._thread = Thread(target=self._run, name=route)
        self._thread.start()

    def _run(self) -> None:
        next_at = time.monotonic()
        while not self._stop.is_set():
            try:
                enqueue, close = self._connect()
                try:
                    while not self._stop.wait(max(next_at - time.monotonic(), 0.0)):
                        next_at = max(next_at + self._pause, time.monotonic() - self._pause)
                        id = enqueue()
                        self.acks.append((time.monotonic(), id))
                finally:
                    close()
            except (psycopg.Error, httpx.HTTPError) as error:
                self.errors[type(error).__name__] += 1
                self._stop.wait(0.1)

    def end(self) -> None:
        """Enqueue nothing more."""
        self._stop.set()
        self._thread.join(90)
        assert not self._thread.is_alive(), f"{self.route} hangs"

    def gap(self, since: float) -> float:
        """The longest time without an acknowledgement, *since* (monotonic) or just before, in seconds."""
        times = [at for at, _ in self.acks]
        return max((after - before for before, after in pairwise(times) if after >= since), default=float("inf"))

    def await_acks(self, since: float, count: int, seconds: float) -> None:
        """Wait until *count* tasks were acknowledged after *since*."""
        until(
            lambda: len([at for at, _ in self.acks[-count:] if at > since]) == count,
            lambda: f"{self.route}: too few acknowledgements; errors: {dict(self.errors)}",
            seconds,
        )


def over_sql(url: str, type: str) -> Connect:
    """Enqueue by SQL, without prepared statements, which PgBouncer's transaction mode does not know."""

    def connect() -> tuple[Enqueue, Callable[[], None]]:
        conn = psycopg.connect(with_defaults(url, "producer"), autocommit=True, prepare_threshold=None)

        def enqueue() -> int:
            ((id,),) = conn.execute("SELECT taskflow.enqueue(%s, '{}')", [type]).fetchall()
            return id

        return enqueue, conn.close

    return connect


def over_api(port: int, make_task: Callable[[], Mapping[str, Any]]) -> Connect:
    """Enqueue what *make_task* gives, as the API takes it."""

    def connect() -> tuple[Enqueue, Callable[[], None]]:
        client = api(port)

        def enqueue() -> int:
            response = client.post("/tasks", json=make_task())
            return response.raise_for_status().json()["added_task_id"]

        return enqueue, client.close

    return connect
