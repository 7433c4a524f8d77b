"""What the answers tell browsers: run nothing but our own scripts, be framed by nobody, keep nothing of the API."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import MakeTask
from serving import api, make_token, served_in_a_thread

from taskflow.scopes import Scope

ASSET = "/schema/assets/swagger-ui.css"


async def test_every_answer_carries_the_headers(own_database: str):
    make_token(own_database, Scope.READ)
    async with api(own_database) as client:
        for path, status in [
            ("/liveness", 200), ("/schema", 200), ("/schema/openapi.json", 200), (ASSET, 200), ("/nope", 404),
            ("/tasks/1", 401),
        ]:  # fmt: skip
            answer = await client.get(path)
            assert answer.status_code == status, path
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["content-security-policy"].startswith("default-src 'none';")
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert "unsafe" not in answer.headers["content-security-policy"]


async def test_only_what_is_the_same_for_everyone_may_be_kept(dsn: str, make_task: MakeTask):
    id = await make_task()
    async with api(dsn) as client:
        for path in [f"/tasks/{id}", f"/tasks/{id}/history", "/tasks/0", "/readiness", "/schema/openapi.json"]:
            assert (await client.get(path)).headers["cache-control"] == "no-store", path
        assert "cache-control" not in (await client.get(ASSET)).headers


def test_a_browser_shows_the_page_of_the_api_under_its_policy(dsn: str, tmp_path: Path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with served_in_a_thread(dsn) as url:
        shown = subprocess.run(
            [
                browser,
                *flags,
                f"--user-data-dir={tmp_path}",
                "--virtual-time-budget=20000",  # milliseconds that pass as soon as the page waits
                "--enable-logging=stderr",
                "--dump-dom",
                f"{url}/schema",
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    assert set(re.findall(r'data-path="([^"]+)"', shown.stdout)) >= {"/tasks", "/tasks/{id}", "/readiness"}
    assert re.findall(r".*Content Security Policy.*", shown.stderr) == []
