"""The faults of the soak: each does its damage at once, and leaves what ends it for later."""

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from random import Random
from threading import Thread, Timer
from typing import Final

import psycopg
from support import kill

from faults.arena import Arena

LEASE: Final = 15.0
"""The default: what is measured shall hold for most."""

BLOCKED: Final = "handler that blocks its event loop for three leases"

Fault = Callable[[], None]


class Mischief:
    """Faults in an arena; ``tick`` ends what is to end by now, and restarts what has ended, as a supervisor does."""

    def __init__(self, arena: Arena, names: Sequence[str], chance: Random) -> None:
        self.errors: list[str] = []
        self._arena = arena
        self._names = names
        self._chance = chance
        self._busy: set[str] = set()  # workers that have a fault already
        self._away: set[str] = set()  # workers that nobody starts again for now
        self._later: list[tuple[float, Callable[[], None]]] = []

    def faults(self) -> dict[str, Fault]:
        """All faults by what is reported of them."""
        return {
            "nothing, for comparison": lambda: None,
            "worker killed, restarted under its id": lambda: kill(self._arena.workers[self._victim(2)]),
            "worker killed, not restarted": self.lose_a_worker,
            "worker stopped past its lease, then continued": self.stop_a_worker,
            "worker terminated, restarted": self.terminate_a_worker,
            "task that kills its process, three attempts": self.kill_from_inside,
            BLOCKED: self.block_a_loop,
            "server killed, restarted": self.kill_the_server,
            "Postgres restarted (fast)": lambda: self.restart_postgres("fast"),
            "Postgres restarted (immediate)": lambda: self.restart_postgres("immediate"),
            "all sessions terminated": self.terminate_sessions,
            "table locked for 10 s": self.lock_the_table,
            "no connection to be had for 10 s": self.take_all_connections,
            "tasks cancelled and retried by hand in opposite orders": self.cancel_and_retry,
        }

    def tick(self) -> None:
        """Do what is due."""
        due = [each for each in self._later if each[0] <= time.monotonic()]
        self._later = [each for each in self._later if each not in due]
        for _, end in due:
            end()
        for name in self._names:
            if name not in self._away and self._arena.workers[name].process.poll() is not None:
                self._arena.start_worker(name, WORKER_LEASE_IN_SECONDS=str(LEASE))
        if self._arena.server is not None and self._arena.server.process.poll() is not None:
            self._arena.start_server()

    def end_all(self) -> None:
        """End every fault now."""
        self._later = [(0.0, end) for _, end in self._later]
        self.tick()

    def _in(self, seconds: float, end: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, end))

    def _victim(self, busy_for: float) -> str:
        """A worker that has no fault now, and none but this one for so many seconds."""
        name = self._chance.choice([name for name in self._names if name not in self._busy])
        self._busy.add(name)
        self._in(busy_for, lambda: self._busy.discard(name))
        return name

    def lose_a_worker(self) -> None:
        name = self._victim(LEASE + 10)
        self._away.add(name)
        kill(self._arena.workers[name])
        self._in(LEASE + 10, lambda: self._away.discard(name))

    def stop_a_worker(self) -> None:
        name = self._victim(LEASE + 10)
        process = self._arena.workers[name].process
        process.send_signal(signal.SIGSTOP)
        self._in(LEASE + 5, lambda: process.send_signal(signal.SIGCONT))

    def terminate_a_worker(self) -> None:
        self._arena.workers[self._victim(10)].process.send_signal(signal.SIGTERM)

    def kill_from_inside(self) -> None:
        self._arena.database.enqueue("kill_the_process", max_attempts=3)

    def block_a_loop(self) -> None:
        self._arena.database.enqueue("block_the_loop", {"seconds": 3 * LEASE}, max_attempts=1000)

    def kill_the_server(self) -> None:
        if self._arena.server is not None:
            kill(self._arena.server)

    def restart_postgres(self, how: str) -> None:
        self._arena.postgres.stop(how)
        time.sleep(self._chance.uniform(0, 2))
        self._arena.postgres.start()

    def terminate_sessions(self) -> None:
        self._arena.database.cut("%taskflow%")

    def lock_the_table(self) -> None:
        locker = psycopg.connect(self._arena.postgres.dsn)
        locker.execute("LOCK TABLE taskflow.tasks")
        Timer(10, locker.close).start()  # not later, at a tick: until then, whoever looks at the table waits

    def take_all_connections(self) -> None:
        """Terminate Taskflow's sessions and leave no room for new ones."""
        taken = ExitStack()
        self._in(10, taken.close)
        self._arena.database.cut("%taskflow%")
        for _ in range(1000):
            try:
                taken.enter_context(psycopg.connect(self._arena.postgres.dsn, application_name="taker"))
            except psycopg.OperationalError:
                return

    def cancel_and_retry(self) -> None:
        """Four sessions cancel the newest thousand tasks and retry them by hand, for five seconds."""
        threads = [Thread(target=self._cancel_and_retry, args=(descending,)) for descending in (False, True) * 2]
        for thread in threads:
            thread.start()

        def join() -> None:
            for thread in threads:
                thread.join()

        self._in(6, join)

    def _cancel_and_retry(self, descending: bool) -> None:
        newest = "SELECT id FROM taskflow.tasks ORDER BY id DESC LIMIT 1000"
        ends_at = time.monotonic() + 5
        try:
            with psycopg.connect(self._arena.postgres.dsn, autocommit=True) as conn:
                while time.monotonic() < ends_at:
                    ids = sorted((id for (id,) in conn.execute(newest)), reverse=descending)
                    conn.execute("SELECT FROM taskflow.cancel(%s)", [ids])
                    conn.execute("SELECT FROM taskflow.retry(%s)", [ids])
                    time.sleep(0.2)
        except psycopg.Error as error:
            self.errors.append(f"cancelling and retrying: {type(error).__name__}: {error}")
