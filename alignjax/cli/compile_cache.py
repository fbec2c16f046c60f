"""How the command line compiles: programs that it keeps between runs, in jax's persistent cache, and quick ones.

The folder is `$ALIGNJAX_CACHE/xla`, or `~/.cache/alignjax/xla`, with a folder in it for each kind of CPU: a home
folder may be shared between machines, and a program with instructions that one of them does not have would end it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import stat
import sys
from pathlib import Path

from alignjax.outside import cache_root
from alignjax.outside.errors import ConfigError

SWITCH = "ALIGNJAX_COMPILE_CACHE"
THEIRS = "JAX_COMPILATION_CACHE_DIR"
# Also programs that compile in no time are kept: there are hundreds of them. The bound is jax's, which drops what was
# not used for longest and takes a lock for each access, so that two runs may start at once.
SETTINGS = {
    "jax_compilation_cache_max_size": 2 << 30,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}

UNOPTIMIZED = "jax_disable_most_optimizations"
# In one piece and not in up to 32; and by XLA's older emitters of fused loops, which hand LLVM less to do.
QUICK = ("--xla_cpu_parallel_codegen_split_count=1", "--xla_cpu_use_fusion_emitters=false")


def program_folder() -> Path:
    """Returns the folder of the programs that were compiled for CPUs like this one; it need not exist."""
    return cache_root(default="~/.cache/alignjax") / "xla" / _cpu_key()


def _cpu_key() -> str:
    """Hashes the machine's architecture and its CPU's model and features; without those of Linux, its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = [f"model name: {platform.processor()}"]
    wanted = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU part")
    features = sorted(line for line in lines if line.partition(":")[0].strip() in wanted)
    return hashlib.sha256("\n".join([platform.machine(), *features]).encode()).hexdigest()[:16]


def _make_private(folder: Path) -> None:
    """Makes a folder that only its owner reads and writes: whoever writes there chooses what runs here.

    Raises:
        OSError: if it cannot be made or written, or belongs to somebody else.
    """
    for level in (folder.parent, folder):
        level.mkdir(mode=0o700, parents=True, exist_ok=True)
        if level.stat().st_uid != os.getuid():
            raise PermissionError(f"{level} belongs to somebody else")
        if stat.S_IMODE(level.stat().st_mode) != 0o700:
            level.chmod(0o700)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written")


def keep_compiled_programs() -> Path | None:
    """Makes jax keep what it compiles in this process for the next one, before anything is compiled.

    `ALIGNJAX_COMPILE_CACHE=off` switches it off, and a JAX_COMPILATION_CACHE_DIR of the user's takes its place. A
    folder that cannot be written is no error: one line says so, and the run compiles as it would without.

    Returns:
        The folder, or None where nothing is kept by it.
    """
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "false", "no") or THEIRS in os.environ:
        return None
    try:
        folder = program_folder()
        _make_private(folder)
    except (OSError, ConfigError) as error:
        print(f"compiled programs are not kept for the next run: {error} ({SWITCH}=off is quiet)", file=sys.stderr)
        return None
    import jax  # noqa: PLC0415

    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in SETTINGS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    return folder


def compile_quickly() -> None:
    """Makes XLA spend a third of the time on every program of this process, for code that runs slower: for runs of a
    few steps, which compile and do little else. To be called before anything is compiled; what the user's XLA_FLAGS
    and JAX_DISABLE_MOST_OPTIMIZATIONS say stays."""
    # XLA ends the process at a flag that it does not know, and newer ones have no other emitters.
    release = tuple(int(part) for part in importlib.metadata.version("jax").split(".")[:2])
    theirs = os.environ.get("XLA_FLAGS", "").split()
    named = {flag.partition("=")[0] for flag in theirs}
    flags = [flag for flag in (QUICK if release < (0, 11) else QUICK[:1]) if flag.partition("=")[0] not in named]
    os.environ["XLA_FLAGS"] = " ".join([*theirs, *flags])
    if UNOPTIMIZED.upper() not in os.environ:
        import jax  # noqa: PLC0415

        jax.config.update(UNOPTIMIZED, True)
