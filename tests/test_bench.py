"""The benchmarks, tiny, through the real command."""

import json
import signal
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
import pytest
from commands import run, started, until
from psycopg.conninfo import make_conninfo

from taskflow.bench.backlog import plan_faults
from taskflow.bench.inserts import insert_by_python
from taskflow.bench.latency import histogram
from taskflow.bench.load import Load, find_wrk, put_load, read_wrk
from taskflow.bench.report import quantile
from taskflow.bench.stage import BenchmarkFailed
from taskflow.cli.bench import main


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


def test_enqueue_compares_busy_and_idle_workers_with_no_trigger(work_dir: Path, server: str) -> None:
    found = bench(work_dir, server, "enqueue", "--clients", "2", "--seconds", "1", "--rounds", "1")
    figures = found["figures"]
    assert found["parameters"]["driver"] == "pgbench"
    assert figures["busy_ratio"] == figures["busy_worker_per_second"] / figures["no_trigger_per_second"]
    assert figures["idle_ratio"] == figures["idle_worker_per_second"] / figures["no_trigger_per_second"]


async def test_without_pgbench_python_inserts(own_database: str) -> None:
    rate = await insert_by_python(own_database, clients=2, seconds=1)
    with psycopg.connect(own_database) as conn:
        stored = conn.execute("SELECT count(*) FROM taskflow.tasks").fetchone()
    assert stored is not None
    assert 0 < rate <= stored[0]


def test_bulk_rounds_up_to_thousands(work_dir: Path, server: str) -> None:
    found = bench(work_dir, server, "bulk", "--tasks", "1500", "--rounds", "1", "--way", "python", "--way", "sql")
    assert found["parameters"]["tasks"] == 2000
    assert set(found["figures"]) == {"python_tasks_per_second", "sql_tasks_per_second"}


def test_bulk_enqueues_over_http(work_dir: Path, server: str) -> None:
    found = bench(work_dir, server, "bulk", "--tasks", "2000", "--rounds", "1", "--way", "http")
    assert found["figures"]["http_tasks_per_second"] > 0


def test_api_is_compared_with_an_empty_handler(work_dir: Path, server: str) -> None:
    found = bench(work_dir, server, "api", "--connections", "2", "--seconds", "1", "--rounds", "1")
    figures = found["figures"]
    assert figures["ratio"] == figures["requests_per_second"] / figures["empty_requests_per_second"]
    assert figures["p99_ms"] > 0


def test_pinned_compares_the_tenths_of_both_drains(work_dir: Path, server: str) -> None:
    found = bench(work_dir, server, "pinned", "--tasks", "500")
    figures = found["figures"]
    assert figures["ratio"] == figures["tasks_per_second"] / figures["free_tasks_per_second"]
    assert len(found["samples"]["tenths_tasks_per_second"]) == 10
    assert len(found["samples"]["free_tenths_tasks_per_second"]) == 10
    ends = found["samples"]["seconds_to_each_hundredth"]
    assert len(ends) == 100
    assert ends == sorted(ends)


def test_features_are_compared_with_a_plain_drain(work_dir: Path, server: str) -> None:
    found = bench(work_dir, server, "features", "--tasks", "200", "--feature", "order_key", "--feature", "limit")
    samples = found["samples"]
    for feature in ("order_key", "limit"):
        (rate,) = samples[f"{feature}_tasks_per_second"]
        assert found["figures"][feature] == rate / samples["plain_tasks_per_second"][0]


def test_sustained_watches_throughput_and_sizes_over_time(work_dir: Path, server: str) -> None:
    found = bench(work_dir, server, "sustained", "--minutes", "0.05", "--tasks", "500")
    figures, samples = found["figures"], found["samples"]
    assert figures["flatness"] == figures["last_tasks_per_second"] / figures["first_tasks_per_second"]
    assert sum(samples["finished_per_second"]) > 0
    lengths = {name: len(values) for name, values in samples.items()}
    assert lengths == dict.fromkeys(lengths, lengths["seconds"]) | {"finished_per_second": 60}
    assert found["at_least"] == {"flatness": 0.95}


def test_backlog_times_claims_and_looks_at_their_plans(work_dir: Path, server: str) -> None:
    found = bench(work_dir, server, "backlog", "--tasks", "20000", "--claims", "20")
    figures, samples = found["figures"], found["samples"]
    assert len(samples["empty_claim_ms"]) == len(samples["stale_claim_ms"]) == len(samples["fresh_claim_ms"]) == 20
    assert figures["stale_ratio"] == figures["stale_p99_ms"] / figures["empty_p99_ms"]
    assert figures["plan_faults"] == 0


def test_backlog_wants_as_many_tasks_as_it_claims(work_dir: Path, server: str) -> None:
    done = run(work_dir, "taskflow", "bench", "backlog", "--tasks", "3999", "--claims", "20", "--dsn", server)
    assert done.returncode == 1
    assert "raise --tasks" in done.stderr


def test_a_sequential_scan_and_a_sort_are_faults_of_a_plan(own_database: str) -> None:
    with psycopg.connect(own_database) as conn:
        conn.execute("SET enable_indexscan = off")
        conn.execute("SET enable_bitmapscan = off")
        conn.execute("SET enable_indexonlyscan = off")
        faults = plan_faults(conn)
    assert "force_custom_plan: Sort" in faults
    assert "force_generic_plan: Seq Scan" in faults


@contextmanager
def answering(status: int) -> Generator[str]:
    """The URL of a server that answers every POST with *status*."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_without_wrk_python_posts(tmp_path: Path) -> None:
    with answering(200) as url:
        load = put_load(url, connections=2, seconds=1, wrk=None, folder=tmp_path)
    assert load.requests_per_second > 0
    assert 0 < load.p99_ms < 1000


@pytest.mark.parametrize("wrk", [None, find_wrk()])
def test_a_failed_request_fails_the_benchmark(tmp_path: Path, wrk: str | None) -> None:
    with answering(503) as url, pytest.raises(BenchmarkFailed, match=r"503|Non-2xx"):
        put_load(url, connections=2, seconds=1, wrk=wrk, folder=tmp_path)


def test_what_wrk_prints_is_read() -> None:
    output = "  Latency Distribution\n     50%  900.00us\n     99%    1.25s\nRequests/sec:   4886.12\n"
    assert read_wrk(output) == Load(requests_per_second=4886.12, p99_ms=1250)


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


@pytest.mark.parametrize("benchmark", sorted(main.commands))
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
