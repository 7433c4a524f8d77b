"""Tokens: made, listed and revoked by the command, stored as a hash, unique by name while they live."""

import json
import re
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest
from commands import run
from conftest import ask
from serving import make_token

from taskflow import tokens
from taskflow.database import Connection, connect
from taskflow.scopes import Scope

FORM = r"tf_(\d+)_([0-9a-f]{64})"


@pytest.fixture
async def conn(own_database: str):
    """A connection to a database of this test's own: a token would shut the others out of the shared one."""
    async with await connect(own_database, "test") as conn:
        yield conn


# --- the command ---


def test_a_token_is_made_shown_once_and_listed_without_its_secret(work_dir: Path, own_database: str):
    made = run(
        work_dir, "taskflow", "token", "create", "--name", "ci", "--scope", "enqueue", "--scope", "read",
        "--expires", "30d", DATABASE_URL=own_database,
    )  # fmt: skip
    form = re.fullmatch(FORM + "\n", made.stdout)
    assert form, made.stderr
    assert "shown this once" in made.stderr
    listed = run(work_dir, "taskflow", "token", "list", DATABASE_URL=own_database)
    _, row = listed.stdout.splitlines()
    assert re.fullmatch(rf"{form[1]} +ci +read,enqueue +[-0-9]+ [:0-9]+Z +[-0-9]+ [:0-9]+Z +live", row)
    assert form[2] not in listed.stdout + listed.stderr
    listed = run(work_dir, "taskflow", "token", "list", "--json", DATABASE_URL=own_database)
    (token,) = json.loads(listed.stdout)
    assert {"name": "ci", "scopes": ["read", "enqueue"], "revoked_at": None, "is_live": True}.items() <= token.items()
    assert form[2] not in listed.stdout


def test_a_program_gets_a_token_and_its_end_as_json(work_dir: Path, own_database: str):
    words = ("create", "--name=ci", "--scope=read", "--json")
    made = json.loads(run(work_dir, "taskflow", "token", *words, DATABASE_URL=own_database).stdout)
    form = re.fullmatch(FORM, made.pop("token"))
    assert form
    assert made == {"name": "ci", "scopes": ["read"]}
    gone = run(work_dir, "taskflow", "token", "revoke", "ci", "--json", DATABASE_URL=own_database)
    assert json.loads(gone.stdout) == {"id": int(form[1]), "name": "ci"}


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_token_is_revoked_by_its_name_or_its_id(work_dir: Path, own_database: str, by: str):
    made = run(work_dir, "taskflow", "token", "create", "--name=ci", "--scope=admin", DATABASE_URL=own_database)
    id = made.stdout.split("_")[1]
    token = {"name": "ci", "id": id}[by]
    done = run(work_dir, "taskflow", "token", "revoke", token, DATABASE_URL=own_database)
    assert (done.stdout, done.returncode) == (f"revoked token ci (id {id})\n", 0)
    again = run(work_dir, "taskflow", "token", "revoke", token, DATABASE_URL=own_database)
    assert again.returncode == 1
    assert again.stderr.startswith(f"Error: no live token has the name or id '{token}'")
    listed = run(work_dir, "taskflow", "token", "list", DATABASE_URL=own_database).stdout
    assert listed.splitlines()[1].split()[-1] == "revoked"


def test_a_second_live_token_of_one_name_is_refused_in_one_line(work_dir: Path, own_database: str):
    command = ("taskflow", "token", "create", "--name", "ci", "--scope", "read")
    assert run(work_dir, *command, DATABASE_URL=own_database).returncode == 0
    second = run(work_dir, *command, DATABASE_URL=own_database)
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr == "Error: there is a live token 'ci' already; revoke it, or choose another --name\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--name ci", "Missing option '--scope'"),
        ("--scope read", "Missing option '--name'"),
        ("--name ci --scope write", "'write' is not one of"),
        ("--name 12 --scope read", "not all digits"),
        (f"--name {'x' * 129} --scope read", "1 to 128 printable characters"),
        ("--name ci --scope read --expires 30", "'30' is no lifetime"),
        ("--name ci --scope read --expires 0d", "'0d' is no lifetime"),
        ("--name ci --scope read --expires 36501d", "at most 36500d"),
    ],
)
def test_a_token_that_cannot_be_made_is_refused(work_dir: Path, arguments: str, complaint: str):
    done = run(work_dir, "taskflow", "token", "create", *arguments.split())
    assert done.returncode == 2
    assert complaint in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""


# --- what is stored ---


async def test_the_database_holds_the_hash_of_the_secret_and_nothing_else_of_it(conn: Connection, own_database: str):
    form = re.fullmatch(FORM, make_token(own_database, Scope.READ))
    assert form
    row = await ask(conn, "SELECT token::text FROM taskflow.tokens AS token")
    assert sha256(form[2].encode()).hexdigest() in row
    assert form[2] not in row


async def test_no_two_secrets_are_the_same(conn: Connection):
    made = [await tokens.create(conn, f"token {number}", [Scope.READ]) for number in range(10)]
    assert len({token.rpartition("_")[2] for token in made}) == 10


async def test_a_name_is_free_again_once_its_token_is_revoked_or_expired(conn: Connection):
    await tokens.create(conn, "ci", [Scope.READ])
    with pytest.raises(tokens.TokenNameTaken):
        await tokens.create(conn, "ci", [Scope.READ])
    await tokens.revoke(conn, "ci")
    await tokens.create(conn, "ci", [Scope.READ], timedelta(seconds=-1))
    await tokens.create(conn, "ci", [Scope.READ])
    assert [token.is_live for token in await tokens.list_all(conn)] == [False, False, True]


async def test_only_tokens_that_are_neither_revoked_nor_expired_are_live(conn: Connection):
    await tokens.create(conn, "for ever", [Scope.READ])
    await tokens.create(conn, "for an hour", [Scope.ADMIN], timedelta(hours=1))
    await tokens.create(conn, "expired", [Scope.READ], timedelta(seconds=-1))
    await tokens.create(conn, "revoked", [Scope.READ])
    await tokens.revoke(conn, "revoked")
    forever, hour = await tokens.find_live(conn)
    assert (forever.seconds_left, forever.scopes) == (None, {Scope.READ})
    assert hour.seconds_left is not None
    assert 0 < hour.seconds_left <= 3600


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ("('12', '{read}', sha256(''))", "a_tokens_name_is_not_an_id"),
        ("('ci', '{}', sha256(''))", "a_token_has_a_scope"),
        ("('ci', '{NULL}', sha256(''))", "a_token_has_a_scope"),
        ("('ci', '{read}', 'abc')", "a_hash_has_32_bytes"),
    ],
)
async def test_the_database_refuses_impossible_tokens(conn: Connection, values: str, constraint: str):
    statement = "INSERT INTO taskflow.tokens (name, scopes, hash) VALUES " + values
    with pytest.raises(psycopg.errors.CheckViolation, match=constraint):
        await conn.execute(statement.encode())


# --- how it is read ---


@pytest.mark.parametrize(
    "presented",
    [
        b"",
        b"tf_1_",
        b"tf_1_" + b"0" * 63,
        b"tf_1_" + b"0" * 65,
        b"tf_1_" + b"G" * 64,
        b"tf_0_" + b"0" * 64,
        b"tf__" + b"0" * 64,
        b"tf_" + "١".encode() + b"_" + b"0" * 64,
        b"tf_" + b"9" * 5_000 + b"_" + b"0" * 64,
        b"\xff" * 80,
    ],
)
def test_what_does_not_look_like_a_token_is_none(presented: bytes):
    assert tokens.read_token(presented) is None
