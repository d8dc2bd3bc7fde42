"""The `aggregator` command: reads argv and the config, calls the program, turns errors into words and exit codes.

It decides nothing about orders. A mistake of the user ends with a sentence that says what to do, never a traceback.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import secrets as random_source
import sys
from base64 import b64encode, urlsafe_b64encode
from io import TextIOWrapper
from pathlib import Path
from typing import Final

import click

from aggregator import __version__
from aggregator.cli.check import check
from aggregator.cli.failures import ASKED_WRONGLY, CANNOT, BadConfig, CannotDo
from aggregator.cli.keeping import backup, copy_database, restore
from aggregator.cli.options import config_option, json_option
from aggregator.cli.orders import orders
from aggregator.cli.output import emit
from aggregator.cli.providers import ledger, providers
from aggregator.cli.reload import reload
from aggregator.cli.sealing import reseal, status
from aggregator.cli.services import services
from aggregator.cli.settings import read_settings
from aggregator.cli.webhooks import webhooks

# What takes long to import is imported by the command that needs it, so that `version` and `--help` answer at once.

MAX_SPEED: Final = 1_000_000
_CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def _speed(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    if not 0 < value <= MAX_SPEED:  # false for nan, too
        raise click.BadParameter(f"must be greater than 0 and at most {MAX_SPEED}, got {value:g}")
    return value


def _loopback(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    from aggregator.sandbox.server import is_loopback

    if not is_loopback(value):
        raise click.BadParameter(f"the sandbox listens on loopback only, got {value!r}")
    return value


@click.group(context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="aggregator", message="%(prog)s %(version)s")
def cli() -> None:
    """A multi-provider order aggregator: never twice, never lost, every cent explained."""


@cli.command()
@json_option
def version(as_json: bool) -> None:
    """Print the version."""
    emit({"name": "aggregator", "version": __version__}, as_json, f"aggregator {__version__}")


@cli.command()
@config_option
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    default="INFO",
    show_default=True,
    help="What is worth a line.",
)
def run(config_path: Path | None, log_level: str) -> None:
    """Run the daemon until SIGTERM. After SIGHUP it goes by the config as it is then."""
    from aggregator import daemon, log
    from aggregator.config import find_config_path, load

    settings = read_settings(config_path)
    # The same file from now on, however the environment or the folder may change.
    path = find_config_path(config_path, os.environ, Path.cwd()).absolute()
    redactor = log.configure(secrets=settings.secrets(), level=log_level)
    # What a watchdog ends by SIGABRT says where each thread was: files and lines, no values.
    with contextlib.suppress(OSError, RuntimeError):  # where standard error is no file, nobody is told
        faulthandler.enable(sys.stderr)
    raise SystemExit(asyncio.run(daemon.run(settings, redactor, reread=lambda: load(path, os.environ))))


@cli.command()
@config_option
@json_option
def migrate(config_path: Path | None, as_json: bool) -> None:
    """Create the database, or bring an older one to this version's schema."""
    from aggregator import log
    from aggregator.daemon import open_storage

    settings = read_settings(config_path)
    log.configure(secrets=settings.secrets(), level="WARNING")

    def told(reached: str, seconds: float) -> None:
        if not as_json:
            done = "a copy was made beside it" if reached == "copied" else f"schema {reached}"
            click.echo(f"{done}, {seconds:.1f} s", err=True)

    async def work() -> None:
        database, lock = await open_storage(settings, told)
        await database.close()
        await lock.release()

    asyncio.run(work())
    emit({"database": str(settings.database), "ok": True}, as_json, f"{settings.database} has the newest schema")


@cli.group()
def keys() -> None:
    """Make keys and secrets, and change the one that seals delivered accounts."""


