"""Several processes as one run: each has devices and rows of every batch to itself, and all run the same program.

Process 0, the main one, alone writes metrics, samples and configs, and prints. Everything here must be called by all
processes in the same order, and does nothing where there is one process.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from alignjax.config import ConfigError
from alignjax.ranges import Count

HEARTBEAT_SECONDS = 60  # without a sign of life from a process, until the others are ended
PARTING_SECONDS = 10.0  # from the error of a collective whose other side has gone to the end of the process, at most
PIECE = 1 << 24  # bytes that are sent at once
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# Words in the error of a collective whose other side has died, on CPU, GPU and TPU.
_LOST_PEER = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "Connection closed", "Connection reset", "heartbeat")


class Unreachable(RuntimeError):
    """Another process of the run has died or cannot be reached.

    Attributes:
        exit_status: The status that the command line ends with, EX_TEMPFAIL of sysexits.h: it tells whoever started it
            (tpu/keep_running.sh) that the same command may do better.
    """

    exit_status = 75


def connect(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    heartbeat_seconds: Count = HEARTBEAT_SECONDS,
) -> None:
    """Makes this process one of several; to be called before anything asks jax for a device.

    What is not passed comes from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, then from what jax
    knows of the machine: TPU pods, Slurm, Open MPI and Kubernetes need none.

    Args:
        coordinator: HOST:PORT of process 0, a port that is free there.
        processes: The number of processes.
        process: The number of this one, from 0.
        heartbeat_seconds: The time without a sign of life after which a process is taken for dead and ends all others.

    Raises:
        ConfigError: These do not say which process this is.
        Unreachable: The coordinator is not reached.
    """
    # Arguments are checked before jax is asked, whose errors name none of our flags and may come only after a timeout.
    coordinator = coordinator or os.environ.get(VARIABLES[0])
    processes = _number(VARIABLES[1]) if processes is None else processes
    process = _number(VARIABLES[2]) if process is None else process
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise ConfigError(f"the coordinator is {coordinator!r}; it must be HOST:PORT of process 0")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise ConfigError(f"--process {process} of --processes {processes}: they are numbered from 0")
    let_simulated_devices_meet()
    timeouts: Any = {
        "heartbeat_timeout_seconds": heartbeat_seconds,
        "shutdown_timeout_seconds": min(heartbeat_seconds, 30),
    }
    try:
        jax.distributed.initialize(coordinator, processes, process, **timeouts)
    except ValueError as error:
        raise ConfigError(
            f"cannot tell which process of a run this is: {error} Pass --coordinator HOST:PORT --processes N --process "
            f"I, or set {', '.join(VARIABLES)}."
        ) from None
    except (RuntimeError, jax.errors.JaxRuntimeError) as error:
        where = coordinator or "the coordinator"
        raise Unreachable(f"process {process} could not join the run at {where}: {first_line(error)}") from error


def let_simulated_devices_meet() -> None:
    """Keeps the devices of a CPU backend from waiting for each other forever; to be called before anything asks jax for
    a device.

    A thread that waits in a collective is lost to what it waits for. With as few threads as cores, or with several
    programs in flight, all can come to wait, and XLA ends the process after a minute.
    """
    os.environ.setdefault("PJRT_NPROC", str(max(16, os.cpu_count() or 1)))
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"{variable} is {text!r}; it must be a number")
    return int(text)


def first_line(reason: Any) -> str:
    """Returns the first line of an error's message, or the name of its type where it has none; at most 200
    characters."""
    return (str(reason).strip().splitlines() or [type(reason).__name__])[0][:200]


def is_multi_process() -> bool:
    """Tells whether this is one of several processes, without initializing jax's devices where it is not."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_main_process() -> bool:
    """Tells whether this process is the one that writes and prints for all."""
    return not is_multi_process() or jax.process_index() == 0


def all_gather_text(text: str) -> list[str]:
    """Returns every process's text, by its number."""
    if not is_multi_process():
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(data.size))
    if not sizes.any():  # nobody has anything to say, which is what `raise_on_all_processes` mostly hears
        return [""] * len(sizes)
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


