"""Checkpoints: what was saved comes back bit for bit, and what cannot is said in words."""

from __future__ import annotations

import dataclasses
import functools
import os
import resource
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax.train import checkpoint
from alignjax.train.checkpoint.checksums import checksums, digest
from alignjax.train.checkpoint.read_steps import CheckpointError
from alignjax.tree_names import leaves_by_name


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    roles: dict[str, Any]
    optimizers: dict[str, Any]
    step: jax.Array
    seed: jax.Array


class Ring(NamedTuple):
    rows: jax.Array
    filled: jax.Array


@jax.tree_util.register_pytree_with_keys_class
class Both:
    """A tree whose keys are an int and a str that print alike."""

    def __init__(self, *children: Any) -> None:
        self.children = children

    def tree_flatten_with_keys(self) -> tuple[Any, None]:
        return tuple(zip(map(jax.tree_util.DictKey, (1, "1")), self.children, strict=True)), None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> Both:
        return cls(*children)


@functools.partial(jax.jit, static_argnums=1)
def born(seed: jax.Array, width: int) -> State:
    key = jax.random.key(seed)
    policy = {"embed": jax.random.normal(key, (700, width)), "layers": {"w/in": jax.random.normal(key, (3, width, 2))}}
    state = {
        "policy": policy,
        "reference": policy,
        "shift": jnp.float32(0.8) + seed,
        "ring": Ring(jnp.zeros((0, 3), jnp.int32), jnp.array([True, False])),
        "small": {"bf16": jnp.arange(4, dtype=jnp.bfloat16), "u8": jnp.arange(3, dtype=jnp.uint8)},
        "keys": [jax.random.split(key, 2)],
    }
    return State(state, {"policy": optax.adam(1e-3).init(policy)}, jnp.int32(seed), seed)


def make_state(seed: int = 0, width: int = 5) -> State:
    """A state with every kind of leaf that a role may hold."""
    return born(jnp.uint32(seed), width)


def abstract(state: State) -> State:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)


def raw(tree: Any) -> dict[str, bytes]:
    """The bytes of every leaf."""
    return {
        name: np.asarray(
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        ).tobytes()
        for name, leaf in leaves_by_name(tree).items()
    }


def write(folder: Path, *numbers: int, keep: int = 2, width: int = 5) -> None:
    with checkpoint.writing(folder, keep=keep) as writer:
        for number in numbers:
            checkpoint.save(writer, number, make_state(number, width), {"iterator": {"next_step": number}})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write(folder, 10, 20, 30, keep=2)
    return folder


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written, tmp_path / "run")
    return tmp_path / "run"


def biggest(folder: Path, step: int) -> Path:
    files = [path for path in (folder / "checkpoints" / str(step)).rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size if "/d/" in str(path) else 0)


def test_restores_every_leaf_bit_for_bit_and_the_newest_by_default(written: Path) -> None:
    state, meta = checkpoint.restore(written, abstract(make_state()))
    assert raw(state) == raw(make_state(30))
    assert jax.tree.structure(state) == jax.tree.structure(make_state())
    assert meta["iterator"] == {"next_step": 30}
    assert not any(
        leaf.weak_type
        for leaf in jax.tree.leaves(state)
        if isinstance(leaf, jax.Array) and leaf.dtype != state.roles["keys"][0].dtype
    )
    earlier, _ = checkpoint.restore(written, abstract(make_state()), step=20)
    assert raw(earlier) == raw(make_state(20))


def test_keeps_the_newest(written: Path) -> None:
    assert checkpoint.steps(written) == [20, 30]


def test_restored_buffers_are_their_own_and_can_be_donated(written: Path) -> None:
    state, _ = checkpoint.restore(written, abstract(make_state()))
    pointers = [
        leaf.unsafe_buffer_pointer()
        for leaf in jax.tree.leaves(state.optimizers) + jax.tree.leaves(state.roles["policy"])
    ]
    assert len(set(pointers)) == len(pointers)
    before = jax.tree.leaves(state.roles["policy"])
    moved = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)(state.roles["policy"])
    assert all(leaf.is_deleted() for leaf in before)
    assert {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(moved)} <= set(pointers)


def test_donation_right_after_an_asynchronous_save_does_not_change_what_is_saved(tmp_path: Path) -> None:
    state = {"roles": {"policy": jnp.arange(1_000_000, dtype=jnp.float32)}}
    saved = raw(state)
    with checkpoint.writing(tmp_path, keep=1) as writer:
        checkpoint.save(writer, 1, state, {})
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
        state = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 2, tree), donate_argnums=0)(state)
        jax.block_until_ready(state)
    assert raw(checkpoint.restore(tmp_path, like)[0]) == saved


