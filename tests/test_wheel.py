"""The wheel: what is in it, that it trains by itself, and what the package needs to be imported. It is built without a
network, of a copy of the sources."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.commands import ROOT, environment

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ONLY = "from tests.support.only_requirements import refuse_others; refuse_others({}); "
# One process for several commands, each of which thinks that it is the process's own.
COMMANDS = """
import sys
from alignjax.cli import main
for line in sys.argv[1:]:
    sys.argv = ["alignjax", *line.split()]
    print(main())
"""


def python(folder: Path, program: str, *words: str, first: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs a program in a folder; modules are looked for in `first`, then in the checkout."""
    # The data that commands prepare are small here, and the compiled programs are those of all tests.
    environ = environment(folder) | {"PYTHONPATH": f"{first}{os.pathsep}{ROOT}"}
    words = (sys.executable, "-c", program, *words)
    return subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True, check=False)


def test_losses_need_jax_and_optax_alone(tmp_path: Path) -> None:
    """Without rich, matplotlib, yaml, tyro, ...: a loss can be taken into any project."""
    done = python(tmp_path, ONLY.format("'jax', 'optax'") + "import alignjax.losses as losses; print(losses.dpo)")
    assert done.returncode == 0, done.stderr
    refused = python(tmp_path, ONLY.format("'jax', 'optax'") + "import rich")
    assert "belongs to nothing that is required" in refused.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("sources")
    for name in ("alignjax", "configs", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    done = python(folder, "from setuptools import build_meta; build_meta.build_wheel('.')")
    assert done.returncode == 0, done.stderr[-3000:]
    (made,) = folder.glob("*.whl")
    return zipfile.ZipFile(made)


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_the_configs(wheel: zipfile.ZipFile) -> None:
    def files(folder: str, inside: str) -> dict[str, bytes]:
        paths = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        return {f"{inside}/{path.relative_to(ROOT / folder).as_posix()}": path.read_bytes() for path in paths}

    expected = files("alignjax", "alignjax") | files("configs", "alignjax/configs")
    held = {name: wheel.read(name) for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == expected
    assert "alignjax/py.typed" in held
    assert "alignjax/configs/quickstart.py" in held


@pytest.mark.slow
def test_the_wheel_trains_by_name_resumes_and_reports(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Outside of a checkout, with what the base install requires and nothing else."""
    wheel.extractall(tmp_path / "installed")
    folder = tmp_path / "work"
    folder.mkdir()
    run = functools.partial(python, folder, first=tmp_path / "installed")
    where = run("import alignjax; print(alignjax.__file__, alignjax.__version__)").stdout.split()
    assert where == [str(tmp_path / "installed" / "alignjax" / "__init__.py"), PROJECT["version"]]
    lines = ("train quickstart:tiny", "train quickstart:tiny --resume", "report runs/quickstart-tiny")
    done = run(ONLY.format("'alignjax'") + COMMANDS, *lines, "serve runs/quickstart-tiny/sft")
    assert [line for line in done.stdout.splitlines() if line.isdigit()] == ["0", "0", "0", "2"], done.stderr[-3000:]
    assert "done before" in done.stdout
    assert done.stderr.strip().endswith("error: alignjax serve needs starlette: pip install 'alignjax[serve]'")
