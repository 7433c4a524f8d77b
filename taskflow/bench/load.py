"""Load on a server: as many ``POST /tasks`` as it answers, from keep-alive connections."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from taskflow.bench.stage import BenchmarkFailed

BODY: Final = json.dumps({"name": "bench", "type": "noop", "payload": {"i": 1}})


class Load(Struct, frozen=True):
    """What a server answered."""

    requests_per_second: float
    p99_ms: float


def find_wrk() -> str | None:
    """The load generator wrk, if it is installed."""
    return shutil.which("wrk")


def put_load(url: str, connections: int, seconds: int, wrk: str | None, folder: Path) -> Load:
    """Have a process of its own POST tasks for *seconds*; raises BenchmarkFailed unless each was answered with 200."""
    if wrk is None:
        program = [sys.executable, "-P", "-m", "taskflow.bench.poster"]
        command = [*program, f"{url}/tasks", str(connections), str(seconds), BODY]
        return msgspec.json.decode(_run(command), type=Load)
    script = folder / "post.lua"
    script.write_text(f"wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\nwrk.body = [[{BODY}]]\n")
    options = f"--threads 1 --connections {connections} --duration {seconds}s --latency --script".split()
    return read_wrk(_run([wrk, *options, str(script), f"{url}/tasks"]))


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkFailed(f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


RATE: Final = re.compile(r"^Requests/sec: +([\d.]+)", re.MULTILINE)
P99: Final = re.compile(r"^ +99% +([\d.]+)(us|ms|s)$", re.MULTILINE)
PROBLEM: Final = re.compile(r"^ +((?:Non-2xx|Socket errors).*)", re.MULTILINE)
MILLISECONDS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def read_wrk(output: str) -> Load:
    """What wrk printed; raises BenchmarkFailed if requests failed."""
    if problem := PROBLEM.search(output):
        raise BenchmarkFailed(f"requests failed: {problem[1]}")
    rate, p99 = RATE.search(output), P99.search(output)
    if rate is None or p99 is None:
        raise BenchmarkFailed(f"this wrk says something unknown: {output.strip()}")
    return Load(float(rate[1]), float(p99[1]) * MILLISECONDS[p99[2]])
