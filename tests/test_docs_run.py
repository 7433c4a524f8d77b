"""Each example of the documentation runs, or says why it cannot.

The comment ``<!-- not run: REASON -->`` on the line before a block, or ``<!-- run by test_FILE.py -->``, takes it out.
Shell and Python run here, in the order of the page; test_docs.py runs SQL.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import yaml
from commands import api, await_ready, environment, free_port, run, started
from pages import PAGES, ROOT, Block, all_blocks, named

# What a page takes for granted: tasks with the ids that it names, of which 25 has ended and the others wait.
TASKS = """
DELETE FROM taskflow.tasks;
DELETE FROM taskflow.workers;
INSERT INTO taskflow.workers (name, host, pid, version, priorities, concurrency) VALUES ('1', '', 1, '', '{normal}', 1);
INSERT INTO taskflow.tasks (id, name, type, payload, status, attempt, worker_id, scheduled_at, started_at, finished_at)
OVERRIDING SYSTEM VALUE
SELECT n, 'welcome Ada', 'send_email', '{"to": "ada@example.com"}',
       (CASE n WHEN 25 THEN 'succeeded' ELSE 'queued' END)::taskflow.status, CASE n WHEN 25 THEN 1 ELSE 0 END,
       CASE n WHEN 25 THEN (SELECT max(id) FROM taskflow.workers) END, now() + interval '1 day',
       CASE n WHEN 25 THEN now() END, CASE n WHEN 25 THEN now() END
FROM generate_series(1, 40) AS n;
SELECT setval('taskflow.tasks_id_seq', greatest(41, nextval('taskflow.tasks_id_seq')));
"""

NAMES = {"handlers.md": "Charge = dict"}
"""What the Python of a page takes for granted, beside DATABASE_URL, URL and TOKEN."""

EXAMPLES = [block for page in PAGES for block in all_blocks(page)]

SHIMS = {
    # An error of the API fails the example; there is a token, so each request needs one.
    "curl": """
case "$*" in *Authorization*) exec {curl} --fail-with-body "$@" ;; esac
exec {curl} --fail-with-body -H "Authorization: Bearer $TOKEN" "$@"
""",
    "uv": '[ "$1" = run ] && shift && exec "$@"',
}


@dataclass
class Arena:
    """A directory to run examples in, with a server of the API."""

    directory: Path
    settings: dict[str, str]

    @property
    def address(self) -> str:
        """Where the server answers."""
        return f"127.0.0.1:{self.settings['SERVER_PORT']}"

    def run(self, command: list[str], code: str) -> None:
        """Run *code* by *command*; fails with what it said if it does not end well."""
        path = f"{self.directory / 'shims'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            [*command, code.replace("127.0.0.1:8086", self.address)],
            cwd=self.directory,
            env=environment(**self.settings, PATH=path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\nof:\n{code}"


@pytest.fixture(scope="module")
def arena(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """A server of the API over a database of this module's own."""
    directory = tmp_path_factory.mktemp("examples")
    shims = directory / "shims"
    shims.mkdir()
    curl = subprocess.run(["which", "curl"], capture_output=True, text=True, check=False).stdout.strip()
    if not curl:
        pytest.skip("there is no curl")
    for name, code in SHIMS.items():
        (shims / name).write_text(f"#!/bin/sh\n{code.replace('{curl}', curl)}\n")
        (shims / name).chmod(0o755)
    token = run(
        directory, "taskflow", "token", "create", "--name", "docs", "--scope", "admin", DATABASE_URL=module_database
    )
    settings = {"DATABASE_URL": module_database, "SERVER_PORT": str(free_port()), "TOKEN": token.stdout.strip()}
    with started(directory, "taskflow-server", **settings) as process, api(int(settings["SERVER_PORT"])) as client:
        await_ready(client, process)
        yield Arena(directory, settings)


def runnable(page: Path) -> list[Block]:
    return [block for block in all_blocks(page) if block.is_run_here and block.language in {"sh", "python"}]


@named([page for page in PAGES if runnable(page)])
def test_the_examples_of_a_page_run(page: Path, arena: Arena) -> None:
    with psycopg.connect(arena.settings["DATABASE_URL"], autocommit=True) as conn:
        conn.execute(TASKS.encode())
    given = "import os\nDATABASE_URL, TOKEN = os.environ['DATABASE_URL'], os.environ['TOKEN']\n"
    given += f"URL = 'http://{arena.address}'\n{NAMES.get(page.name, '')}\n"
    for block in runnable(page):
        if block.language == "sh":
            arena.run(["bash", "-euo", "pipefail", "-c"], block.code)
        else:
            if block.code.startswith("# ") and block.code.partition("\n")[0].endswith(".py"):
                (arena.directory / block.code.partition("\n")[0][2:]).write_text(block.code)
            arena.run([sys.executable, "-c"], given + block.code)


def test_each_example_is_run_or_says_why_not() -> None:
    for block in EXAMPLES:
        if block.note.startswith("run by "):
            other = ROOT / "tests" / block.note.removeprefix("run by ")
            assert other.is_file(), f"{block.place}: there is no {other}"
            assert block.page.name in other.read_text(), f"{block.place}: {other.name} does not name {block.page.name}"
        elif block.note.startswith("not run: "):
            assert len(block.note) > len("not run: ") + 10, f"{block.place} does not say why"
        elif block.language == "yaml":
            yaml.safe_load(block.code)
        else:
            known = {"sh", "python", "sql", "mermaid", ""}  # the last two: a picture, and what was printed
            assert block.language in known, f"{block.place} is {block.language}: nothing runs that"
