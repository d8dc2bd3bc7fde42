"""What is shipped works where the repository is not: the wheel is built, installed elsewhere, and run from elsewhere.

And the lock files say exactly what is installed, without saying from where.
"""

import os
import re
import sqlite3
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from contextlib import closing
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock")
PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[\w,-]+\])?==(?P<version>\S+)( ; .+)? \\$")
HASH = re.compile(r"^ {4}--hash=sha256:[0-9a-f]{64}( \\)?$")


def run(
    *argv: str | Path, cwd: Path, pythonpath: Path | None = None, timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a program that knows nothing of the repository but what its arguments say."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("AGGREGATOR_", "PYTHON"))}
    env.pop("STATE_DIRECTORY", None)
    if pythonpath is not None:
        env["PYTHONPATH"] = str(pythonpath)
    done = subprocess.run(
        argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, f"{argv} answered {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done


def pip(*argv: str | Path, cwd: Path) -> None:
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", *argv, cwd=cwd)


def build_wheel(source: Path, into: Path) -> Path:
    pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", into, source, cwd=into)
    [wheel] = into.glob("aggregator-*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds only what the wheel brought; what it depends on comes from this environment."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--no-index", "--no-deps", "--target", folder, wheel, cwd=folder)
    return folder


def files_below(folder: Path) -> set[str]:
    """What has to travel of a folder, by the path below it."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)) for path in files}


def test_the_wheel_carries_the_package_its_migrations_and_its_example(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    wanted = {f"aggregator/{name}" for name in files_below(ROOT / "aggregator")}
    wanted |= {f"aggregator/migrations/{name}" for name in files_below(ROOT / "migrations")}
    wanted |= {"aggregator/config.example.yaml", "aggregator/py.typed"}
    assert wanted - names == set()
    data = "aggregator-0.1.0.data/data/lib/systemd/system"
    outside = {name for name in names if not name.startswith(("aggregator/", "aggregator-0.1.0.dist-info/"))}
    assert outside == {f"{data}/aggregator.service", f"{data}/aggregator.socket"}


def test_the_source_archive_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", tmp_path, cwd=ROOT)
    [sdist] = tmp_path.glob("aggregator-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build_wheel(tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path)
    with zipfile.ZipFile(wheel) as left, zipfile.ZipFile(again) as right:
        assert {i.filename: i.CRC for i in left.infolist()} == {i.filename: i.CRC for i in right.infolist()}


def test_the_installed_module_says_its_version_anywhere(installed: Path, tmp_path: Path) -> None:
    said = run(sys.executable, "-m", "aggregator", "version", cwd=tmp_path, pythonpath=installed).stdout
    assert said.splitlines()[0].startswith("aggregator 0.1.0")
    where = run(sys.executable, "-c", "print(__import__('aggregator').__file__)", cwd=tmp_path, pythonpath=installed)
    assert Path(where.stdout.strip()).is_relative_to(installed)


def test_the_installed_command_says_its_version_anywhere(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "bin" / "aggregator", "version", cwd=tmp_path, pythonpath=installed).stdout
    assert said.splitlines()[0].startswith("aggregator 0.1.0")


def test_the_units_go_where_systemctl_is_told_to_take_them_from(wheel: Path) -> None:
    """`systemctl enable /opt/aggregator/lib/systemd/system/aggregator.service`, says the README: a wheel's data goes
    below the environment's folder."""
    with zipfile.ZipFile(wheel) as archive:
        for unit in ("aggregator.service", "aggregator.socket"):
            brought = archive.read(f"aggregator-0.1.0.data/data/lib/systemd/system/{unit}")
            assert brought == (ROOT / "systemd" / unit).read_bytes()


def test_the_installed_program_migrates_a_database_with_what_it_carries(installed: Path, tmp_path: Path) -> None:
    database = tmp_path / "data" / "aggregator.db"
    database.parent.mkdir()
    config = tmp_path / "config.yaml"
    config.write_text(f"database: sqlite:///{database}\n")
    config.chmod(0o600)

    run(
        sys.executable,
        *("-m", "aggregator", "migrate", "--config", config),
        cwd=tmp_path,
        pythonpath=installed,
    )

    with closing(sqlite3.connect(database)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert "orders" in tables


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_and_hashes_every_package_and_names_no_host(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert not re.search(r"://|file:|@ ", text)
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    pins = hashes = 0
    for line in lines:
        if line.startswith(" "):
            assert HASH.match(line), f"not a sha256 hash: {line}"
            hashes += 1
        else:
            assert PINNED.match(line), f"not a package with its version and hashes: {line}"
            pins += 1
    assert hashes >= pins > 0


def pins_of(lock: str) -> dict[str, set[str]]:
    pins: dict[str, set[str]] = {}
    for line in (ROOT / lock).read_text().splitlines():
        if found := PINNED.match(line):
            pins.setdefault(canonicalize_name(found["name"]), set()).add(found["version"])
    return pins


def test_the_locks_hold_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {
        "requirements.lock": project["dependencies"],
        "requirements-dev.lock": project["dependencies"] + project["optional-dependencies"]["dev"],
    }
    for lock, requirements in wanted.items():
        pins = pins_of(lock)
        for requirement in map(Requirement, requirements):
            versions = pins.get(canonicalize_name(requirement.name), set())
            assert versions, f"{lock} lacks {requirement}: make lock"
            assert all(requirement.specifier.contains(v) for v in versions), f"{lock}: {requirement}: make lock"


def test_development_runs_on_the_versions_that_are_shipped() -> None:
    shipped, development = pins_of("requirements.lock"), pins_of("requirements-dev.lock")
    assert {name: development.get(name) for name in shipped} == shipped
