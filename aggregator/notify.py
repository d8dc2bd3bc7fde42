"""What systemd is told (sd_notify(3)): ready, alive, stopping. Without a notify socket it says nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

PATIENCE_S: Final = 5.0
"""How long a manager that is busy (it reloads itself, say) is waited for with what is said once."""


class Notifier:
    """Sends state lines to the service manager; a manager that went away is no reason to fail."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        microseconds = environ.get("WATCHDOG_USEC", "")
        # Zero is no interval: it would have the watchdog fed without a pause.
        usable = microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0
        self.watchdog_s = int(microseconds) / 1_000_000 if usable else None

    def send(self, state: str, *, wait_s: float = PATIENCE_S) -> None:
        """Say it; a manager that takes nothing for `wait_s` seconds does not hear it."""
        if not self._address:
            return
        # A leading @ stands for Linux's abstract namespace.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.settimeout(wait_s)
                connection.sendto(state.encode(), address)
        except OSError:
            return
