"""``taskflow schedules``: schedules are listed, paused, resumed and run from the shell."""

import json
from pathlib import Path
from subprocess import CompletedProcess

from commands import run
from support import Database, watching


def make(database: Database, name: str = "report", *, type: str = "make_report") -> None:
    database.conn.execute(
        "INSERT INTO taskflow.schedules (name, rule, time_zone, type, next_tick)"
        " VALUES (%s, '0 7 * * *', 'Europe/Berlin', %s, '2999-01-01 06:00Z')",
        [name, type],
    )


def test_schedules_are_listed_paused_resumed_and_run(work_dir: Path, own_database: str):
    def command(*arguments: str) -> CompletedProcess[str]:
        return run(work_dir, "taskflow", "schedules", *arguments, DATABASE_URL=own_database)

    with watching(own_database) as database:
        assert command("list").stdout == "no schedules\n"
        make(database, "a", type="[red]\x1b[31m")
        make(database, "report")
        listed = command("list").stdout
        assert "0 7 * * * Europe/Berlin" in listed
        assert "At 07:00 every day" in listed
        assert "2999-01-01 06:00:00Z" in listed
        assert "[red]\ufffd[31m" in listed
        assert [kept["name"] for kept in json.loads(command("list", "--json").stdout)] == ["a", "report"]

        assert command("pause", "report", "--reason", "holidays").stdout == "paused report\n"
        assert "paused: holidays" in command("list").stdout
        enqueued = command("run-now", "report").stdout
        (id,) = (row[0] for row in database.rows("SELECT id FROM taskflow.tasks WHERE name = 'report'"))
        assert enqueued == f"enqueued task {id}\n"
        assert f"{id} queued" in command("list").stdout
        assert command("resume", "report").stdout.startswith("resumed report; its next tick is at 20")
        assert json.loads(command("pause", "report", "--json").stdout)["pause_reason"] is None


def test_a_schedule_that_does_not_exist_is_told_in_one_line(work_dir: Path, own_database: str):
    for verb in ("pause", "resume", "run-now"):
        refused = run(work_dir, "taskflow", "schedules", verb, "nobody", DATABASE_URL=own_database)
        assert (refused.returncode, refused.stderr) == (1, "Error: no schedule has the name 'nobody'\n")
