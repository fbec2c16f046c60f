"""Makes one wrong edit at a time in a copy of the package and sees that tests notice.

    python -m tests.mutants [NAME ...]

Runs the mutants of `changes.py`, or those whose name contains one of the NAMEs, two at a time, each against the tests
that must kill it, default tier alone; before them those tests without any edit, in as few runs as there can be. What
they compile is kept where the suite keeps it, so that a mutant compiles what its edit changes. Exit status 1 if one
survives, if its text is not in the source exactly once, or if its tests do not run.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tests.mutants.changes import MUTANTS
from tests.mutants.mutant import Mutant

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("alignjax", "tests", "configs", "experiments", "benchmarks", "docs", "README.md", "pyproject.toml")
# What takes seconds to import is imported before the forks.
HEAVY = (
    "jax", "flax.nnx", "optax", "orbax.checkpoint", "grain", "tokenizers", "scipy.optimize", "scipy.stats", "rich",
    "pytest",
)  # fmt: skip
WORKERS, LIMIT = 2, 900  # processes at a time, and seconds until one is ended: a loop without end is noticed
KILLED, SURVIVED = "killed", "survived"
OUTCOMES = {0: SURVIVED, 1: KILLED, -signal.SIGALRM: KILLED}  # of pytest's exit status; any other is a failure


def copied(root: Path, folder: Path, copy: Callable[[str, str], object]) -> Path:
    """A copy of what tests need; bytecode with it, which holds for all files but the edited one."""
    for name in COPIED:
        source, copied_to = root / name, folder / name
        shutil.copytree(source, copied_to, copy_function=copy) if source.is_dir() else copy(str(source), str(copied_to))
    return folder


def edited(mutant: Mutant, package: Path) -> str | None:
    """Makes the edit, in a file of its own in the place of the link; what is wrong with its text, if anything."""
    path = package / mutant.file
    text = path.read_text() if path.is_file() else ""
    if (number := text.count(mutant.text)) != 1:
        return f"its text stands {number} times in alignjax/{mutant.file}: {mutant.text!r}"
    path.unlink()
    path.write_text(text.replace(mutant.text, mutant.replacement))
    return None


def testing(root: Path, killers: Sequence[str], log: Path, limit: int) -> int:
    """The process id of a fork that runs tests in a copy; the fork itself never returns."""
    if child := os.fork():
        return child
    signal.alarm(limit)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.chdir(root)
    # The checkout's own modules go, and the copy's stand in their place; so also in what a test starts.
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "alignjax")]:
        del sys.modules[name]
    sys.path[:] = [str(root), *(entry for entry in sys.path if Path(entry or ROOT).resolve() != ROOT)]
    os.environ["PYTHONPATH"] = str(root)
    os.environ.setdefault("ALIGNJAX_SHARED", str(ROOT.parent / "shared"))
    import pytest  # noqa: PLC0415

    os._exit(pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *killers]))


Job = tuple[Mutant, Callable[[Path], str | None]]


def without_edits(mutants: Sequence[Mutant]) -> list[Job]:
    """The tests of all mutants on the package as it is: those that are named in one run a worker, those that `-k`
    chooses in runs of their own."""
    killers = dict.fromkeys(mutant.killers for mutant in mutants)
    named = sorted({test for tests in killers if "-k" not in tests for test in tests})
    files = sorted({test.partition("::")[0] for test in named})
    shares = [tuple(t for t in named if t.partition("::")[0] in files[part::WORKERS]) for part in range(WORKERS)]
    runs = [*filter(None, shares), *(tests for tests in killers if "-k" in tests)]
    return [(Mutant("no edit", "", "", "", tests), lambda package: None) for tests in runs]


def outcomes(jobs: Iterable[Job], plain: Path) -> Iterator[tuple[Mutant, str]]:
    """Every mutant with "killed", "survived" or why neither can be said, as they end; `plain`: what copies are of."""
    waiting, running = list(jobs), {}
    while waiting or running:
        while waiting and len(running) < WORKERS:
            mutant, edit = waiting.pop(0)
            folder = tempfile.TemporaryDirectory()
            root, log = copied(plain, Path(folder.name), os.link), Path(folder.name) / "log"
            if wrong := edit(root / "alignjax"):
                yield mutant, wrong
            else:
                limit = LIMIT if mutant.file else 0  # without an edit all tests are in one run
                running[testing(root, mutant.killers, log, limit)] = (mutant, folder, log)
        if running:
            child, status = os.wait()
            mutant, folder, log = running.pop(child)
            code = os.waitstatus_to_exitcode(status)
            yield mutant, OUTCOMES.get(code, f"its tests did not run ({code}):\n{log.read_text()[-1500:]}")
            folder.cleanup()


def main(names: Sequence[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not names or any(name in mutant.name for name in names)]
    if not chosen:
        print(f"no mutant's name contains {' or '.join(names)}")
        return 1
    for name in HEAVY:
        importlib.import_module(name)
    begun, failures = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        plain = copied(ROOT, Path(folder), shutil.copy2)
        for mutant, outcome in outcomes(without_edits(chosen), plain):
            if outcome != SURVIVED:
                failures += 1
                print(f"without an edit these tests do not pass: {' '.join(mutant.killers)}\n{outcome}", flush=True)
        print(f"{time.perf_counter() - begun:6.0f} s  the tests without an edit have run", flush=True)
        edits: Iterator[Job] = ((mutant, lambda package, m=mutant: edited(m, package)) for mutant in chosen)
        for mutant, outcome in outcomes(edits, plain):
            failures += outcome != KILLED
            print(f"{time.perf_counter() - begun:6.0f} s  {mutant.name}: {outcome}", flush=True)
    print(f"{len(chosen)} mutants, {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
