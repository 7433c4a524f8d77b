"""The benchmarks, tiny, through the real command."""

import json
import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from commands import run, started, until
from psycopg.conninfo import make_conninfo

from taskflow.bench.latency import histogram, quantile


def bench(directory: Path, server: str, *arguments: str) -> dict[str, Any]:
    """What ``taskflow bench … --json`` found."""
    done = run(directory, "taskflow", "bench", *arguments, "--dsn", server, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def databases(server: str) -> list[str]:
    """The throwaway databases that exist on *server*."""
    with psycopg.connect(server) as conn:
        return [name for (name,) in conn.execute("SELECT datname FROM pg_database WHERE datname ~ '^taskflow_bench_'")]


def test_drain_tells_the_ratio_to_hand_written_sql(work_dir: Path, server: str) -> None:
    found = bench(work_dir, server, "drain", "--tasks", "500", "--workers", "2", "--rounds", "1")
    figures = found["figures"]
    assert figures["ratio"] == pytest.approx(figures["tasks_per_second"] / figures["by_hand_tasks_per_second"])
    assert found["at_least"] == {"ratio": 0.7}
    assert found["parameters"] == {"tasks": 500, "workers": 2, "concurrency": 100, "rounds": 1}
    assert {"fsync", "synchronous_commit", "shared_buffers"} <= set(found["environment"]["settings"])


def test_latency_has_all_samples(work_dir: Path, server: str) -> None:
    found = bench(work_dir, server, "latency", "--tasks", "10", "--every", "0.01")
    samples = found["samples"]["pickup_ms"]
    assert len(samples) == 10
    assert found["figures"]["p50_ms"] == quantile(sorted(samples), 0.5)
    assert found["figures"]["max_ms"] == max(samples)


def test_no_database_is_left_behind(work_dir: Path, server: str) -> None:
    assert not databases(server)
    bench(work_dir, server, "latency", "--tasks", "1")
    assert not databases(server)


def test_ctrl_c_drops_the_database_and_ends_the_workers(work_dir: Path, server: str) -> None:
    with started(work_dir, "taskflow", "bench", "latency", "--tasks", "100000", "--dsn", server) as running:
        until(lambda: databases(server), lambda: running.said)
        assert running.end(signal.SIGINT) == 130
        assert running.said == "Error: interrupted; the benchmark's database is dropped\n"
    assert not databases(server)


def test_a_role_that_may_not_create_databases_is_told_what_to_do(work_dir: Path, server: str) -> None:
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute("CREATE ROLE bench_nobody LOGIN")
    try:
        dsn = make_conninfo(server, user="bench_nobody")
        done = run(work_dir, "taskflow", "bench", "latency", "--dsn", dsn)
    finally:
        with psycopg.connect(server, autocommit=True) as conn:
            conn.execute("DROP ROLE bench_nobody")
    assert done.returncode == 1
    assert "bench_nobody may not create databases: let it" in done.stderr


def test_a_table_is_printed_with_versions_and_hardware(work_dir: Path, server: str) -> None:
    done = run(work_dir, "taskflow", "bench", "latency", "--tasks", "5", "--dsn", server)
    assert done.returncode == 0, done.stderr
    assert "pickup p99" in done.stdout
    assert "PostgreSQL" in done.stdout
    assert "cores" in done.stdout
    assert done.stderr == ""


def test_without_a_server_a_private_one_is_started_and_removed(work_dir: Path) -> None:
    done = run(work_dir, "taskflow", "bench", "latency", "--tasks", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["environment"]["settings"]["shared_buffers"] == "1GB"
    assert list((work_dir / ".taskflow").iterdir()) == []


@pytest.mark.parametrize("benchmark", ["drain", "latency"])
def test_every_benchmark_explains_itself(work_dir: Path, benchmark: str) -> None:
    done = run(work_dir, "taskflow", "bench", benchmark, "--help")
    assert done.returncode == 0
    assert "--dsn" in done.stdout
    assert "--json" in done.stdout


def test_a_histogram_shows_the_bins_between_its_samples() -> None:
    lines = histogram([0.2, 0.3, 2.5, 1000.0])
    assert len(lines) == 12
    assert lines[0].endswith("2")
    assert lines[-1].split() == ["more", "█" * 25, "1"]
