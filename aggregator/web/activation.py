"""Sockets that were passed in by whoever started this process: systemd's protocol, sd_listen_fds(3).

Decides whether they are fit to be doors. They are theirs who made them: a unix socket's file is never removed here.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import MutableMapping, Sequence
from typing import Final

FIRST: Final = 3
"""SD_LISTEN_FDS_START: the first descriptor that is passed."""
MAX_SOCKETS: Final = 64
_OPEN_TO_OTHERS: Final = stat.S_IWOTH


class BadSocket(Exception):
    """A socket that was passed in cannot be a door; the text says why, and what to do in its unit."""


def passed_sockets(environ: MutableMapping[str, str], first: int = FIRST) -> list[socket.socket]:
    """The sockets that were passed to this very process, in order; BadSocket when one is not fit.

    What said so leaves the environment, and no child inherits them.
    """
    told = {name: environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")}
    if told["LISTEN_PID"] != str(os.getpid()) or not told["LISTEN_FDS"]:
        return []
    if not re.fullmatch(r"[0-9]{1,4}", told["LISTEN_FDS"]) or int(told["LISTEN_FDS"]) > MAX_SOCKETS:
        raise BadSocket(f"LISTEN_FDS must be a number up to {MAX_SOCKETS}, got {told['LISTEN_FDS'][:20]!r}")
    names = told["LISTEN_FDNAMES"].split(":")
    count = int(told["LISTEN_FDS"])
    return [_socket(first + place, names[place] if place < len(names) else "") for place in range(count)]


def _socket(descriptor: int, name: str) -> socket.socket:
    shown = f"the socket passed as descriptor {descriptor}" + (f" ({name})" if name else "")
    try:
        os.set_inheritable(descriptor, False)
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise BadSocket(f"{shown} is no socket; a socket unit passes one by ListenStream=")
        found = socket.socket(fileno=descriptor)
    except OSError as exc:
        raise BadSocket(f"{shown} cannot be used: {exc.strerror}") from exc
    families = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    listening = found.type == socket.SOCK_STREAM and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if found.family not in families or not listening:
        found.close()
        raise BadSocket(f"{shown} does not listen for streams; its unit needs ListenStream= and Accept=no")
    return found


def check_doors(sockets: Sequence[socket.socket], *, keys: bool) -> None:
    """Without keys whoever can connect is the admin: only unix sockets will do, and no open ones. BadSocket else."""
    if keys:
        return
    for one in sockets:
        address = one.getsockname()
        shown = describe(address)
        if one.family != socket.AF_UNIX:
            raise BadSocket(
                f"a TCP socket was passed in ({shown}), but there are no keys: add some to the config, "
                "or pass a unix socket"
            )
        path = address if isinstance(address, str) else ""
        if not path:
            raise BadSocket(
                f"{shown} has no file, so anybody on this machine may connect: add keys to the config, "
                "or pass a unix socket with a path"
            )
        if _is_open_to_others(path):
            raise BadSocket(
                f"anybody on this machine may connect to {shown}, and there are no keys: set SocketMode=0660 in its "
                "unit, or add keys to the config"
            )


def _is_open_to_others(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & _OPEN_TO_OTHERS)
    except OSError:
        return False  # out of sight, in a folder that is not ours: so it is for others


def describe(address: object) -> str:
    """`127.0.0.1:8080`, `[::1]:8080`, `unix:/path`; `unix:@name` for one without a file."""
    if isinstance(address, str):
        return f"unix:{address}"
    if isinstance(address, bytes):
        return "unix:@" + address.lstrip(b"\0").decode(errors="backslashreplace")
    assert isinstance(address, tuple)
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