@contextlib.contextmanager
def raise_on_all_processes() -> Iterator[None]:
    """Makes a block that fails on one process fail on all, so that nobody waits in a collective for one that has left.

    Raises:
        ConfigError: On the processes where the block did not fail, with the failed one's number, host and message, also
            where that was stopped (Ctrl-C, SystemExit). The failed process raises its error itself.
    """
    # An error cannot cross processes, so each sends its message, mostly empty, to all others after the block.
    failure: BaseException | None = None
    try:
        yield
    except BaseException as error:
        if not is_multi_process():
            raise
        failure = error
    if not is_multi_process():
        return
    reason = failure if isinstance(failure, Exception) else f"it was stopped ({type(failure).__name__})"
    messages = all_gather_text(
        "" if failure is None else f"process {jax.process_index()} on {socket.gethostname()}: {reason}"
    )
    if failure is not None:
        raise failure
    if failed := [message for message in messages if message]:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise ConfigError(f"another process of this run cannot go on{more}. {failed[0]}")


def broadcast_from_main(tree: Any) -> Any:
    """Returns the main process's tree of NumPy arrays; those of the others must have its shapes and dtypes."""
    return multihost_utils.broadcast_one_to_all(tree) if is_multi_process() else tree


def broadcast_bytes_from_main(data: bytes) -> bytes:
    """Returns the main process's bytes, of any length, sent in pieces: they go through the memory of devices."""
    if not is_multi_process():
        return data
    full, rest = (int(number) for number in broadcast_from_main(np.array(divmod(len(data), PIECE), np.int32)))
    size, pieces = full * PIECE + rest, []
    for first in range(0, size, PIECE):
        piece = np.zeros(min(PIECE, size - first), np.uint8)
        if is_main_process():
            piece[:] = np.frombuffer(data, np.uint8, piece.size, first)
        pieces.append(broadcast_from_main(piece).tobytes())
    return b"".join(pieces)


def gather_to_host(tree: Any) -> Any:
    """Returns a tree of whole NumPy arrays on every process, also where other processes hold parts of them."""

    def gathered(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and not leaf.is_fully_replicated:
            return multihost_utils.process_allgather(leaf, tiled=True)
        return leaf

    return jax.device_get(tree if not is_multi_process() else jax.tree.map(gathered, tree))


def _is_lost_peer(error: BaseException) -> bool:
    return isinstance(error, jax.errors.JaxRuntimeError) and any(word in str(error) for word in _LOST_PEER)


@contextlib.contextmanager
def translate_lost_peer() -> Iterator[None]:
    """Turns the error of a collective whose other side has died into `Unreachable`, which says what to do.

    The process then has a few seconds to close its files and print that, and ends with status 75.

    Raises:
        Unreachable: Another process of the run has died or was stopped.
    """
    try:
        yield
    except Unreachable:
        raise
    except Exception as error:
        lost: BaseException | None = error
        while lost is not None and not _is_lost_peer(lost):
            lost = lost.__cause__  # a checkpoint that cannot be written, because ..
        if not is_multi_process() or lost is None:
            raise
        message = (
            f"process {jax.process_index()} on {socket.gethostname()} cannot reach another process of this run "
            f"({first_line(lost)}): it has died or was stopped, see its own log. Start all processes again with "
            "--resume; the run goes on after its last checkpoint."
        )
        threading.Thread(target=_end, args=(message, is_main_process()), daemon=True).start()
        raise Unreachable(message) from error


def _end(message: str, is_main: bool) -> None:
    """Ends the process once its main thread has ended, or after PARTING_SECONDS. What would follow, a checkpoint that
    all write and jax's shutdown, waits for the dead process until jax aborts this one."""
    main = threading.main_thread()
    main.join(PARTING_SECONDS)
    if main.is_alive():
        print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(1.0 if is_main else 0.0)  # jax's coordinator is here, and ends others that have not spoken yet
    os._exit(Unreachable.exit_status)
