"""The presence's connection: it belongs to a thread of its own, not to the event loop."""

from typing import Any, Final, LiteralString, Self

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from taskflow.connection import USE
from taskflow.database import with_defaults

KEEPALIVES: Final = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3"}
"""A server that lost us shall free our name soon."""


class Session(psycopg.Connection[TupleRow]):
    """A connection on which psycopg.OperationalError is raised if no answer comes in time."""

    patience: float | None = None
    _limits: Any = None

    @classmethod
    def open(cls, dsn: str, application: str, *, limit: float, pooled: bool) -> Self:
        """One in autocommit mode, on which a statement that takes longer than *limit* seconds fails.

        Unless it is *pooled* (Postgres is behind a pooler in transaction mode) it listens for notifications.
        """
        prepare_after = None if pooled else 5
        conn = cls.connect(with_defaults(dsn, application), autocommit=True, prepare_threshold=prepare_after)
        conn.patience = limit + 1
        settings = {"statement_timeout": str(int(limit * 1000))}
        try:
            if pooled:
                conn._limits = _parameters(settings, is_local=True)
            else:
                conn.execute("LISTEN taskflow")
                conn.execute(USE, _parameters(settings | KEEPALIVES, is_local=False))
        except BaseException:
            conn.close()
            raise
        return conn

    def wait(self, *arguments: Any, **options: Any) -> Any:
        """Every statement passes here."""
        try:
            return super().wait(*arguments, **{"timeout": self.patience, **options})
        except psycopg.OperationalError as error:
            if self.info.transaction_status is TransactionStatus.ACTIVE:
                raise psycopg.OperationalError(f"no answer within {self.patience} s") from error
            raise

    def run(self, statement: LiteralString, parameters: Any) -> psycopg.Cursor[TupleRow]:
        """Execute *statement* within the limits; behind a pooler they have to be set each time."""
        if self._limits is None:
            return self.execute(statement, parameters)
        with self.transaction():
            self.execute(USE, self._limits)
            return self.execute(statement, parameters)


def _parameters(settings: dict[str, str], *, is_local: bool) -> dict[str, Any]:
    return {"is_local": is_local, "names": list(settings), "settings": list(settings.values())}
