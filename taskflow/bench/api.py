"""What ``POST /tasks`` takes, against an empty Litestar handler that validates the same body on the same server."""

from statistics import median
from typing import Final

from taskflow.bench.backlogs import clear
from taskflow.bench.load import Load, put_load
from taskflow.bench.report import Figure, Result
from taskflow.bench.servers import run_empty_server, run_taskflow_server
from taskflow.bench.stage import BenchmarkFailed, Stage, one, settle

RATIO_BAR: Final = 0.6
WARM_UP: Final = 1  # second


def run(stage: Stage, connections: int, seconds: int, rounds: int, wrk: str | None) -> Result:
    """Load both servers in turns, with nothing else on the stage; medians of the rounds."""
    loads: dict[str, list[Load]] = {"taskflow": [], "empty": []}
    with (
        stage.connect() as conn,
        stage.step("starting the servers"),
        run_taskflow_server(stage) as taskflow,
        run_empty_server(stage) as empty,
    ):
        urls = {"taskflow": taskflow, "empty": empty}
        for url in urls.values():
            put_load(url, connections, WARM_UP, wrk, stage.folder)
        if one(conn, "SELECT count(*) FROM taskflow.tasks") == (0,):
            raise BenchmarkFailed("the server answered, but no task was stored")
        for _ in range(rounds):
            for name, url in urls.items():
                clear(conn)
                settle(conn)
                with stage.step(f"posting to the {name} server"):
                    loads[name].append(put_load(url, connections, seconds, wrk, stage.folder))
    rate, limit = (median(load.requests_per_second for load in loads[name]) for name in urls)
    p99, limit_p99 = (median(load.p99_ms for load in loads[name]) for name in urls)
    return Result(
        benchmark="api",
        parameters={
            "connections": connections,
            "seconds": seconds,
            "rounds": rounds,
            "driver": "python" if wrk is None else "wrk",
        },
        figures=[
            Figure("requests_per_second", "POST /tasks", rate, "requests/s"),
            Figure("p99_ms", "POST /tasks p99", p99, "ms"),
            Figure("empty_requests_per_second", "empty handler", limit, "requests/s"),
            Figure("empty_p99_ms", "empty handler p99", limit_p99, "ms"),
            Figure("ratio", "POST /tasks / empty handler", rate / limit, at_least=RATIO_BAR),
        ],
        samples={f"{name}_requests_per_second": [load.requests_per_second for load in loads[name]] for name in urls},
    )