def test_one_role_without_the_rest(written: Path) -> None:
    policy = checkpoint.restore_role(written, "policy")
    assert raw(policy) == raw(make_state(30).roles["policy"])
    assert jax.tree.structure(policy) == jax.tree.structure(make_state().roles["policy"])
    assert raw(checkpoint.restore_role(written, "shift", step=20)) == raw(make_state(20).roles["shift"])
    ring = make_state().roles["ring"]
    assert isinstance(checkpoint.restore_role(written, "ring", like=ring), Ring)
    with pytest.raises(CheckpointError, match=r"no role 'polcy'.*'policy'"):
        checkpoint.restore_role(written, "polcy")
    with pytest.raises(CheckpointError, match="has that step been run"):
        checkpoint.restore_role(written / "nowhere", "policy")


ONCE = ("reference", "keys", "ring")


def moved(state: State, number: int, *changed: str) -> State:
    """The state with another step, and other numbers in the policy and the roles that are named."""
    other = make_state(number).roles
    roles = {name: other[name] if name in ("policy", *changed) else own for name, own in state.roles.items()}
    return dataclasses.replace(state, roles=roles, step=jnp.int32(number))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps, of which the last two are kept."""
    folder = tmp_path_factory.mktemp("once")
    with checkpoint.writing(folder, keep=2) as writer:
        for number in (1, 2, 3, 4):
            checkpoint.save(writer, number, moved(make_state(0), number), {}, once=ONCE)
    return folder


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_roles_that_never_change_are_written_once(shared: Path, written: Path) -> None:
    (frozen,) = (shared / "checkpoints/frozen").iterdir()
    reference = sum(leaf.nbytes for leaf in jax.tree.leaves(make_state().roles["reference"]))
    assert size(frozen) > 0.8 * reference
    assert size(written / "checkpoints/30") - size(shared / "checkpoints/4") > 0.8 * reference
    assert checkpoint.steps(shared) == [3, 4]
    for number in (3, 4):
        state, _ = checkpoint.restore(shared, abstract(make_state()), number)
        assert raw(state) == raw(moved(make_state(0), number))
    assert raw(checkpoint.restore_role(shared, "reference")) == raw(make_state(0).roles["reference"])
    assert raw(checkpoint.restore_role(shared, "policy")) == raw(make_state(4).roles["policy"])


def test_another_process_goes_on_with_what_is_there_and_a_change_is_not_lost(shared: Path, tmp_path: Path) -> None:
    shutil.copytree(shared, tmp_path / "run")
    folder = tmp_path / "run"
    with checkpoint.writing(folder, keep=2) as writer:
        checkpoint.save(writer, 5, moved(make_state(0), 5), {}, once=ONCE)
        assert len([*(folder / "checkpoints/frozen").iterdir()]) == 1
        checkpoint.save(writer, 6, moved(make_state(0), 6, "reference"), {}, once=ONCE)
    for number, changed in ((5, ()), (6, ("reference",))):
        state, _ = checkpoint.restore(folder, abstract(make_state()), number)
        assert raw(state) == raw(moved(make_state(0), number, *changed))


@pytest.mark.parametrize("how", ["flipped", "removed"])
def test_damage_to_what_all_steps_need_is_not_laid_to_one_of_them(shared: Path, tmp_path: Path, how: str) -> None:
    shutil.copytree(shared, tmp_path / "run")
    folder = tmp_path / "run"
    if how == "removed":
        shutil.rmtree(folder / "checkpoints/frozen")
    else:
        flip(max((folder / "checkpoints/frozen").rglob("d/*"), key=lambda path: path.stat().st_size))
    for read in (
        lambda: checkpoint.restore(folder, abstract(make_state())),
        lambda: checkpoint.restore_role(folder, "reference"),
    ):
        with pytest.raises(CheckpointError, match=r"checkpoints/frozen/\w+ is damaged: .*put back a copy") as caught:
            read()
        assert not caught.value.damaged
    assert raw(checkpoint.restore_role(folder, "policy")) == raw(make_state(4).roles["policy"])


def flip(victim: Path) -> None:
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)


@pytest.mark.parametrize("how", ["truncated", "flipped", "removed"])
def test_a_damaged_checkpoint_is_named_and_the_previous_one_offered(copied: Path, how: str) -> None:
    victim = biggest(copied, 30)
    if how == "truncated":
        os.truncate(victim, victim.stat().st_size // 2)
    elif how == "removed":
        victim.unlink()
    else:
        flip(victim)
    with pytest.raises(CheckpointError, match="damaged") as caught:
        checkpoint.restore(copied, abstract(make_state()))
    assert caught.value.damaged
    assert caught.value.previous == 20
    assert "Step 20" in str(caught.value)
    assert len(str(caught.value)) < 600
    assert raw(checkpoint.restore(copied, abstract(make_state()), step=20)[0]) == raw(make_state(20))


def test_damaged_json_and_foreign_folders(copied: Path) -> None:
    meta = copied / "checkpoints/30/meta/metadata"
    meta.write_text(meta.read_text()[:50])
    with pytest.raises(CheckpointError, match=r"damaged.*\n?.*Step 20"):
        checkpoint.restore(copied, abstract(make_state()))
    meta.write_text('{"somebody": "else"}')
    with pytest.raises(CheckpointError, match="not written by"):
        checkpoint.restore(copied, abstract(make_state()))
    shutil.rmtree(copied / "checkpoints/30/meta")
    with pytest.raises(CheckpointError, match="checkpoints/30"):
        checkpoint.restore(copied, abstract(make_state()))


def test_another_config_is_refused_by_leaf(written: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"roles/policy/embed is float32\[700, 5\] .* float32\[700, 6\]"
    ) as caught:
        checkpoint.restore(written, abstract(make_state(width=6)))
    assert not caught.value.damaged
    state = make_state()
    more = dataclasses.replace(state, roles={**state.roles, "critic": jnp.zeros(3)})
    with pytest.raises(CheckpointError, match="roles/critic is only in this config"):
        checkpoint.restore(written, abstract(more))
    half = dataclasses.replace(state, seed=state.seed.astype(jnp.int32))
    with pytest.raises(CheckpointError, match=r"seed is uint32\[\] in the checkpoint and int32\[\]"):
        checkpoint.restore(written, abstract(half))


def test_nothing_to_restore(tmp_path: Path, written: Path) -> None:
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        checkpoint.restore(tmp_path, abstract(make_state()))
    with pytest.raises(CheckpointError, match=r"holds no checkpoint\. Complete steps: 20, 30"):
        checkpoint.restore(written, abstract(make_state()), step=25)


def test_too_little_room_is_said_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 100, 1000))
    with pytest.raises(CheckpointError, match=r"1000 B free .* 3 checkpoints take"):
        checkpoint.check_room(tmp_path, make_state(), keep=2)
    state = make_state()
    first = sum(leaf.nbytes for leaf in jax.tree.leaves(state.roles["reference"])) / 1024
    with pytest.raises(CheckpointError, match=rf"keep=2, and {first:.1f} KiB once"):
        checkpoint.check_room(tmp_path, state, keep=2, once=("reference",))
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write checkpoints"):
        checkpoint.check_room(tmp_path / "file", make_state(), keep=2)


def test_a_failed_background_write_is_told_and_loses_nothing(tmp_path: Path) -> None:
    state = {"roles": {"policy": jax.random.normal(jax.random.key(0), (300_000,))}}
    with checkpoint.writing(tmp_path, keep=2) as writer:
        checkpoint.save(writer, 30, state, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # files stop growing, as on a full disk
    try:
        with (
            pytest.raises(CheckpointError, match="step 30 is complete"),
            checkpoint.writing(tmp_path, keep=2) as writer,
        ):
            checkpoint.save(writer, 40, state, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.steps(tmp_path) == [30]
    assert raw(checkpoint.restore(tmp_path, state)[0]) == raw(state)


def test_a_step_is_not_written_over(copied: Path) -> None:
    with pytest.raises(CheckpointError, match="already there"), checkpoint.writing(copied, keep=2) as writer:
        checkpoint.save(writer, 20, make_state(99), {})
    assert raw(checkpoint.restore(copied, abstract(make_state()), step=20)[0]) == raw(make_state(20))


def test_checksums_see_every_single_change() -> None:
    leaf = np.zeros((3, 5), np.float32)
    seen = {checksums({"x": jnp.asarray(leaf)})["x"]}
    for index in np.ndindex(*leaf.shape):
        changed = leaf.copy()
        changed[index] = -0.0
        seen.add(checksums({"x": jnp.asarray(changed)})["x"])
    assert len(seen) == leaf.size + 1
    assert digest({"x": jnp.asarray(leaf)}) != digest({"y": jnp.asarray(leaf)})


def test_names_that_would_clash_are_refused() -> None:
    assert len(leaves_by_name({"a/b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}})) == 2
    with pytest.raises(ValueError, match="same name"):
        leaves_by_name(Both(jnp.zeros(1), jnp.zeros(1)))
