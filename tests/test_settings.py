"""Settings: from the environment and .env; a wrong one is told in one line that names its variable."""

import os
from pathlib import Path
from typing import Any, get_args

import pytest
from psycopg.conninfo import conninfo_to_dict

from taskflow.errors import SettingsError
from taskflow.settings import VARIABLES, Anonymous, load

WRONG = {
    "SERVER_PORT": ["0", "65536", "-1", "http", "80.5", "8086 8087"],
    "SERVER_TIME_OUT_IN_SECONDS": ["0", "-1", "soon", "nan", "inf", "86401"],
    "WORKER_TIME_OUT_IN_SECONDS": ["0", "5s"],
    "WORKER_CONCURRENCY": ["0", "10001", "many"],
    "WORKER_PROCESSES": ["0", "10001", "many"],
    "WORKER_GRACE_IN_SECONDS": ["0", "-0.1"],
    "WORKER_POLL_IN_SECONDS": ["0", "x"],
    "WORKER_LEASE_IN_SECONDS": ["0", "x"],
    "PRIORITY_AGING_IN_SECONDS": ["0", "x"],
    "RETAIN_SUCCEEDED_DAYS": ["-1", "x"],
    "RETAIN_FAILED_DAYS": ["-1", "x"],
    "RETAIN_CANCELLED_DAYS": ["-1", "x"],
    "SERVER_MAX_BODY_BYTES": ["999", "1MB", "200000001"],
    "SERVER_MAX_BATCH_BYTES": ["-1", "16_000"],
    "SERVER_MAX_BATCH_TASKS": ["0", "1000001"],
    "SERVER_MAX_JSON_DEPTH": ["0", "501"],
    "HEALTH_PORT": ["0", "off"],
    "DB_PORT": ["0", "postgres", "5432\n5433"],
    "DB_SSL_MODE": ["on", "Require"],
    "DB_POOL_MAX_CONNS": ["0", "1e9"],
    "DB_POOLER": ["session", "pgbouncer"],
    "DB_SESSION_PORT": ["0", "postgres"],
    "ALLOW_ANONYMOUS": ["yes", "2"],
    "RATE_LIMIT_PER_MINUTE": ["0", "-1", "1.5", "10000001"],
    "ENABLE_TEST_QUEUE": ["yes", "2"],
    "LOG_LEVEL": ["DEBUG", "loud"],
}


@pytest.mark.parametrize(("variable", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_told_in_one_line_that_names_its_variable(variable: str, value: str):
    with pytest.raises(SettingsError) as told:
        load({variable: value, "DB_PASSWORD": "hunter2"})
    assert told.value.variable == variable
    assert str(told.value).startswith(f"{variable}: ")
    assert repr(value) in str(told.value)
    assert "\n" not in str(told.value)
    assert "hunter2" not in str(told.value)


def test_a_wrong_value_is_tried_for_each_variable_that_can_have_one():
    texts = {name for name, field in VARIABLES.items() if get_args(field.type)[0] in {str, str | None}}
    assert set(VARIABLES) - texts == set(WRONG)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter%2@db/taskflow",
        "postgresql://u:hunter%zz2@db/taskflow",
        "postgresql://u:pass@hunter2@db/taskflow",
        "postgresql://u:pass/hunter2@db/taskflow?x",
        "postgresql://u:hunter2/pass@db/taskflow",
        "host=db password=pass hunter2",
        "host=db password='hunter2",
        "postgresql://u:p@[hunter2/taskflow",
        "mysql://u:hunter2@db/taskflow",
        "hunter2",
    ],
)
def test_a_wrong_url_is_told_without_its_password(url: str):
    with pytest.raises(SettingsError) as told:
        load({"DATABASE_URL": url})
    assert str(told.value).startswith("DATABASE_URL: ")
    assert "\n" not in str(told.value)
    assert not any(part in str(told.value) for part in ("hunter", "pass@", "p@"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%40%25%2F%3Ass@db:5432/taskflow?sslmode=require",
        "postgres:///taskflow",
        "postgresql:///taskflow?host=/var/run/postgresql",
        "host=@abstract dbname=taskflow",
        "host=a,b port=5432,5433 dbname=taskflow",
    ],
)
def test_a_url_that_libpq_reads_is_taken_as_it_is(url: str):
    assert load({"DATABASE_URL": url}).dsn == url


