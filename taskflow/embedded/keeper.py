"""The keeper: a small process of its own that owns Postgres, and ends with it when the last user is gone.

Started by `users.start_keeper` as ``python -m taskflow.embedded.keeper DIRECTORY BINARIES durable|fast LOCK``, where
LOCK is an inherited descriptor that holds the keeper's lock. SIGTERM stops Postgres cleanly; users that are still there
start another keeper.
"""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from taskflow.embedded.binaries import EmbeddedUnavailable
from taskflow.embedded.cluster import Cluster
from taskflow.embedded.server import Phase, Server, bound_log
from taskflow.embedded.shared import FAILED, READY, keeper_lock, remove_note, try_lock, users_lock, write_note

PERIOD = 0.3  # seconds between looks at a server that is ready
STARTING_PERIOD = 0.02  # seconds between looks at one that starts
RESTART_PAUSE = 0.3  # seconds
CRASHES = 5  # that many crashes within this many seconds, and the keeper gives up
CRASHES_WITHIN = 60.0
LEFTOVERS_PATIENCE = 30.0  # seconds for the backends of a killed postmaster to let go of its memory
LEFTOVERS = re.compile(r"is still in use|lock file .* already exists")

log = logging.getLogger("taskflow.embedded.keeper")


class Keeper:
    """Keeps the server of one directory running while it has users."""

    def __init__(self, server: Server, lock: int) -> None:
        self.server = server
        self.directory = server.cluster.directory
        self.stopping = False
        self._lock = lock
        self._users: int | None = None
        self._announced = False
        self._crashes: list[float] = []
        self._down_since = 0.0

    def interrupt(self, number: int, _frame: object) -> None:
        """Signal handler: stop Postgres cleanly and end, whoever uses it."""
        log.info("stopping: %s", signal.Signals(number).name)
        self.stopping = True

    def run(self) -> None:
        """Keep the server until the last user has left, a signal came, or Postgres could not be kept up."""
        failure = ""
        try:
            self._launch()
            while not (self.stopping or self._directory_is_gone() or self._last_user_left()):
                self.step()
                time.sleep(PERIOD if self._announced else STARTING_PERIOD)
        except (EmbeddedUnavailable, OSError, subprocess.SubprocessError) as error:
            log.error("giving up: %s", error)
            failure = f"the embedded PostgreSQL cannot run: {error}"
        finally:
            self._close(failure)

    def step(self) -> None:
        """Look once: announce a server that became ready, start one that exited again."""
        bound_log(self.server.cluster.log)
        phase = self.server.phase()
        if phase is Phase.READY and not self._announced:
            log.info("ready")
            write_note(self.directory, READY, self.server.cluster.dsn)
            self._announced = True
        elif phase is Phase.EXITED:
            remove_note(self.directory)
            self._count_exit(time.monotonic())
            self._announced = False
            time.sleep(RESTART_PAUSE)
            self._launch()

    def _launch(self) -> None:
        log.info("starting PostgreSQL for %s", self.directory)
        self.server.launch()

    def _count_exit(self, now: float) -> None:
        """Raise EmbeddedUnavailable if starting the server again is of no use."""
        told = self.server.log_tail()
        if self._announced:
            log.warning("PostgreSQL crashed")
            self._crashes = [crash for crash in self._crashes if now - crash < CRASHES_WITHIN] + [now]
            self._down_since = now
            hopeless = len(self._crashes) >= CRASHES
        else:
            self._down_since = self._down_since or now
            hopeless = not LEFTOVERS.search(told) or now - self._down_since > LEFTOVERS_PATIENCE
        if hopeless:
            raise EmbeddedUnavailable(f"PostgreSQL does not stay up; {self.server.cluster.log} ends with:\n{told}")

    def _last_user_left(self) -> bool:
        """Get the users' lock if no one holds it; from then on newcomers wait until this keeper has ended."""
        self._users = try_lock(users_lock(self.directory))
        return self._users is not None

    def _directory_is_gone(self) -> bool:
        """Was the directory removed under us? Another one in its place is not ours."""
        try:
            return not os.path.samestat(os.fstat(self._lock), keeper_lock(self.directory).stat())
        except FileNotFoundError:
            return True

    def _close(self, failure: str) -> None:
        mine = not self._directory_is_gone()
        if mine:
            remove_note(self.directory)
        self.server.stop()
        if mine and failure:
            write_note(self.directory, FAILED, failure)
        log.info("stopped")
        os.close(self._lock)  # first: whoever then gets the users' lock finds no keeper
        if self._users is not None:
            os.close(self._users)


def main(directory: str, binaries: str, durability: str, lock: str) -> None:
    """Leave the process that started us, then keep the server."""
    if os.fork() > 0:
        os._exit(0)
    os.chdir("/")
    os.set_inheritable(int(lock), False)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s [%(process)d] %(message)s")
    cluster = Cluster(Path(directory), Path(binaries), durable=durability == "durable")
    keeper = Keeper(Server(cluster), int(lock))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, keeper.interrupt)
    keeper.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
