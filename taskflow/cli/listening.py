"""Addresses to listen on: taken ones are told by name, before anything else happens."""

import socket

from taskflow.errors import TaskflowError


class CannotListen(TaskflowError):
    """An address is taken, or not ours."""

    def __init__(self, host: str, port: int, variable: str, reason: str) -> None:
        super().__init__(f"cannot listen on {host}:{port}: {reason}; choose another {variable}")


def listen(host: str, port: int, variable: str) -> socket.socket:
    """A listening socket; raises CannotListen, which names the setting *variable* that chose the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise CannotListen(host, port, variable, error.strerror or str(error)) from error
