"""The example of a user's own task type does what its docstring says."""

from pathlib import Path

from commands import api, await_ready, await_status, free_port, started

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"

GRADIENT = {"rows": [[0, 85, 170, 255], [0, 85, 170, 255]], "width": 2, "height": 1}


def test_the_example_runs_its_own_task_type_and_refuses_a_payload_that_does_not_fit(own_database: str):
    port = free_port()
    settings = {"DATABASE_URL": own_database, "SERVER_PORT": str(port), "PYTHONDONTWRITEBYTECODE": "1"}
    with (
        started(EXAMPLES, "taskflow-server", "--app", "resize", **settings) as server,
        started(EXAMPLES, "taskflow-worker", "--app", "resize", **settings),
        api(port) as client,
    ):
        await_ready(client, server)
        task = {"name": "a gradient", "type": "resize_image", "payload": GRADIENT}
        id = client.post("/tasks", json=task).json()["added_task_id"]
        assert await_status(client, id, "succeeded")["result"] == [[0, 170]]
        refused = client.post("/tasks", json={**task, "payload": {**GRADIENT, "width": "wide"}})
        assert refused.status_code == 400
        assert "payload.width" in refused.text


def test_the_example_of_a_stream_prints_each_step_until_the_end(own_database: str):
    port = free_port()
    settings = {"DATABASE_URL": own_database, "SERVER_PORT": str(port), "PYTHONDONTWRITEBYTECODE": "1"}
    with started(EXAMPLES, "taskflow-server", **settings) as server, api(port) as client:
        await_ready(client, server)
        task = {"name": "a letter", "type": "send_email", "payload": {"to": "ada@example.com"}}
        id = client.post("/tasks", json=task).json()["added_task_id"]
        with started(EXAMPLES, "python", "follow.py", f"http://127.0.0.1:{port}", str(id)) as follow:
            follow.await_said("queued")
            with started(EXAMPLES, "taskflow-worker", **settings):
                assert follow.process.wait(60) == 0, follow.said
            steps = follow.said.split()
            assert (steps[0], steps[-1]) == ("queued", "succeeded")
        assert client.get(f"/tasks/{id}", params={"wait": 20}).json()["status"] == "succeeded"
