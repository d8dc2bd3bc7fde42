"""A shell for one daemon: runs commands in this process and keeps what they printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aggregator.cli import main as command
from tests.support.processes import KEY


class Shell:
    """Runs commands for one config, and keeps what they printed."""

    def __init__(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.config = config
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *argv: str) -> int:
        code = command.main([*argv, "--config", str(self.config)])
        self.out, self.err = self._capsys.readouterr()
        assert KEY not in self.out + self.err
        assert "Traceback" not in self.out + self.err
        return code

    def json(self, *argv: str) -> Any:
        assert self(*argv, "--json") == 0, self.err
        return json.loads(self.out)

    def refused(self, *argv: str) -> str:
        assert self(*argv) == 1
        assert self.err.startswith("aggregator: ")
        return self.err

    def state(self, number: int) -> str:
        return str(self.json("orders", "show", str(number))["order"]["state"])
