"""Scopes: what a token may be used for, and what a route asks for."""

from enum import StrEnum


class Scope(StrEnum):
    """No scope includes another, except that ``admin`` includes all."""

    READ = "read"  # look at tasks and their history
    ENQUEUE = "enqueue"  # store tasks
    OPERATE = "operate"  # cancel tasks, retry them by hand, recover them
    ADMIN = "admin"  # everything
