"""A worker whose statements Postgres refuses for a while, as in a clumsy migration, waits instead of giving up."""

from pathlib import Path

import httpx
from commands import free_port, until
from support import Workers, log_lines


def test_a_worker_outlives_a_table_that_does_not_fit_for_a_while(workers: Workers, tmp_path: Path):
    db = workers.database
    gate = tmp_path / "gate"
    running = [db.enqueue(type, {"file": str(gate)}) for type in ("wait_for_file", "wait_in_thread")]
    port = free_port()
    worker = workers.start_ready("--id", "1", HEALTH_PORT=str(port), WORKER_LEASE_IN_SECONDS="5")
    for task in running:
        workers.await_entry(task)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as health:
        until(lambda: health.get("/readiness").status_code == 200)
        db.conn.execute("ALTER TABLE taskflow.tasks RENAME COLUMN updated_at TO changed_at")
        until(lambda: health.get("/readiness").status_code == 503)
        gate.touch()
        for task in running:
            workers.await_entry(task, event="done")
        until(lambda: worker.said.count("database.refused") == 2)  # claims and finishes, once each
        assert health.get("/liveness").status_code == 200
        db.conn.execute("ALTER TABLE taskflow.tasks RENAME COLUMN changed_at TO updated_at")
        until(lambda: health.get("/readiness").status_code == 200)
    for task in [*running, db.enqueue("quick")]:
        db.await_status(task, "succeeded")
        assert db.history(task) == [("queued", "running", 1), ("running", "succeeded", 1)]
    refused = [line for line in log_lines(worker) if line["event"] == "database.refused"]
    assert {line["level"] for line in refused} == {"error"}
    assert all('column "updated_at"' in line["reason"] for line in refused)
