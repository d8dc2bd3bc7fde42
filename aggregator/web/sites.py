"""Opens the doors: TCP, unix sockets, and sockets that were passed in.

A unix socket's file goes with its door, unless the socket was passed in. One that a dead daemon left is removed; one
that somebody listens on is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from aggregator.config import Address, TcpAddress
from aggregator.web.activation import describe
from aggregator.web.connections import SERVER_LOG, Connection, Connections, Limits

SHUTDOWN_S: Final = 10.0
"""How long answers that are under way may take once the doors close."""
_BACKLOG: Final = 1024
"""Connections that the system keeps until we come to them."""
_ACCEPTED: Final = 64
"""Connections that are taken at once at most, and never more than a quarter of all that there is room for: in a flood
those who were taken are heard before others come for their places."""
_SOCKET_UMASK: Final = 0o117
"""Owner and group may connect: without keys whoever can is the admin."""


async def start_sites(
    app: web.Application, listen: Iterable[Address | socket.socket], limits: Limits | None = None
) -> web.AppRunner:
    """Serve the application at all of these; OSError, and nothing is left open, when one cannot be had.

    A client that goes away cancels nothing: an order that is being taken is taken.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=SERVER_LOG,
        shutdown_timeout=SHUTDOWN_S,
        handler_cancellation=False,
    )
    await runner.setup()
    assert runner.server is not None
    limits = limits or Limits()
    accept = Connections(runner.server, limits).accept
    at_once = max(1, min(_ACCEPTED, limits.connections // 4))
    try:
        for address in listen:
            await _open(_site(runner, accept, at_once, address), address)
    except BaseException:
        await runner.cleanup()
        raise
    return runner


async def _open(site: web.BaseSite, address: Address | socket.socket) -> None:
    try:
        await site.start()
    except OSError as exc:
        named = describe(address.getsockname()) if isinstance(address, socket.socket) else str(address)
        # asyncio names the address sometimes, and its error texts differ; a failed look-up has no errno of the system.
        reason = os.strerror(exc.errno) if exc.errno is not None and exc.errno > 0 else exc.strerror or str(exc)
        raise OSError(exc.errno, f"cannot listen on {named}: {reason}") from exc


def _site(runner: web.AppRunner, accept: Accept, at_once: int, address: Address | socket.socket) -> web.BaseSite:
    if isinstance(address, socket.socket):
        return _Site(runner, accept, at_once, sock=address)
    if isinstance(address, TcpAddress):
        return _Site(runner, accept, at_once, host=address.host, port=address.port)
    return _UnixSite(runner, accept, at_once, _unix_socket(address.path), address.path)


Accept = Callable[[], Connection]


class _Site(web.BaseSite):
    """A place to listen at; whoever comes is accepted as a Connection, which aiohttp's own sites know nothing of."""

    def __init__(self, runner: web.AppRunner, accept: Accept, at_once: int, **where: Any) -> None:
        super().__init__(runner, backlog=at_once)
        create = asyncio.get_running_loop().create_server
        self._create: Callable[[], Awaitable[asyncio.Server]] = partial(create, accept, backlog=at_once, **where)
        self._where = where

    @property
    def name(self) -> str:
        return str(self._where)

    async def start(self) -> None:
        await super().start()
        self._server = server = await self._create()
        for listening in server.sockets:
            with listening.dup() as same:  # asyncio has one number for both
                same.listen(_BACKLOG)


class _UnixSite(_Site):
    """A unix socket whose file is removed when it closes, unless somebody else has put his own there meanwhile."""

    def __init__(
        self, runner: web.AppRunner, accept: Accept, at_once: int, listening: socket.socket, path: Path
    ) -> None:
        super().__init__(runner, accept, at_once, sock=listening)
        self._path = path
        self._file = _identity(path)

    async def stop(self) -> None:
        # The file first: whoever finds it must find somebody listening.
        if self._file is not None and _identity(self._path) == self._file:
            with contextlib.suppress(OSError):
                self._path.unlink()
        await super().stop()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _unix_socket(path: Path) -> socket.socket:
    _clear(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Bound under the narrow mask, so that there is no moment in which others may connect.
    before = os.umask(_SOCKET_UMASK)
    try:
        listening.bind(os.fspath(path))
    except OSError as exc:
        listening.close()
        raise OSError(exc.errno, f"cannot listen on unix:{path}: {exc.strerror}") from exc
    finally:
        os.umask(before)
    listening.setblocking(False)
    return listening


def _clear(path: Path) -> None:
    """Remove a socket's file that nobody listens on."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(
                errno.EEXIST,
                f"cannot listen on unix:{path}: there is a file that is no socket; remove it, or change `http.listen`",
            )
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except PermissionError as exc:
            raise PermissionError(
                exc.errno,
                f"cannot listen on unix:{path}: a socket of another user stands there; remove it if nobody uses it, "
                "or change `http.listen`",
            ) from exc
        except (BlockingIOError, TimeoutError):
            pass  # its queue is full: somebody lives there, and is busy
    raise OSError(
        errno.EADDRINUSE,
        f"cannot listen on unix:{path}: another process does; stop it, or change `http.listen`",
    )
