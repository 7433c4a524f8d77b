"""Whom Postgres runs as: ourselves, or – as it refuses to be root – the user nobody."""

import ctypes
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from taskflow.embedded.binaries import EmbeddedUnavailable

if sys.platform != "win32":
    import pwd

    LIBC = ctypes.CDLL(None)

# <linux/prctl.h>, <linux/securebits.h>, <linux/capability.h>
PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522


@dataclass(frozen=True)
class Account:
    """The user that Postgres runs as; *reach_all* lets it pass closed folders, *switch* says it is not who we are."""

    uid: int
    gid: int
    switch: bool = False
    reach_all: bool = False


def choose_account(directory: Path, program: Path) -> Account:
    """Return the account for a server of *program* in *directory*; raises EmbeddedUnavailable."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedUnavailable(
            "PostgreSQL refuses to run as root, and there is no user nobody: run as another user, or set DATABASE_URL"
        ) from None
    open_to_nobody = all(
        _may_enter(part, nobody.pw_uid, nobody.pw_gid)
        for path in (directory, program, program.resolve())
        for part in (path, *path.parents)
    )
    return Account(nobody.pw_uid, nobody.pw_gid, switch=True, reach_all=not open_to_nobody)


def enter_account(account: Account, parent: int) -> None:
    """Between fork and exec: become *account*, and be interrupted (Postgres: fast shutdown) when *parent* dies."""
    if account.switch:
        if account.reach_all:
            _call("prctl", PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
        os.setgroups([])
        os.setgid(account.gid)
        os.setuid(account.uid)
        if account.reach_all:
            _keep_only_dac_override()
    if sys.platform == "linux":
        _call("prctl", PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _keep_only_dac_override() -> None:
    # Under a closed folder such as /root, nobody reaches neither data nor programs. Opening parents is not ours to do,
    # and copies elsewhere outlive their directory; one capability does, works in containers, and lets no one else in.
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    mask = 1 << CAP_DAC_OVERRIDE
    effective_permitted_inheritable = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    _call("capset", header, effective_permitted_inheritable)
    _call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)


def _call(function: str, *arguments: object) -> None:
    if getattr(LIBC, function)(*arguments) != 0:
        raise OSError(f"{function}{arguments} failed")


def _may_enter(path: Path, uid: int, gid: int) -> bool:
    status = path.stat()
    if status.st_uid == uid:
        return bool(status.st_mode & 0o100)
    return bool(status.st_mode & (0o010 if status.st_gid == gid else 0o001))