@keys.command()
@click.option("--webhook", "kind", flag_value="webhook", help="A webhook signing secret (whsec_…).")
@click.option("--sealing", "kind", flag_value="sealing", help="A key that seals delivered accounts.")
@click.option("--caller", "kind", flag_value="caller", default="caller", help="A caller's API key (the default).")
@json_option
def generate(kind: str, as_json: bool) -> None:
    """Print a fresh key; it is stored nowhere."""
    made = {
        "webhook": lambda: "whsec_" + b64encode(random_source.token_bytes(32)).decode(),
        "sealing": lambda: urlsafe_b64encode(random_source.token_bytes(32)).decode(),
        "caller": lambda: "agg_" + random_source.token_urlsafe(32),
    }[kind]()
    emit({"kind": kind, "key": made}, as_json, made)


keys.add_command(reseal)
keys.add_command(status)


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, callback=_loopback, help="A loopback address.")
@click.option("--port", type=click.IntRange(0, 65535), default=8090, show_default=True, help="0: any free port.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides what happens to each order.")
@click.option(
    "--speed", type=float, default=1.0, show_default=True, callback=_speed, help="How much faster time goes in there."
)
@click.option("--faults", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A file of fault rules.")
def sandbox(host: str, port: int, seed: int, speed: float, faults: Path | None) -> None:
    """Serve both dialects on loopback, with lifelike lags, drops and faults; no provider key needed."""
    from aggregator.sandbox.__main__ import main as serve_sandbox

    argv = ["--host", host, "--port", str(port), "--seed", str(seed), "--speed", str(speed)]
    raise SystemExit(serve_sandbox([*argv, "--faults", str(faults)] if faults else argv))


@cli.command()
@click.option("--once", is_flag=True, help="End by itself, with exit code 0, when every order is final.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="The daemon's port.")
@click.option(
    "--speed",
    type=float,
    default=10.0,
    show_default=True,
    callback=_speed,
    help="How much faster the sandbox's time goes.",
)
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Keep database and config there.")
def demo(once: bool, port: int, speed: float, keep: Path | None) -> None:
    """Run the main job with no account or key: sandbox, daemon, webhook listener, and a few orders."""
    from aggregator.demo.main import run_demo

    raise SystemExit(run_demo(once=once, port=port, speed=speed, keep=keep))


for group in (check, reload, backup, restore, copy_database, orders, providers, services, ledger, webhooks):
    cli.add_command(group)


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a provider's words may not be in this terminal's alphabet
            stream.reconfigure(errors="backslashreplace")
    try:
        cli.main(argv, prog_name="aggregator", standalone_mode=False)
    except BadConfig as exc:
        return _complain(str(exc), ASKED_WRONGLY)
    except CannotDo as exc:
        return _complain(str(exc), CANNOT)
    except click.exceptions.NoArgsIsHelpError as exc:
        click.echo(exc.format_message())
        return ASKED_WRONGLY
    except click.ClickException as exc:
        exc.show()
        return ASKED_WRONGLY
    except click.exceptions.Abort:
        return _complain("stopped", CANNOT)
    except KeyboardInterrupt:
        return 130
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 0
    except BrokenPipeError:
        # Who reads our output has had enough (`| head`); nothing more may be written, not even at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CANNOT
    except Exception as exc:
        code = _known(exc)
        if code is None:
            raise
        return _complain(_os_words(exc) if isinstance(exc, OSError) else str(exc), code)
    return 0


def _known(exc: Exception) -> int | None:
    """The exit code of an error that a user can do something about; None: it is a bug, which shows its traceback."""
    from aggregator.domain.errors import StorageUnavailable
    from aggregator.storage.deliverables import SealingError
    from aggregator.storage.lock import AlreadyRunning
    from aggregator.storage.migrate import NewerSchema
    from aggregator.web.activation import BadSocket

    if isinstance(exc, SealingError | BadSocket):  # the next start would fail the same way
        return ASKED_WRONGLY
    return CANNOT if isinstance(exc, AlreadyRunning | NewerSchema | StorageUnavailable | OSError) else None


def _os_words(exc: OSError) -> str:
    """`/file: Permission denied`, without the number."""
    if exc.strerror is None:
        return str(exc)
    return f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror


def _complain(text: str, code: int) -> int:
    print(f"aggregator: {text}", file=sys.stderr)
    return code
