"""Enough to see that a Python and the packages that pip brings for it go together, without torch and transformers.

    pytest -m smoke

also runs the marked tests of other files: resumed runs, the memory of devices, the cache of compiled programs.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT, run
from tests.support.private_jax import RELEASES, compiler_module
from tests.support.toy_configs import ONE, in_a_folder

pytestmark = pytest.mark.smoke
IMPORT_ALL = r"""
import importlib, pkgutil, warnings
warnings.filterwarnings("error", category=DeprecationWarning, module=r"alignjax(\.|$)")
import alignjax
names = [module.name for module in pkgutil.walk_packages(alignjax.__path__, "alignjax.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))
"""


def python(*words: str, **extra: str) -> str:
    """Output of a program of this Python that is to succeed."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | extra
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_imports_of_every_module_raise_no_deprecation() -> None:
    """Deprecations count where alignjax's own modules cause them."""
    assert int(python("-c", IMPORT_ALL)) > 100


def test_private_names_of_jax_exist() -> None:
    """What the tests use of jax's private modules was tried on these releases; a newer one is to be tried and added."""
    release = ".".join(importlib.metadata.version("jax").split(".")[:2])
    assert release in RELEASES, f"jax {release} has not been tried: {RELEASES}"
    assert hasattr(compiler_module, "distributed")


def test_dry_run_of_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session_cache: Path) -> None:
    out = run("alignjax train configs/ipo_md.py:tiny --dry-run", ROOT, session_cache)
    assert "the pipeline" in out
    with in_a_folder(tmp_path, monkeypatch):
        out = run(f"alignjax train {json.dumps(ONE)} --dry-run --compile", tmp_path, session_cache)
    assert "to update, says the compiler" in out


@pytest.mark.slow
def test_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session_cache: Path) -> None:
    """The lines of one whose points are runs, and all points of a game as one program, for fewer steps than usual."""
    text = (ROOT / "configs" / "games.py").read_text()
    assert "else 500" in text
    with in_a_folder(tmp_path, monkeypatch):
        (tmp_path / "games.py").write_text(text.replace("else 500", "else 20"))
        assert "400 points" in run("alignjax sweep games.py", tmp_path, session_cache)
        lines = f'"""Two."""\nCONFIG = {ONE!r}\n\n\ndef sweep():\n    yield {{"steps": 2}}\n    yield {{"steps": 3}}\n'
        (tmp_path / "two.py").write_text(lines)
        assert run("alignjax sweep two.py", tmp_path, session_cache).count("alignjax train") == 2


@pytest.mark.slow
def test_the_quickstart(tmp_path: Path, session_cache: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    run("alignjax train configs/quickstart.py:tiny --run-dir run", tmp_path, session_cache)
    assert (tmp_path / "run" / "results.json").is_file()


@pytest.mark.slow
def test_two_recipes_on_eight_devices() -> None:
    out = python("-m", "tests.support.mesh_program", "dpo", "ipo_md", "4x2")
    assert "dpo" in out
    assert "ipo_md" in out
