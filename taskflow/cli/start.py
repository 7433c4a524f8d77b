"""Where the processes of server and worker begin: with signals, for the rest takes a moment to load."""

import os
import signal


def server() -> None:
    """``taskflow-server``"""
    _leave_when_told()
    from taskflow.cli.server import main

    main()


def worker() -> None:
    """``taskflow-worker``"""
    _leave_when_told()
    from taskflow.cli.worker import main

    main()


def _leave_when_told() -> None:
    """Until the command sees to SIGTERM and SIGINT itself, they end the process with 0: it has done nothing yet.

    An exception could come in the middle of an import, where it may be lost.
    """

    def leave(_number: int, _frame: object) -> None:
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