def test_with_nothing_set_all_are_defaults_and_the_database_is_the_embedded_one():
    settings = load({})
    assert settings.dsn is None
    assert (settings.server_host, settings.server_port) == ("127.0.0.1", 8086)
    assert (settings.server_time_out_in_seconds, settings.worker_time_out_in_seconds) == (5, 15)
    assert (settings.health_port, settings.enable_test_queue) == (None, False)


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("SERVER_PORT", " 9000 ", 9000),
        ("SERVER_TIME_OUT_IN_SECONDS", "0.5", 0.5),
        ("HEALTH_PORT", "65535", 65535),
        ("ENABLE_TEST_QUEUE", "true", True),
        ("ENABLE_TEST_QUEUE", "1", True),
        ("ENABLE_TEST_QUEUE", "False", False),
        ("LOG_LEVEL", "debug", "debug"),
        ("SERVER_PORT", "", 8086),
        ("DATABASE_URL", "  ", None),
    ],
)
def test_a_right_value_is_read_and_an_empty_one_is_none(variable: str, text: str, value: Any):
    assert getattr(load({variable: text}), variable.lower()) == value


def test_the_parts_of_the_database_make_its_dsn():
    password = r"p@ss 'word' \ %41"
    environ = {"DB_HOST": "db", "DB_PORT": "6543", "DB_DATABASE": "d", "DB_USERNAME": "u", "DB_PASSWORD": password}
    dsn = load({**environ, "DB_SSL_MODE": "require"}).dsn
    assert dsn is not None
    parts = {"host": "db", "port": "6543", "dbname": "d", "user": "u", "password": password, "sslmode": "require"}
    assert conninfo_to_dict(dsn) == parts


def test_a_host_alone_is_enough():
    dsn = load({"DB_HOST": "db"}).dsn
    assert dsn is not None
    assert conninfo_to_dict(dsn) == {
        "host": "db",
        "port": "5432",
        "dbname": "taskflow",
        "user": "postgres",
        "sslmode": "prefer",
    }


def test_the_authorities_to_trust_are_part_of_the_dsn():
    dsn = load({"DB_HOST": "db", "DB_SSL_MODE": "verify-full", "DB_SSL_ROOT_CERT": "/etc/ca.crt"}).dsn
    assert dsn is not None
    assert {"sslmode": "verify-full", "sslrootcert": "/etc/ca.crt"}.items() <= conninfo_to_dict(dsn).items()


def test_the_url_wins_over_the_parts():
    assert load({"DATABASE_URL": "postgresql://a/b", "DB_HOST": "c"}).dsn == "postgresql://a/b"


POOLER = {"DB_HOST": "pooler", "DB_PORT": "6432", "DB_USERNAME": "u", "DB_PASSWORD": "p"}


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"DB_SESSION_HOST": "server"}, ("server", "5432")),
        ({"DB_SESSION_HOST": "server", "DB_SESSION_PORT": "5433"}, ("server", "5433")),
        ({"DB_SESSION_PORT": "5433"}, ("pooler", "5433")),
        ({"DB_SESSION_PORT": "5433", "DATABASE_URL": "postgresql://u:p@other:6432/d?hostaddr=::1"}, ("other", "5433")),
        ({"DATABASE_SESSION_URL": "postgresql://u:p@server/d", "DB_SESSION_HOST": "c"}, ("server", None)),
    ],
)
def test_what_needs_a_session_goes_to_the_server_itself(given: dict[str, str], place: tuple[str, str | None]):
    settings = load(POOLER | given)
    assert settings.is_pooled
    assert settings.session_dsn is not None
    parts = conninfo_to_dict(settings.session_dsn)
    assert (parts["host"], parts.get("port"), parts["user"], parts["password"]) == (*place, "u", "p")
    assert "hostaddr" not in parts


