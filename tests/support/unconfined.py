"""Why a program cannot be run here as systemd would confine it; empty where it can be. Looked at once."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from typing import Final


def _why() -> str:
    if sys.platform != "linux":
        return "filters and mounts are Linux' own"
    if os.geteuid() != 0:
        return "mounts and users need root"
    if shutil.which("systemd-analyze") is None:
        return "no systemd-analyze, which knows the sets of system calls"
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return "no libseccomp.so.2"
    mounts = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x20000) and 1)"
    if subprocess.run([sys.executable, "-S", "-c", mounts]).returncode:
        return "this container makes no mounts of its own"
    return ""


SAID: Final = "the daemon was NOT run under the filters of its systemd unit"
WHY: Final = f"{SAID}: {why}" if (why := _why()) else ""
PATHS: Final = tuple(path for path in sys.path if os.path.isdir(path))
