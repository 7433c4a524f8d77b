"""What docs/schedules.md shows works."""

import re
import subprocess
from pathlib import Path

from commands import api, await_ready, free_port, started, until
from support import watching

PAGE = (Path(__file__).parents[1] / "docs" / "schedules.md").read_text()


def test_the_examples_of_schedules_work(work_dir: Path, own_database: str):
    (module,) = re.findall(r"```python\n# reports.py\n(.*?)```", PAGE, re.DOTALL)
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    (work_dir / "reports.py").write_text(module)
    settings = {"DATABASE_URL": own_database, "TASKFLOW_APP": "taskflow.samples,reports"}
    port = free_port()
    with (
        watching(own_database) as database,
        started(work_dir, "taskflow-server", SERVER_PORT=str(port), **settings) as server,
        started(work_dir, "taskflow-worker", **settings),
        api(port) as client,
    ):
        await_ready(client, server)
        until(lambda: len(database.rows("SELECT FROM taskflow.schedules")) == 2, lambda: server.said)
        script = commands.replace("8086", str(port)).replace("curl", "curl --fail-with-body")
        done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        names = [kept["name"] for kept in client.get("/schedules").json()["schedules"]]
        assert names == ["clean_up", "hourly report"]
        assert database.one("SELECT count(*) FROM taskflow.tasks WHERE name = 'morning mail'") == 1
        id = client.post("/schedules/hourly report/run").json()["added_task_id"]
        database.await_status(id, "succeeded")
