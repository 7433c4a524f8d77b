"""All settings, read once from the environment and ``.env``; each field is the variable of the same name."""

import os
import re
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, get_args

import msgspec
import psycopg
from dotenv import load_dotenv
from msgspec import Meta, Struct
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from taskflow.errors import SettingsError, fault
from taskflow.model import Retention

Port = Annotated[int, Meta(ge=1, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Days = Annotated[float, Meta(ge=0, le=36_500)]
Count = Annotated[int, Meta(ge=1, le=10_000)]
Bytes = Annotated[int, Meta(ge=1_000, le=200_000_000)]
Rate = Annotated[int, Meta(ge=1, le=10_000_000)]

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
Pooler = Literal["none", "transaction"]
LogLevel = Literal["debug", "info", "warning", "error"]


class Anonymous(Enum):
    """Whose requests need no token, until there is one."""

    NOBODY = "nobody"
    LOCAL = "local"  # what comes to a loopback address, under a name of its own
    EVERYBODY = "everybody"


class Settings(Struct, frozen=True, kw_only=True, rename=str.upper):
    """The settings in force. Where neither DATABASE_URL nor DB_HOST is given, the embedded Postgres is used."""

    server_host: Annotated[str, Meta(description="address the API listens on")] = "127.0.0.1"
    server_port: Annotated[Port, Meta(description="port of the API")] = 8086
    server_time_out_in_seconds: Annotated[Seconds, Meta(description="a longer request is cancelled with 503")] = 5
    server_max_body_bytes: Annotated[Bytes, Meta(description="largest body of a request, and of a task in a batch")] = (
        1_000_000
    )
    server_max_batch_bytes: Annotated[Bytes, Meta(description="largest body of POST /tasks/batch")] = 16_000_000
    server_max_batch_tasks: Annotated[int, Meta(ge=1, le=1_000_000, description="most tasks of one batch")] = 10_000
    server_max_json_depth: Annotated[int, Meta(ge=1, le=500, description="deepest nesting of a payload")] = 64
    allow_anonymous: Annotated[bool, Meta(description="until there is a token, need none, on any SERVER_HOST")] = False
    rate_limit_per_minute: Annotated[
        Rate | None, Meta(description="requests of one token, or of one address without; unset: no limit")
    ] = None
    trusted_proxies: Annotated[
        str | None, Meta(description="addresses, comma separated, whose X-Forwarded-For is believed")
    ] = None
    worker_time_out_in_seconds: Annotated[Seconds, Meta(description="limit of one attempt")] = 15
    worker_concurrency: Annotated[Count, Meta(description="attempts that one worker runs at once")] = 100
    worker_processes: Annotated[
        Count | None, Meta(description="processes of isolated handlers of one worker; unset: one per CPU")
    ] = None
    worker_grace_in_seconds: Annotated[Seconds, Meta(description="how long a stopping worker waits for attempts")] = 30
    worker_poll_in_seconds: Annotated[Seconds, Meta(description="an idle worker looks again after this long")] = 1
    worker_lease_in_seconds: Annotated[Seconds, Meta(description="a worker silent for longer is taken for gone")] = 15
    priority_aging_in_seconds: Annotated[
        Seconds | None, Meta(description="a task due for so long is raised to priority high; unset: never")
    ] = None
    retain_succeeded_days: Annotated[Days, Meta(description="a succeeded task is kept so long; 0: for ever")] = 7
    retain_failed_days: Annotated[Days, Meta(description="a failed task is kept so long; 0: for ever")] = 30
    retain_cancelled_days: Annotated[Days, Meta(description="a cancelled task is kept so long; 0: for ever")] = 30
    health_host: Annotated[str, Meta(description="address of a worker's health endpoints and metrics")] = "127.0.0.1"
    health_port: Annotated[
        Port | None, Meta(description="port of a worker's health endpoints and metrics; unset: none")
    ] = None
    database_url: Annotated[str | None, Meta(description="libpq URL; wins over DB_HOST and its kin")] = None
    db_host: Annotated[str | None, Meta(description="database server")] = None
    db_port: Annotated[Port, Meta(description="database port")] = 5432
    db_database: Annotated[str, Meta(description="database name")] = "taskflow"
    db_username: Annotated[str, Meta(description="database role")] = "postgres"
    db_password: Annotated[str | None, Meta(description="database password")] = None
    db_ssl_mode: Annotated[SslMode, Meta(description="libpq sslmode")] = "prefer"
    db_ssl_root_cert: Annotated[str | None, Meta(description="libpq sslrootcert: whom verify-full trusts")] = None
    db_pooler: Annotated[Pooler, Meta(description="transaction: DB_HOST or DATABASE_URL leads to a PgBouncer")] = "none"
    db_session_host: Annotated[str | None, Meta(description="database server itself, behind the pooler")] = None
    db_session_port: Annotated[Port | None, Meta(description="its port; unset: 5432")] = None
    database_session_url: Annotated[str | None, Meta(description="libpq URL; wins over DB_SESSION_HOST")] = None
    db_pool_max_conns: Annotated[Count, Meta(description="largest pool of one server process")] = 10
    enable_test_queue: Annotated[bool, Meta(description="let the API accept priority test")] = False
    taskflow_app: Annotated[str, Meta(description="modules with task types, comma separated")] = "taskflow.samples"
    taskflow_dir: Annotated[str, Meta(description="folder of the embedded Postgres")] = ".taskflow"
    taskflow_pg_bin: Annotated[str | None, Meta(description="folder of the embedded Postgres' programs")] = None
    taskflow_url: Annotated[str | None, Meta(description="API that `taskflow top` asks; unset: the database")] = None
    taskflow_token: Annotated[str | None, Meta(description="token that it sends to the API")] = None
    log_level: Annotated[LogLevel, Meta(description="least level that is logged")] = "info"

    @property
    def apps(self) -> list[str]:
        """The modules of ``TASKFLOW_APP``."""
        return [name for part in self.taskflow_app.split(",") if (name := part.strip())]

    @property
    def dsn(self) -> str | None:
        """The libpq connection string; None means the embedded Postgres."""
        if self.database_url is not None:
            return self.database_url
        if self.db_host is None:
            return None
        return make_conninfo(
            host=self.db_host,
            port=self.db_port,
            dbname=self.db_database,
            user=self.db_username,
            password=self.db_password,
            sslmode=self.db_ssl_mode,
            sslrootcert=self.db_ssl_root_cert,
        )

    @property
    def retention(self) -> Retention:
        """How long workers keep tasks that have ended."""
        return Retention(self.retain_succeeded_days, self.retain_failed_days, self.retain_cancelled_days)

    @property
    def session_dsn(self) -> str | None:
        """The libpq connection string for what needs a session of its own.

        None: there is nothing but the pooler, or it is the embedded Postgres.
        """
        if self.database_session_url is not None:
            return self.database_session_url
        if self.dsn is None or not (self.db_session_host or self.db_session_port):
            return None if self.db_pooler == "transaction" else self.dsn
        parts = conninfo_to_dict(self.dsn)
        parts.pop("hostaddr", None)
        parts |= {"host": self.db_session_host or parts.get("host"), "port": self.db_session_port or 5432}
        return make_conninfo("", **parts)

    @property
    def is_pooled(self) -> bool:
        """Whether ``dsn`` leads to a pooler in transaction mode."""
        return self.session_dsn != self.dsn

    @property
    def is_sessionless(self) -> bool:
        """Whether there is nothing but such a pooler."""
        return self.is_pooled and self.session_dsn is None

    @property
    def anonymous(self) -> Anonymous:
        """Whose requests need no token, until there is one."""
        if self.allow_anonymous:
            return Anonymous.EVERYBODY
        return Anonymous.LOCAL if self.is_local else Anonymous.NOBODY

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the API."""
        return is_loopback(self.server_host)


VARIABLES: Mapping[str, msgspec.structs.FieldInfo] = {
    field.encode_name: field for field in msgspec.structs.fields(Settings)
}
"""Every variable that Settings reads: its type, description and default."""

# Libpq's own words would quote a part of the password.
NOT_A_URL: Final = (
    "not a URL as libpq reads it: postgresql://user:password@host:5432/database, "
    "where %, @, : and / inside the password are written %25, %40, %3A and %2F"
)


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from *environ*, or from the process's environment and ``.env`` beside it.

    An empty value counts as unset. Raises SettingsError naming the variable that cannot be used.
    """
    if environ is None:
        load_dotenv(Path(".env"))
        environ = os.environ
    given = {name: value for name in VARIABLES if (value := environ.get(name, "").strip())}
    try:
        settings = msgspec.convert(given, Settings, strict=False)
    except msgspec.ValidationError as error:
        variable, problem = fault(error)
        raise SettingsError(variable, f"{_plain(problem)}; got {given[variable]!r}") from None
    check_url("DATABASE_URL", settings.database_url)
    check_url("DATABASE_SESSION_URL", settings.database_session_url)
    for variable in ("DATABASE_SESSION_URL", "DB_SESSION_HOST", "DB_SESSION_PORT", "DB_POOLER"):
        if variable in given and settings.dsn is None and given[variable] != "none":
            raise SettingsError(variable, "needs DATABASE_URL or DB_HOST, which lead to the pooler")
    _check_proxies(settings.trusted_proxies or "")
    return settings


class Told(NamedTuple):
    """A setting in force, without what is secret in it."""

    variable: str
    value: str
    is_default: bool
    description: str


SECRET: Final = ("PASSWORD", "TOKEN", "SECRET", "KEY")
"""Parts of the names of variables whose values are told to nobody."""


def tell(settings: Settings) -> list[Told]:
    """All settings in force, by their variables, for people."""
    return [
        Told(
            variable,
            _tell(variable, value := getattr(settings, field.name)),
            value == field.default,
            get_args(field.type)[-1].description,
        )
        for variable, field in VARIABLES.items()
    ]


def _tell(variable: str, value: object) -> str:
    if value is None:
        return "–"
    if any(part in variable for part in SECRET):
        return "(hidden)"
    if variable in {"DATABASE_URL", "DATABASE_SESSION_URL"}:
        parts = conninfo_to_dict(str(value))
        return " ".join(f"{key}={parts[key]}" for key in ("host", "port", "dbname", "user") if parts.get(key))
    if variable.endswith("_URL"):
        return re.sub(r"//[^/@]*@", "//", str(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


@lru_cache(256)
def is_loopback(host: str) -> bool:
    """Whether *host* can be reached from this machine only. (Asked at each request of an anonymous caller.)"""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_url(variable: str, url: str | None) -> None:
    """Raise SettingsError, which does not quote *url*, unless libpq can read it; None is none."""
    if url is None:
        return
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise SettingsError(variable, NOT_A_URL) from None
    host, port = (str(parts.get(key, "")) for key in ("host", "port"))
    if "@" in host[1:] or port.strip("0123456789,"):  # a piece of the password; an abstract socket begins with @
        raise SettingsError(variable, NOT_A_URL)


def _check_proxies(proxies: str) -> None:
    for proxy in filter(None, map(str.strip, proxies.split(","))):
        try:
            ip_network(proxy)
        except ValueError as error:
            raise SettingsError("TRUSTED_PROXIES", f"{error}; expected addresses or networks") from None


def _plain(problem: str) -> str:
    return problem[:1].lower() + problem[1:]
