"""The documentation: its links lead somewhere, its code runs, and its reference is written from ours."""

import ast
import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import psycopg
import pytest
from commands import api, await_ready, await_status, free_port, run, started
from pages import PAGES, ROOT, blocks, named

from taskflow import settings
from taskflow.cli.main import main

PROGRAMS = {f"taskflow-{name}": main.commands[name] for name in ("server", "worker", "recovery")} | {"taskflow": main}

# Tables of others that the pages use, and tasks with the ids that they name.
OTHERS = """
SELECT taskflow.enqueue('send_email') FROM generate_series(1, 100);
CREATE TABLE orders (customer text);
CREATE TABLE procrastinate_jobs (id bigint, task_name text, args jsonb, scheduled_at timestamptz, status text);
INSERT INTO procrastinate_jobs VALUES (1, 'mail.send_email', '{"to": "ada@example.com"}', NULL, 'todo');
"""


@named([page for page in PAGES if any(blocks(page, "python"))])
def test_python_of_the_documentation_is_python(page: Path) -> None:
    for code in blocks(page, "python"):
        ast.parse(code)


@named([page for page in PAGES if any(blocks(page, "sh"))])
def test_commands_of_the_documentation_have_these_options(page: Path) -> None:
    for code in blocks(page, "sh"):
        checked = subprocess.run(["bash", "-n"], input=code, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        for words in commands_in(code):
            parse(words)


def commands_in(code: str) -> Iterator[list[str]]:
    """The calls of Taskflow's programs in a piece of shell, as words."""
    for line in logical_lines(code):
        words = shlex.split(line, comments=True)
        for start in (index for index, word in enumerate(words) if word in PROGRAMS):
            if start == 0 or words[start - 1] in {"run", "--", "server", "&&", "DATABASE_URL=$PROXY_URL", "exec"}:
                rest = words[start:]
                end = next((at for at, word in enumerate(rest) if word in {"&&", "&", "|", ";", "#", "…"}), len(rest))
                yield rest[:end]


def logical_lines(code: str) -> Iterator[str]:
    """The lines of a piece of shell, those joined that a backslash or an open quote holds together."""
    line = ""
    for piece in code.replace("\\\n", " ").splitlines():
        line += piece
        try:
            shlex.split(line, comments=True)
        except ValueError:
            line += "\n"
        else:
            yield line
            line = ""
    assert not line, line


def parse(words: list[str]) -> None:
    """Parse a command line as click would, without running it; fails for what does not exist."""
    command, arguments = PROGRAMS[words[0]], words[1:]
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        assert arguments[0] in command.commands, words
        command, arguments = command.commands[arguments[0]], arguments[1:]
    try:
        command.make_context(words[0], list(arguments), resilient_parsing=True)
    except click.UsageError as error:
        pytest.fail(f"{' '.join(words)}: {error.message}")


@named([page for page in PAGES if any(blocks(page, "sql"))])
def test_sql_of_the_documentation_runs(page: Path, own_database: str) -> None:
    with psycopg.connect(own_database, autocommit=True) as conn:
        conn.execute(OTHERS)
        for code in blocks(page, "sql"):
            conn.execute(code.encode())


FUNCTION = re.compile(r"`taskflow\.(\w+)\(([\w, ]*)\)`")
VIEW = re.compile(r"^\| `taskflow\.(\w+)` \| .*?`(.*?)`", re.MULTILINE)

ARGUMENTS = "SELECT proname, proargnames FROM pg_proc WHERE pronamespace = 'taskflow'::regnamespace"


def test_functions_and_views_of_sql_are_as_the_page_has_them(dsn: str) -> None:
    page = (ROOT / "docs" / "sql.md").read_text()
    functions = {name: given.split(", ") for name, given in FUNCTION.findall(page)}
    views = {name: given.split(", ") for name, given in VIEW.findall(page)}
    assert {"enqueue", "enqueue_many", "cancel", "retry", "recover", "pause"} <= set(functions)
    assert {"queue", "running", "failed", "throughput", "stuck"} <= set(views)
    with psycopg.connect(dsn) as conn:
        arguments = dict(conn.execute(ARGUMENTS).fetchall())
        for name, names in functions.items():
            assert arguments[name][: len(names)] == names, name
        for name, names in views.items():
            cursor = conn.execute(f"SELECT * FROM taskflow.{name} LIMIT 0".encode())  # a word of our own page
            assert [column.name for column in cursor.description or []] == names, name


def test_the_tutorial_works_word_by_word(tmp_path: Path, own_database: str) -> None:
    tutorial = ROOT / "docs" / "tutorial.md"
    (module,) = blocks(tutorial, "python")
    (tmp_path / "images.py").write_text(module)
    bodies = [json.loads(body) for body in re.findall(r"-d '(\{.*\})'", tutorial.read_text())]
    settings = {"DATABASE_URL": own_database, "SERVER_PORT": str(port := free_port())}
    with (
        started(tmp_path, "taskflow", "up", "--app", "images", "--worker", "normal", **settings) as up,
        api(port) as client,
    ):
        await_ready(client, up)
        cat, wall = (client.post("/tasks", json=body).json()["added_task_id"] for body in bodies)
        assert await_status(client, cat, "succeeded")["result"] == {"width": 640}
        refused = client.post("/tasks", json=bodies[0] | {"payload": {"url": "", "width": "wide"}})
        assert (refused.status_code, refused.json()["field"]) == (400, "payload.width")
        (sql,) = blocks(tutorial, "sql")
        assert run(tmp_path, "taskflow", "psql", "-v", "ON_ERROR_STOP=1", "-c", sql, **settings).returncode == 0
        await_status(client, wall, "failed")
        attempts = [step["attempt"] for step in history(client, wall) if step["new_status"] == "running"]
        assert attempts == [1, 2, 3]
        assert client.post(f"/tasks/{wall}/retry").status_code == 200
        assert up.end(15) == 0


def history(client: httpx.Client, id: int) -> list[dict[str, Any]]:
    return client.get(f"/tasks/{id}/history").json()["history"]


def test_each_setting_is_in_the_readme() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert rows == list(settings.VARIABLES)


def test_the_site_is_built_and_all_its_links_lead_somewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs uv run --group docs")
    built = subprocess.run(
        [Path(sys.executable).parent / "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    names = ("settings", "commands", "api", "schema")
    html = {name: (tmp_path / "reference" / name / "index.html").read_text() for name in names}
    assert all(f"<code>{name}</code>" in html["settings"] for name in settings.VARIABLES)
    assert "taskflow token create" in html["commands"]
    assert "POST /tasks/batch" in html["api"]
    assert "a_running_task_has_a_worker" in html["schema"]
    assert not re.findall(r'(?:src|href)="(https?://(?:fonts|cdn|unpkg)[^"]+)"', html["settings"])


def test_the_pictures_show_the_data_beside_them() -> None:
    folder = ROOT / "docs" / "benchmarks"
    pictures = runpy.run_path(str(folder / "plot.py"))["PICTURES"]
    for name, draw in pictures.items():
        found = json.loads((folder / f"{name}.json").read_text())
        assert (folder / f"{name}.svg").read_text() == draw(found), "run docs/benchmarks/plot.py"
