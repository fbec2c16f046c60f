"""Does a slice work? Counts its devices, sends numbers along every axis of a mesh, compares a config over its hosts.

    python tpu/smoke_test.py --topology v5e-16 [--slices 2] [--mesh 1 4 4] [--config configs/ipo_md.py] [--distributed]

Run by every host of a slice (with --distributed where there are several), or with simulated devices:
XLA_FLAGS=--xla_force_host_platform_device_count=8 python tpu/smoke_test.py --topology v5e-8
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from rich.console import Console
from rich.table import Table

from alignjax.cli.config_file import load
from alignjax.config import ConfigError, MeshConfig
from alignjax.parallel.mesh import AXES, make_mesh, slice_count
from alignjax.parallel.processes import connect
from alignjax.parallel.tpu_topologies import Topology, topology
from alignjax.train.run_record import config_hash

Row = tuple[str, str, str]  # what was looked at, what it must be, what it is


def main(arguments: Sequence[str] | None = None) -> int:
    flags = argparse.ArgumentParser(description="Does a slice work?", allow_abbrev=False)
    flags.add_argument("--topology", required=True, help="accelerator type: v5e-16, v5p-128, ...")
    flags.add_argument("--slices", type=int, default=1, help="how many such slices")
    flags.add_argument("--mesh", nargs=3, type=int, metavar=("REPLICA", "FSDP", "TENSOR"), help="not the default one")
    flags.add_argument("--config", help="CONFIG[:MODE] whose hash all hosts must agree on")
    flags.add_argument("--distributed", action="store_true", help="one of several hosts")
    given = flags.parse_args(arguments)
    slice_ = topology(given.topology, given.slices)
    if given.distributed:
        connect()
    mesh = MeshConfig(*given.mesh) if given.mesh else slice_.default_mesh
    rows = devices(slice_)
    if jax.device_count() == slice_.devices:
        rows += collectives(make_mesh(mesh))
    if given.config:
        rows += agreement(config_hash(load(given.config).config))
    if jax.process_index() == 0:
        show(rows)
    return int(any(wanted != found for _, wanted, found in rows))


def devices(slice_: Topology) -> list[Row]:
    """Simulated devices are all of one host and one slice."""
    simulated = jax.default_backend() != "tpu"
    hosts = jax.process_count() if simulated else slice_.hosts
    return [
        ("slices", str(1 if simulated else slice_.slices), str(slice_count(jax.devices()))),
        ("devices", str(slice_.devices), str(jax.device_count())),
        ("hosts", str(hosts), str(jax.process_count())),
        ("devices of each host", str(slice_.devices // hosts), str(jax.local_device_count())),
    ]


def collectives(mesh: Mesh) -> list[Row]:
    """Along each axis: the sum of the places, everybody's place, and the place of the neighbour, on every device."""
    rows = []
    for axis in AXES:
        size = mesh.shape[axis]
        places = np.arange(size)
        expected: dict[str, tuple[Callable[[jax.Array], jax.Array], np.ndarray]] = {
            "psum": (functools.partial(jax.lax.psum, axis_name=axis), np.full(size, places.sum())),
            "all_gather": (
                lambda x, axis=axis: jax.lax.all_gather(x, axis, tiled=True),
                np.tile(places, size),
            ),
            "ppermute": (
                lambda x, axis=axis, size=size: jax.lax.ppermute(x, axis, [(i, (i + 1) % size) for i in range(size)]),
                np.roll(places, 1),
            ),
        }
        for name, (collective, wanted) in expected.items():
            found = _everywhere(collective, axis, mesh)
            right = all(np.array_equal(row, wanted) for row in found)
            rows.append((f"{name} along {axis} ({size})", "as expected", "as expected" if right else f"{found[0]}"))
    return rows


def _everywhere(collective: Callable[[jax.Array], jax.Array], axis: str, mesh: Mesh) -> np.ndarray:
    """What the devices along `axis` get, [places of the other axes, values along the axis]."""
    others = tuple(name for name in AXES if name != axis)
    count = int(np.prod([mesh.shape[name] for name in others]))
    given = jax.device_put(
        jnp.tile(jnp.arange(mesh.shape[axis], dtype=jnp.int32), (count, 1)), NamedSharding(mesh, P(others, axis))
    )
    mapped = jax.shard_map(
        lambda x: collective(x[0])[None], mesh=mesh, in_specs=P(others, axis), out_specs=P(others, axis)
    )
    # Gathered to every host, so that each can compare.
    return np.asarray(jax.jit(mapped, out_shardings=NamedSharding(mesh, P()))(given).addressable_data(0))


def agreement(mine: str) -> list[Row]:
    """The config's hash on every host."""
    own = np.frombuffer(bytes.fromhex(mine), np.uint8)
    every = multihost_utils.process_allgather(own, tiled=False).reshape(-1, own.size)
    found = {bytes(row).hex() for row in every}
    return [("configs", mine[:12], mine[:12] if found == {mine} else ", ".join(sorted(name[:12] for name in found)))]


def show(rows: Sequence[Row]) -> None:
    table = Table("what", "wanted", "found", "")
    for what, wanted, found in rows:
        table.add_row(what, wanted, found, "ok" if wanted == found else "WRONG")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
