"""The process in which a stranger's program runs: without network, in a folder of its own that is all that it can
write to, with limits on time, memory, processes and files.

`tested_programs.py` runs this file by its path. It reads one JSON object, sets the limits, runs the program in a child
that is the first process of a namespace, so that whatever it starts ends with it, and writes one JSON object: which
parts of the containment the system refused (`missing`), and how the program ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NEW_MOUNTS, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NETWORK = 0x20000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
MOUNT_PRIVATE, MOUNT_SETATTR, READ_ONLY, RECURSIVE, AT_FDCWD = 0x44000, 442, 1, 0x8000, -100
PARENT_DEATH_SIGNAL, DUMPABLE, NO_NEW_PRIVILEGES = 1, 4, 38
NOBODY = 65534
SHOWN = 4000  # characters of what a program prints that are read


def _called(function: Any, *arguments: Any) -> None:
    if function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _namespaces(library: Any, folder: str, bytes_: int) -> list[str]:
    """Leaves the network, the other processes and all files that could be written to; says what cannot be left."""
    # Root becomes nobody first, if that user may run this interpreter: limits on processes do not bind root. The rights
    # over the new namespaces, with which they are set up, end where the program is executed, since its user is not root
    # there.
    if os.geteuid() == 0 and _runs_as_nobody():
        os.chown(folder, NOBODY, NOBODY)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        library.prctl(DUMPABLE, 1, 0, 0, 0)  # else its own files in /proc stay root's
    user, group = os.geteuid(), os.getegid()
    try:
        _called(library.unshare, NEW_USER | NEW_NETWORK | NEW_PIDS | NEW_IPC | NEW_MOUNTS)
    except OSError as error:
        return [f"namespaces of its own ({error.strerror})"]
    try:
        for name, line in (
            ("setgroups", "deny"),
            ("uid_map", f"{NOBODY} {user} 1"),
            ("gid_map", f"{NOBODY} {group} 1"),
        ):
            Path(f"/proc/self/{name}").write_text(line)
        _called(library.mount, b"none", b"/", None, MOUNT_PRIVATE, None)
        attributes = (ctypes.c_uint64 * 4)(READ_ONLY, 0, 0, 0)
        size = ctypes.sizeof(attributes)
        _called(library.syscall, MOUNT_SETATTR, AT_FDCWD, b"/", RECURSIVE, attributes, size)
        _called(library.mount, b"tmpfs", folder.encode(), b"tmpfs", 2 | 4, f"size={bytes_},mode=0777".encode())
        _called(library.mount, b"tmpfs", b"/proc", b"tmpfs", READ_ONLY, b"size=4k")
    except OSError as error:
        return [f"files that it can only read ({error.strerror})"]
    return []


def _runs_as_nobody() -> bool:
    """Whether nobody may run this interpreter, which may lie in root's home."""
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with contextlib.suppress(OSError):
            devnull = os.open(os.devnull, os.O_RDWR)
            os.dup2(devnull, 2)
            os.execv(sys.executable, [sys.executable, "-I", "-c", ""])
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def _wait(child: int, processes: int, listing: int) -> bool:
    """Waits for the first process of a namespace. When there are too many in it, ends that, and so all, and returns
    True."""
    # Of use where the limit itself does not bind, to root; a few more may have been started between two looks.
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        inside = 0
        with contextlib.suppress(OSError):
            place = os.readlink(f"{child}/ns/pid", dir_fd=listing)
            for name in os.listdir(listing):
                with contextlib.suppress(OSError):
                    inside += name.isdigit() and os.readlink(f"{name}/ns/pid", dir_fd=listing) == place
        if inside > processes + 1:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return True
        time.sleep(0.02)
    return False


def _limits(asked: dict[str, Any], contained: bool) -> None:
    memory, seconds = asked["mebibytes"] * 2**20, int(asked["seconds"]) + 1
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, asked["file_bytes"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        *([(resource.RLIMIT_NPROC, asked["processes"])] if contained else []),  # else those of the user all count
    ):
        with contextlib.suppress(ValueError, OSError):  # above what this process itself may
            resource.setrlimit(what, (most, most))


def _run(asked: dict[str, Any], folder: str, contained: bool) -> dict[str, Any]:
    """Runs the programs one after another; each has its time."""
    ended = []
    for program in asked["programs"]:
        file = Path(folder, "program.py")
        file.write_bytes(program["source"].encode("utf-8", "replace"))
        output = Path(folder, "output")
        with output.open("wb") as target:
            process = subprocess.Popen(
                [sys.executable, "-I", "-B", str(file)],
                stdin=subprocess.PIPE,
                stdout=target,
                stderr=subprocess.STDOUT if asked["errors"] else subprocess.DEVNULL,
                cwd=folder,
                env={"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
                preexec_fn=lambda: _limits(asked, contained),
            )
            status: int | str = "late"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(program["input"].encode("utf-8", "replace"), timeout=asked["seconds"])
                status = process.returncode
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        text = output.read_bytes()[: asked["file_bytes"]].decode("utf-8", "replace")
        ended.append({"status": status, "output": text[:SHOWN] if asked["errors"] else text})
    return {"ended": ended}


def main() -> None:
    """Answers the one request of the input."""
    asked = json.loads(sys.stdin.buffer.read())
    folder, library = asked["folder"], ctypes.CDLL(None, use_errno=True)
    listing = os.open("/proc", os.O_RDONLY) if os.path.isdir("/proc") else -1
    report = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.dup2(1, 0)
    with contextlib.suppress(AttributeError):
        library.prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
        library.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    missing = _namespaces(library, folder, asked["file_bytes"] * 4) if sys.platform == "linux" else ["namespaces"]
    if missing and asked["required"]:
        os.write(report, json.dumps({"missing": missing, "ended": []}).encode())
        return
    child = os.fork()  # the first process of the new namespace; the rest of it ends with it
    if child:
        if missing:  # of processes that are not told from others none are counted
            os.waitpid(child, 0)
        elif _wait(child, asked["processes"], listing):
            os.write(report, json.dumps({"missing": missing, "ended": None}).encode())
        return
    os.close(listing)
    with contextlib.suppress(AttributeError):
        library.prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    answer = json.dumps({"missing": missing} | _run(asked, folder, not missing)).encode()
    while answer:
        answer = answer[os.write(report, answer) :]
    os._exit(0)


if __name__ == "__main__":
    main()
