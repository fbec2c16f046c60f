"""Stages that run in Python on the host: verifiers, remote judges, environments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alignjax.config import Fn
from alignjax.types import Batch, Context, Key, Metrics


def host(
    context: Context, batch: Batch, key: Key, *, stage: Callable[..., Any], like: Callable[[Batch], Any]
) -> Batch | tuple[Batch, Metrics]:
    """A stage in plain Python and NumPy; experience is cut into jitted segments around it.

    stage(context, batch, key) -> batch gets NumPy arrays. like(batch) -> batch says, on shapes alone, what comes back:
    checked after every call and used by dry runs. Both may return (batch, metrics) instead. Its answers are kept in the
    run folder, so that a resumed run replays them instead of asking a judge twice.

    Raises ValueError if what comes back is not of the shapes and dtypes that `like` declares.
    """
    given = jax.tree.map(np.asarray, batch)
    answer = jax.tree.map(np.asarray, stage(context, given, key))
    wanted = jax.eval_shape(like, batch)
    have, want = (
        {
            jax.tree_util.keystr(path): (leaf.shape, str(leaf.dtype))
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (answer, wanted)
    )
    wrong = [
        f"{path}: {have.get(path)}, declared {want.get(path)}"
        for path in sorted({*have, *want})
        if have.get(path) != want.get(path)
    ]
    if wrong:
        raise ValueError(f"a host stage returned something else than its `like` declares: {'; '.join(wrong[:4])}")
    return answer


def replayed(stage: Fn, name: str, step: int, context: Context, batch: Batch, key: Key, folder: Path | None) -> Any:
    """The stage's answer of this step from `folder` if it was given before (to the same question), else asked and
    kept."""
    path = folder / f"{name}-{step:08d}.npz" if folder else None
    asked = [np.asarray(leaf) for leaf in jax.tree.leaves(batch)]
    if path is not None and path.is_file():
        with np.load(path) as kept:
            if int(kept["asked"]) == len(asked) and all(
                np.array_equal(kept[f"asked{i}"], leaf) for i, leaf in enumerate(asked)
            ):
                structure = jax.tree.structure(jax.eval_shape(stage.kwargs["like"], batch))
                return jax.tree.unflatten(structure, [kept[f"answer{i}"] for i in range(structure.num_leaves)])
    answer = stage(context, batch, key)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {"asked": len(asked)} | {f"asked{i}": leaf for i, leaf in enumerate(asked)}
        arrays |= {f"answer{i}": leaf for i, leaf in enumerate(jax.tree.leaves(answer))}
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, **arrays)
        temporary.rename(path)
    return answer
