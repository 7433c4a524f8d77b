"""Scopes: what a token may be used for, and what a route asks for."""

from enum import StrEnum


class Scope(StrEnum):
    """No scope includes another, except that ``admin`` includes all."""

    READ = "read"  # look at tasks and their history
    ENQUEUE = "enqueue"  # store tasks
    WORK = "work"  # be a worker over HTTP: claim tasks, and finish them
    OPERATE = "operate"  # cancel tasks, retry them by hand, recover them
    ADMIN = "admin"  # everything
