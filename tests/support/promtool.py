"""Prometheus' own checker, where this machine has it (Debian's package `prometheus`)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

MONITORING: Final = Path(__file__).resolve().parents[2] / "monitoring"
MISSING: Final = "no promtool here (Debian: prometheus): metrics, alert rules and their tests were NOT checked by it"


def promtool(*arguments: str, said: str = "") -> str:
    """Run it over what is `said` to it; what it prints. AssertionError when it finds anything wrong."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip(MISSING)
    done = subprocess.run(
        [program, *arguments], input=said, capture_output=True, text=True, timeout=60, cwd=MONITORING, check=False
    )
    assert done.returncode == 0, f"promtool {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr
