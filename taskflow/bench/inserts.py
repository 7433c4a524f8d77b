"""Single-row inserts by many connections at once: by pgbench, or by Python where there is none."""

import asyncio
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final, LiteralString

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from taskflow import embedded
from taskflow.bench.stage import BenchmarkFailed
from taskflow.database import connect

INSERT: Final[LiteralString] = """
INSERT INTO taskflow.tasks (name, type, payload) VALUES ('bench', 'noop', '{"i": 1}')
"""

RATE: Final = re.compile(r"^tps = ([\d.]+) ", re.MULTILINE)


def find_pgbench(setting: str | None) -> str | None:
    """The pgbench of the embedded Postgres (*setting*: TASKFLOW_PG_BIN), else the system's, else None."""
    try:
        beside = shutil.which("pgbench", path=embedded.find_binaries(setting))
    except embedded.EmbeddedUnavailable:
        beside = None
    return beside or shutil.which("pgbench")


def insert_by_pgbench(pgbench: str, dsn: str, clients: int, seconds: int, folder: Path) -> float:
    """Inserts per second of *clients* connections, each insert a transaction of a prepared statement."""
    script = folder / "insert.sql"
    script.write_text(INSERT.strip() + ";\n")
    threads = min(clients, os.cpu_count() or 1)
    options = f"--no-vacuum --protocol=prepared --client={clients} --jobs={threads} --time={seconds}".split()
    parts = conninfo_to_dict(dsn)
    password = parts.pop("password", None)  # anyone sees command lines
    environ = {**os.environ, **({} if password is None else {"PGPASSWORD": str(password)})}
    command = [pgbench, *options, f"--file={script}", make_conninfo("", **parts)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    rate = RATE.search(done.stdout)
    if done.returncode != 0 or rate is None:
        raise BenchmarkFailed(f"{pgbench} failed: {done.stderr.strip()}")
    return float(rate[1])


async def insert_by_python(dsn: str, clients: int, seconds: int) -> float:
    """The same from this process, which may be the slower end."""
    inserted = 0

    async def insert_until(deadline: float) -> None:
        nonlocal inserted
        async with await connect(dsn, "taskflow bench") as conn:
            while time.perf_counter() < deadline:
                await conn.execute(INSERT, prepare=True)
                inserted += 1

    began = time.perf_counter()
    await asyncio.gather(*(insert_until(began + seconds) for _ in range(clients)))
    return inserted / (time.perf_counter() - began)
