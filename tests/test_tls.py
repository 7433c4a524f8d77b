"""TLS to Postgres: DB_SSL_MODE and DB_SSL_ROOT_CERT, against a server with a real certificate."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from commands import api, await_ready, free_port, run, started
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from taskflow.embedded import private_server
from taskflow.embedded.binaries import SYSTEM
from taskflow.migrate import migrate

BINARIES = next(iter(sorted(SYSTEM.glob("*/bin/postgres"), reverse=True)), None)

pytestmark = pytest.mark.skipif(
    BINARIES is None or shutil.which("openssl") is None,
    reason="needs openssl, and a PostgreSQL of the system: the embedded one has no TLS",
)


def openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def make_authority(directory: Path, name: str) -> Path:
    """A certificate authority: the path of its certificate; its key lies beside."""
    certificate = directory / f"{name}.crt"
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", f"/CN={name}", "-out", certificate, "-keyout", certificate.with_suffix(".key"),
    )  # fmt: skip
    return certificate


def make_certificate(directory: Path, authority: Path, host: str) -> Path:
    """A certificate for *host* by *authority*; its key lies beside, for the account that Postgres runs as."""
    certificate, request = directory / "server.crt", directory / "server.csr"
    openssl(
        "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={host}",
        "-addext", f"subjectAltName=DNS:{host}", "-out", request, "-keyout", directory / "server.key",
    )  # fmt: skip
    openssl(
        "x509", "-req", "-in", request, "-copy_extensions", "copy", "-days", "2", "-CA", authority,
        "-CAkey", authority.with_suffix(".key"), "-CAcreateserial", "-out", certificate,
    )  # fmt: skip
    return certificate


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the certificates of two authorities, ``ours`` and ``other``."""
    directory = tmp_path_factory.mktemp("authorities")
    for name in ("ours", "other"):
        make_authority(directory, name)
    return directory


@pytest.fixture(scope="module")
def database(authorities: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The settings of a migrated database that speaks TLS only, and is called ``localhost``.

    DB_SSL_ROOT_CERT is the directory of the authorities.
    """
    assert BINARIES is not None
    home, port = tmp_path_factory.mktemp("tls"), free_port()
    certificate = make_certificate(authorities, authorities / "ours.crt", "localhost")
    with private_server(home, binaries=BINARIES.parent):
        pass  # now there is a directory that belongs to Postgres' account
    owner = (home / "data" / "PG_VERSION").stat()
    for name in ("server.crt", "server.key"):
        shutil.copy(certificate.with_name(name), home / "data" / name)
        os.chown(home / "data" / name, owner.st_uid, owner.st_gid)
        (home / "data" / name).chmod(0o600)
    hba = home / "data" / "pg_hba.conf"
    hba.write_text("local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
    options = ["ssl=on", "listen_addresses=127.0.0.1", f"port={port}"]
    with private_server(home, binaries=BINARIES.parent, options=options) as dsn:
        with psycopg.connect(dsn, port=port, autocommit=True) as admin:
            admin.execute("CREATE ROLE ada SUPERUSER LOGIN PASSWORD 'secret'")
        migrate(make_conninfo(dsn, port=port))
        yield {
            "DB_PORT": str(port),
            "DB_DATABASE": str(conninfo_to_dict(dsn)["dbname"]),
            "DB_USERNAME": "ada",
            "DB_PASSWORD": "secret",
            "DB_SSL_ROOT_CERT": str(authorities),
        }


@pytest.mark.parametrize(
    ("host", "mode", "authority", "problem"),
    [
        ("localhost", "verify-full", "ours", None),
        ("localhost", "verify-full", "other", "certificate verify failed"),
        (
            "127.0.0.1",
            "verify-full",
            "ours",
            'certificate for "localhost" .*does not match host name "127.0.0.1"',
        ),
        ("127.0.0.1", "verify-ca", "ours", None),
        ("127.0.0.1", "verify-ca", "other", "certificate verify failed"),
        ("127.0.0.1", "require", None, None),
        ("127.0.0.1", "prefer", None, None),
        ("127.0.0.1", "disable", None, "no encryption"),
        ("localhost", "verify-full", "missing", "root certificate file .* does not exist"),
    ],
)
def test_a_mode_connects_exactly_where_it_should(
    work_dir: Path, database: dict[str, str], host: str, mode: str, authority: str | None, problem: str | None
):
    settings = {"DB_HOST": host, "DB_SSL_MODE": mode, **database}
    if authority is not None:
        settings["DB_SSL_ROOT_CERT"] += f"/{authority}.crt"
    else:
        del settings["DB_SSL_ROOT_CERT"]
    done = run(work_dir, "taskflow", "token", "list", **settings)
    assert done.returncode == (0 if problem is None else 1), done.stderr
    assert re.search(problem or "", done.stderr), done.stderr


def test_server_and_worker_speak_tls_on_every_connection(work_dir: Path, database: dict[str, str]):
    settings = {
        "DB_HOST": "localhost",
        "DB_SSL_MODE": "verify-full",
        "SERVER_PORT": str(port := free_port()),
        **database,
    }
    settings["DB_SSL_ROOT_CERT"] += "/ours.crt"
    migrated = run(work_dir, "taskflow", "migrate", **settings)
    assert migrated.stdout == "the schema is up to date\n", migrated.stderr
    with (
        started(work_dir, "taskflow-server", **settings) as server,
        started(work_dir, "taskflow-worker", **settings) as worker,
        api(port) as client,
    ):
        await_ready(client, server)
        worker.await_said("worker.started")
        with psycopg.connect(
            host="127.0.0.1", port=database["DB_PORT"], dbname=database["DB_DATABASE"], user="ada", password="secret"
        ) as conn:
            sessions = conn.execute(
                """
                SELECT split_part(application_name, ' ', 2), bool_and(ssl)
                FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
                WHERE application_name LIKE 'taskflow%' GROUP BY 1
                """
            ).fetchall()
        assert dict(sessions).keys() >= {"api", "worker"}
        assert all(encrypted for _, encrypted in sessions)
        assert worker.end(signal.SIGTERM) == 0
        assert server.end(signal.SIGTERM) == 0
