"""Where a benchmark ran: versions, hardware, and the settings of Postgres without which no figure means anything."""

import os
import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final, LiteralString

import psycopg
from msgspec import Struct

SETTINGS: Final[LiteralString] = """
SELECT name, current_setting(name)
FROM unnest(ARRAY['server_version', 'fsync', 'full_page_writes', 'synchronous_commit', 'shared_buffers',
                  'max_wal_size', 'wal_compression', 'jit']) AS setting (name)
"""


class Environment(Struct, frozen=True, kw_only=True):
    """Versions, hardware and settings. The hardware is this machine's; Postgres may run on another."""

    taskflow: str
    python: str
    postgres: str
    cores: int
    processor: str
    memory_bytes: int
    settings: dict[str, str]

    def lines(self) -> list[str]:
        """For people."""
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        return [
            f"Taskflow {self.taskflow}, Python {self.python}, PostgreSQL {self.postgres}: {settings}",
            f"{self.cores} cores, {self.memory_bytes / 2**30:.0f} GB, {self.processor}",
        ]


def describe(dsn: str) -> Environment:
    """This process, this machine, and the server behind *dsn*."""
    with psycopg.connect(dsn) as conn:
        settings = dict(conn.execute(SETTINGS).fetchall())
    return Environment(
        taskflow=version("taskflow-pg"),
        python=platform.python_version(),
        postgres=settings.pop("server_version"),
        cores=os.cpu_count() or 1,
        processor=_processor(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        settings=settings,
    )


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