def test_there_may_be_nothing_but_a_pooler_or_no_pooler():
    assert (load(POOLER | {"DB_POOLER": "transaction"}).session_dsn, load(POOLER).is_pooled) == (None, False)
    assert load(POOLER).session_dsn == load(POOLER).dsn
    assert not load({"DB_POOLER": "none"}).is_pooled


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DB_POOLER", "transaction"),
        ("DB_SESSION_HOST", "server"),
        ("DB_SESSION_PORT", "5432"),
        ("DATABASE_SESSION_URL", "postgresql://server/d"),
    ],
)
def test_a_session_server_without_a_pooler_is_refused(variable: str, value: str):
    with pytest.raises(SettingsError, match=rf"^{variable}: needs DATABASE_URL or DB_HOST"):
        load({variable: value})


def test_a_wrong_session_url_is_told_without_its_password():
    with pytest.raises(SettingsError, match=r"^DATABASE_SESSION_URL: not a URL") as told:
        load(POOLER | {"DATABASE_SESSION_URL": "postgresql://u:hunter%2@db/taskflow"})
    assert "hunter" not in str(told.value)


def test_dotenv_is_read_and_the_environment_wins(work_dir: Path):
    (work_dir / ".env").write_text("# ours\nSERVER_PORT=9001\nDB_HOST='db'\nexport LOG_LEVEL=debug\nUNKNOWN=1\n")
    os.environ["SERVER_PORT"] = "9002"
    settings = load()
    assert (settings.server_port, settings.db_host, settings.log_level) == (9002, "db", "debug")


def test_only_the_working_directorys_own_dotenv_is_read(work_dir: Path):
    (work_dir / ".env").write_text("SERVER_PORT=9001\n")
    (work_dir / "below").mkdir()
    os.chdir(work_dir / "below")
    assert load().server_port == 8086


def test_a_wrong_value_in_dotenv_names_its_variable(work_dir: Path):
    (work_dir / ".env").write_text("SERVER_PORT=http\n")
    with pytest.raises(SettingsError, match=r"^SERVER_PORT: "):
        load()


@pytest.mark.parametrize(
    ("given", "modules"),
    [("a.b", ["a.b"]), (" a , b.c,", ["a", "b.c"]), (",", []), ("", ["taskflow.samples"])],
)
def test_the_apps_are_separated_by_commas(given: str, modules: list[str]):
    assert load({"TASKFLOW_APP": given}).apps == modules


@pytest.mark.parametrize(
    ("given", "anonymous"),
    [
        ({}, Anonymous.LOCAL),
        ({"SERVER_HOST": "::1"}, Anonymous.LOCAL),
        ({"SERVER_HOST": "localhost"}, Anonymous.LOCAL),
        ({"SERVER_HOST": "0.0.0.0"}, Anonymous.NOBODY),
        ({"SERVER_HOST": "tasks.example.com"}, Anonymous.NOBODY),
        ({"SERVER_HOST": "0.0.0.0", "ALLOW_ANONYMOUS": "true"}, Anonymous.EVERYBODY),
        ({"SERVER_HOST": "127.0.0.1", "ALLOW_ANONYMOUS": "true"}, Anonymous.EVERYBODY),
    ],
)
def test_only_a_server_on_loopback_serves_without_tokens_unless_it_is_allowed(
    given: dict[str, str], anonymous: Anonymous
):
    assert load(given).anonymous is anonymous


@pytest.mark.parametrize("proxies", ["10.0.0.1", "10.0.0.0/8, ::1", "10.0.0.1,"])
def test_proxies_are_addresses_or_networks(proxies: str):
    assert load({"TRUSTED_PROXIES": proxies}).trusted_proxies == proxies


@pytest.mark.parametrize("proxies", ["*", "proxy", "10.0.0.1/8", "10.0.0.1 10.0.0.2", "10.0.0"])
def test_a_proxy_that_is_neither_is_refused(proxies: str):
    with pytest.raises(SettingsError, match=r"^TRUSTED_PROXIES: .*expected addresses or networks$"):
        load({"TRUSTED_PROXIES": proxies})


def test_each_variable_is_described():
    assert all("description" in repr(field.type) for field in VARIABLES.values())
