"""Configs for the tests of the command line: written into a folder of their own, as a user's files would be."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

SHARED = '''
"""What the configs of these tests have in common, beside them: a tiny model and a source that needs no files."""
import dataclasses

import jax
import numpy as np

from alignjax.types import Batch


@dataclasses.dataclass(frozen=True)
class Numbers:
    seed: int
    rows: int
    readable: bool

    @property
    def spec(self):
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self.batch(0))

    def batch(self, step):
        rng = np.random.default_rng((self.seed, step))
        return Batch(
            prompt=rng.integers(4, 32, (self.rows, 5)).astype(np.int32),
            prompt_valid=np.ones((self.rows, 5), bool),
            tokens=rng.integers(4, 32, (self.rows, 1, 6)).astype(np.int32),
            valid=np.ones((self.rows, 1, 6), bool),
            mask=np.ones((self.rows, 1, 6), np.float32),
            example_id=np.arange(self.rows, dtype=np.int32),
        )

    def __getitem__(self, step):
        assert self.readable, "a dry run reads no data"
        return self.batch(step)


def numbers(workspace, seed, *, rows: int = 4, readable: bool = True):
    return Numbers(seed, rows, readable)
'''

CONFIG = '''
"""A config of one experiment."""
from shared_by_tests import numbers

from alignjax import losses, roles
from alignjax.config import Experiment, fn
from alignjax.models import TransformerConfig, transformer
from alignjax.train.optimizers import adamw
from alignjax.types import Algorithm, Role

MODES = ("full", "tiny")


def get_config(mode="full"):
    model = transformer(TransformerConfig(vocab=32, width=8, layers=2, heads=2, mlp=16))
    algorithm = Algorithm(
        losses={"sft": fn(losses.sft)},
        roles={"policy": Role(model, roles.fresh(), fn(adamw, learning_rate=1e-2)),
               "reference": Role(model, roles.copy_of("policy"))},
    )
    return Experiment(algorithm, fn(numbers), steps=3 if mode == "tiny" else 30, log_every=1)
'''

PIPELINE = '''
"""A config of three steps."""
import dataclasses
import json

import one

from alignjax import roles
from alignjax.config import Pipeline, fn
from alignjax.types import Role


def count(workspace, *, more: int = 1):
    file = workspace.folder / "count.json"
    number = json.loads(file.read_text()) + more if file.exists() else 0
    file.write_text(json.dumps(number))
    return {"count": number}


def get_config(mode: str):
    first = dataclasses.replace(one.get_config("tiny"), steps=2)
    policy = first.algorithm.roles["policy"]
    second = dataclasses.replace(
        first,
        algorithm=dataclasses.replace(
            first.algorithm, roles={"policy": Role(policy.model, roles.restored("first", "policy"), policy.optimizer)}
        ),
    )
    return Pipeline({"first": first, "second": second, "evaluate": fn(count)})
'''

ONE, THREE = "my configs/one.py", "my configs/three.py"


@contextlib.contextmanager
def in_a_folder(folder: Path, monkeypatch) -> Iterator[None]:
    """Works in `folder` with the configs in "my configs", and forgets what was imported from there."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("ALIGNJAX_CACHE", str(folder / "cache"))
    monkeypatch.delenv("ALIGNJAX_TRACEBACK", raising=False)
    configs = folder / "my configs"
    configs.mkdir()
    for name, text in (("shared_by_tests", SHARED), ("one", CONFIG), ("three", PIPELINE)):
        (configs / f"{name}.py").write_text(text)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name in ("shared_by_tests", "one", "recipes") or name.startswith(("_alignjax_config_", "recipes.")):
            del sys.modules[name]
