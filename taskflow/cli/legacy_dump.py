"""Reads the tables of the original Go system from a plain dump, as pg_dump writes it."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from taskflow.errors import TaskflowError
from taskflow.queue.import_legacy import LegacyTask

TASKS: Final = "tasks"
HISTORY: Final = "tasks_status_change_history"
COPY: Final = re.compile(r'COPY (?:\w+\.)?"?(\w+)"? \((.*)\) FROM stdin;\n')
ESCAPED: Final = re.compile(r"\\(.)")
ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}

Row = Mapping[str, str | None]


class NotADump(TaskflowError):
    """The file is no plain dump of the original's tables."""


@dataclass
class Past:
    """What the history tells of one task."""

    starts: int = 0
    started_at: str | None = None
    finished_at: str | None = None


def read_tasks(dump: Path) -> Iterator[tuple[int, LegacyTask]]:
    """Each task with its old id, in the order of the dump; raises NotADump. Reads the file twice, line by line."""
    pasts = _read_pasts(dump)
    found = False
    for row in _rows(dump, TASKS):
        found = True
        try:
            id = int(row["id"] or "")
            yield id, _to_task(row, pasts.get(id, Past()))
        except (KeyError, ValueError, msgspec.MsgspecError) as error:
            raise NotADump(f"{dump}: a row of tasks (id {row.get('id')}) cannot be read: {error}") from error
    if not found:
        raise NotADump(f"{dump} has no rows of a table tasks; make it with pg_dump --data-only, in plain format")


def _read_pasts(dump: Path) -> dict[int, Past]:
    pasts: dict[int, Past] = {}
    for row in _rows(dump, HISTORY):
        past = pasts.setdefault(int(row.get("task_id") or 0), Past())
        if row.get("new_status") == "running":
            past.starts += 1
            past.started_at, past.finished_at = row.get("created_at"), None
        elif row.get("new_status") in {"succeeded", "failed"}:
            past.finished_at = row.get("created_at")
    return pasts


def _to_task(row: Row, past: Past) -> LegacyTask:
    given = {
        **{name: row[name] for name in ("name", "type", "status", "priority", "created_at")},
        "updated_at": row["updated_at"] or row["created_at"],
        "payload": _read_payload(row["payload"] or "{}"),
        "started_at": past.started_at,
        "finished_at": past.finished_at,
        "attempt": past.starts,
    }
    return msgspec.convert(given, LegacyTask)


def _read_payload(text: str) -> dict[str, object]:
    """The payload as an object: the original's server stored it as JSON inside of a JSON string."""
    value = msgspec.json.decode(text)
    if isinstance(value, str):
        with suppress(msgspec.DecodeError):
            value = msgspec.json.decode(value)
    return msgspec.convert(value, dict[str, object]) if isinstance(value, dict) else {"payload": value}


def _rows(dump: Path, table: str) -> Iterator[Row]:
    """The rows of *table*, by the names of its columns; raises NotADump."""
    columns: list[str] | None = None
    try:
        with dump.open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                if columns is not None:
                    if line == "\\.\n":
                        columns = None
                    else:
                        values = [_unescape(value) for value in line.rstrip("\n").split("\t")]
                        yield dict(zip(columns, values, strict=True))
                elif (start := COPY.fullmatch(line)) and start[1] == table:
                    columns = [name.strip(' "') for name in start[2].split(",")]
    except UnicodeDecodeError as error:
        raise NotADump(f"{dump} is no text in UTF-8; make it with pg_dump --encoding=UTF8, in plain format") from error
    except ValueError as error:
        raise NotADump(f"{dump}: a row of {table} cannot be read: it has not the columns of the table") from error


def _unescape(value: str) -> str | None:
    if value == "\\N":
        return None
    return ESCAPED.sub(lambda found: ESCAPES.get(found[1], found[1]), value)
