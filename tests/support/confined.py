"""Runs a program under what `systemd/aggregator.service` allows, without systemd as init: `python -m` this, as root.

Decides nothing of its own: which calls, folders and rights there are is read from the unit, and the sets of system
calls from `systemd-analyze`. Missing are the control group (DevicePolicy, addresses) and the user namespace.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

UNIT: Final = Path(__file__).parents[2] / "systemd" / "aggregator.service"
USER: Final = 61_234
"""One of those that DynamicUser takes, 61184 to 65519."""
STATE: Final = Path("/var/lib/aggregator")
CREDENTIALS: Final = Path("/run/credentials/aggregator.service")

libc: Final = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS: Final = 0x0002_0000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
AT_FDCWD, AT_RECURSIVE, SYS_MOUNT_SETATTR = -100, 0x8000, 442
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38


def settings(unit: Path = UNIT) -> dict[str, list[str]]:
    """What the unit's [Service] says, by key, in its order."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in unit.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif section == "Service" and "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


def checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


# --- the file system ---


def mount(source: str, target: str | Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    arguments = (source.encode(), str(target).encode(), kind.encode() or None, flags, options.encode() or None)
    checked(libc.mount(*arguments), f"mount {source} at {target}")


def bind(descriptor: int, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    mount(f"/proc/self/fd/{descriptor}", target, flags=MS_BIND)


def set_read_only(path: str | Path, read_only: bool, *, deep: bool = False) -> None:
    """All mounts below, or this one, with what is mounted on them left as it is."""
    attributes = (ctypes.c_uint64 * 4)(*((MS_RDONLY, 0) if read_only else (0, MS_RDONLY)), 0, 0)
    flags = AT_RECURSIVE if deep else 0
    arguments = (AT_FDCWD, str(path).encode(), flags, ctypes.byref(attributes), ctypes.sizeof(attributes))
    checked(libc.syscall(SYS_MOUNT_SETATTR, *arguments), f"read-only {path}")


def empty(path: str | Path, mode: str = "0755", owner: int = 0) -> None:
    if Path(path).is_dir() and not Path(path).is_symlink():
        mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, f"mode={mode},uid={owner},gid={owner}")


def own_devices() -> None:
    names = ("null", "zero", "full", "random", "urandom", "tty")
    kept = {name: os.open(f"/dev/{name}", os.O_PATH) for name in names}
    mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755")
    for name, descriptor in kept.items():
        Path("/dev", name).touch()
        mount(f"/proc/self/fd/{descriptor}", f"/dev/{name}", flags=MS_BIND)


def own_file_system(unit: Mapping[str, Sequence[str]], state: Path, credentials: Path, kept: Iterable[Path]) -> None:
    """Mounts that this process alone sees: all is read-only but its own folders, and most of it is not even there."""
    checked(libc.unshare(CLONE_NEWNS), "unshare")
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    # What the program itself needs may lie in a home or in /tmp, where a test's checkout is and a service's is not.
    places = {path: os.open(path, os.O_PATH) for path in kept}
    own, secrets = os.open(state, os.O_PATH), {file.name: file.read_bytes() for file in credentials.iterdir()}
    assert unit["ProtectHome"] == unit["PrivateTmp"] == unit["PrivateDevices"] == ["yes"]
    for home in ("/home", "/root"):
        empty(home)
    for temporary in ("/tmp", "/var/tmp"):
        empty(temporary, "1777")
    own_devices()
    for path, descriptor in places.items():
        if not path.exists():
            bind(descriptor, path)
    empty("/run")
    empty("/var/lib")
    assert unit["StateDirectory"] == unit["RuntimeDirectory"] == ["aggregator"]
    bind(own, STATE)
    runtime = Path("/run/aggregator")
    runtime.mkdir()
    empty(runtime, unit["RuntimeDirectoryMode"][0], USER)
    CREDENTIALS.mkdir(parents=True)
    for name, secret in secrets.items():
        (CREDENTIALS / name).write_bytes(secret)
        os.chown(CREDENTIALS / name, USER, USER)
        (CREDENTIALS / name).chmod(0o400)
    os.chown(CREDENTIALS, USER, USER)
    CREDENTIALS.chmod(0o500)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=invisible,subset=pid")
    assert unit["ProtectSystem"] == ["strict"]
    set_read_only("/", True, deep=True)
    for writable in (STATE, runtime, Path("/tmp"), Path("/var/tmp")):
        set_read_only(writable, False)


# --- system calls ---

ALLOW, ARGUMENTS_EQUAL, ARGUMENTS_LESS, ARGUMENTS_GREATER, ARGUMENTS_MASKED, DIFFERENT = 0x7FFF_0000, 4, 2, 6, 7, 1
PROT_WRITE, PROT_EXEC, SHM_EXEC = 2, 4, 0o100000
NAMESPACES: Final = (0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000)
SET_ID: Final = (0o4000, 0o2000)


def refuse(number: int) -> int:
    return 0x0005_0000 | number


class Comparison(ctypes.Structure):
    """libseccomp's struct scmp_arg_cmp."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class Filter:
    """One filter of libseccomp; several that are loaded hold together."""

    def __init__(self, otherwise: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2")
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(otherwise))

    def rule(self, action: int, call: str, *comparisons: Comparison) -> None:
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return  # another architecture's, or newer than the library
        array = (Comparison * len(comparisons))(*comparisons)
        added = self._library.seccomp_rule_add_array(self._context, action, number, len(comparisons), array)
        if added != 0:
            raise OSError(-added, f"seccomp rule for {call}")

    def load(self) -> None:
        loaded = self._library.seccomp_load(self._context)
        if loaded != 0:
            raise OSError(-loaded, "seccomp filter")


def expanded(name: str, sets: Mapping[str, Sequence[str]]) -> set[str]:
    """The calls of a set, those of the sets that it names included."""
    if not name.startswith("@"):
        return {name}
    return {call for member in sets[name] for call in expanded(member, sets)}


def call_sets() -> dict[str, list[str]]:
    """The sets of system calls as this systemd knows them."""
    said = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"], capture_output=True, text=True, check=True
    )
    found: dict[str, list[str]] = {}
    for line in said.stdout.splitlines():
        word = line.strip()
        if line.startswith("@"):
            found[word] = members = []
        elif line.startswith("    ") and not word.startswith("#"):
            members.append(word)
        elif line.startswith("#"):
            break  # what follows belongs to no set
    return found


def filters(unit: Mapping[str, Sequence[str]], sets: Mapping[str, Sequence[str]]) -> list[Filter]:
    """The filters that systemd would make of the unit."""
    allowed = expanded("@default", sets)
    for line in unit["SystemCallFilter"]:
        calls = {call for name in line.lstrip("~").split() for call in expanded(name, sets)}
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    assert unit["SystemCallErrorNumber"] == ["EPERM"]
    calls_filter = Filter(refuse(errno.EPERM))
    for call in sorted(allowed):
        calls_filter.rule(ALLOW, call)
    # Loading one is a call, too: the list of those that are allowed comes last.
    return [families(unit), memory(unit), namespaces(unit), others(unit), calls_filter]


def families(unit: Mapping[str, Sequence[str]]) -> Filter:
    [line] = unit["RestrictAddressFamilies"]
    allowed = sorted(int(getattr(socket, name)) for name in line.split())
    no, made = refuse(errno.EAFNOSUPPORT), Filter(ALLOW)
    for family in range(allowed[-1]):
        if family not in allowed:
            made.rule(no, "socket", Comparison(0, ARGUMENTS_EQUAL, family, 0))
    made.rule(no, "socket", Comparison(0, ARGUMENTS_GREATER, allowed[-1], 0))
    return made


def memory(unit: Mapping[str, Sequence[str]]) -> Filter:
    assert unit["MemoryDenyWriteExecute"] == ["yes"]
    no, made = refuse(errno.EPERM), Filter(ALLOW)
    both = PROT_WRITE | PROT_EXEC
    made.rule(no, "mmap", Comparison(2, ARGUMENTS_MASKED, both, both))
    for call in ("mprotect", "pkey_mprotect"):
        made.rule(no, call, Comparison(2, ARGUMENTS_MASKED, PROT_EXEC, PROT_EXEC))
    made.rule(no, "shmat", Comparison(2, ARGUMENTS_MASKED, SHM_EXEC, SHM_EXEC))
    return made


def namespaces(unit: Mapping[str, Sequence[str]]) -> Filter:
    assert unit["RestrictNamespaces"] == ["yes"]
    no, made = refuse(errno.EPERM), Filter(ALLOW)
    for flag in NAMESPACES:
        for call in ("clone", "unshare"):
            made.rule(no, call, Comparison(0, ARGUMENTS_MASKED, flag, flag))
    made.rule(no, "setns")
    made.rule(refuse(errno.ENOSYS), "clone3")  # its flags lie in memory: libraries then take clone
    return made


def others(unit: Mapping[str, Sequence[str]]) -> Filter:
    for key in ("RestrictRealtime", "RestrictSUIDSGID", "LockPersonality"):
        assert unit[key] == ["yes"]
    no, made = refuse(errno.EPERM), Filter(ALLOW)
    made.rule(no, "personality", Comparison(0, DIFFERENT, 0, 0))
    made.rule(no, "sched_setscheduler", Comparison(1, ARGUMENTS_GREATER, 0, 0))
    modes = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "mkdir": 1, "mkdirat": 2, "mknod": 1, "mknodat": 2, "creat": 1}
    for bit in SET_ID:
        for call, place in modes.items():
            made.rule(no, call, Comparison(place, ARGUMENTS_MASKED, bit, bit))
        for call, place in (("open", 1), ("openat", 2)):
            creating = Comparison(place, ARGUMENTS_MASKED, os.O_CREAT, os.O_CREAT)
            made.rule(no, call, creating, Comparison(place + 1, ARGUMENTS_MASKED, bit, bit))
    made.rule(refuse(errno.ENOSYS), "openat2")
    return made


# --- rights ---

TRIED: Final = frozenset(
    {
        *("NoNewPrivileges", "CapabilityBoundingSet", "AmbientCapabilities", "DynamicUser", "UMask", "LimitNOFILE"),
        *("ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateMounts", "PrivateDevices", "ProtectProc", "ProcSubset"),
        *("StateDirectory", "StateDirectoryMode", "RuntimeDirectory", "RuntimeDirectoryMode", "WorkingDirectory"),
        *("RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality"),
        *("MemoryDenyWriteExecute", "SystemCallArchitectures", "SystemCallFilter", "SystemCallErrorNumber"),
        # Their calls are refused by the filter, and what they hide of /proc and /sys is not there, or read-only.
        *("ProtectClock", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables"),
    }
)
"""What holds for a program that runs here."""
NOT_TRIED: Final = frozenset(
    {
        "DevicePolicy",  # the control group's; there are no other devices than PrivateDevices leaves
        "ProtectControlGroups",  # systemd's view of them
        "PrivateUsers",  # without capabilities it changes only what others are called
        *("RemoveIPC", "KeyringMode"),  # what systemd does around the process
    }
)
"""What needs systemd itself."""


def drop_rights(unit: Mapping[str, Sequence[str]]) -> None:
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == [""]
    assert unit["NoNewPrivileges"] == unit["DynamicUser"] == ["yes"]
    files = min(int(unit["LimitNOFILE"][0]), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # beyond the kernel's last one it says so
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    os.umask(int(unit["UMask"][0], 8))
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")


def main(order: Mapping[str, Any]) -> None:
    """Become the program of the order: {argv, state, credentials, kept, environ}."""
    unit, sets = settings(), call_sets()
    own_file_system(unit, Path(order["state"]), Path(order["credentials"]), map(Path, order["kept"]))
    drop_rights(unit)
    os.chdir(unit["WorkingDirectory"][0])
    for one in filters(unit, sets):
        one.load()
    environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **order["environ"]}
    environ |= {"STATE_DIRECTORY": str(STATE), "RUNTIME_DIRECTORY": "/run/aggregator"}
    environ |= {"CREDENTIALS_DIRECTORY": str(CREDENTIALS), "WATCHDOG_USEC": f"{unit['WatchdogSec'][0]}000000"}
    os.execve(order["argv"][0], order["argv"], environ)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
