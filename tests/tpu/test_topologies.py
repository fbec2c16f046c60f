"""The table of TPU slices against itself."""

from __future__ import annotations

import math

import pytest

from alignjax.config import ConfigError, MeshConfig
from alignjax.parallel.mesh import axis_sizes
from alignjax.parallel.tpu_topologies import GENERATIONS, Topology, topologies, topology

every = pytest.mark.parametrize("slice_", topologies().values(), ids=lambda slice_: slice_.name)


@every
def test_chips_hosts_and_devices_agree(slice_: Topology) -> None:
    number = int(slice_.name.rpartition("-")[2])
    generation = slice_.generation
    assert slice_.chips == math.prod(map(int, slice_.shape.split("x")))
    assert number == slice_.chips * (generation.cores if generation.counts == "cores" else 1)
    assert slice_.hosts * slice_.chips_per_host == slice_.chips
    assert slice_.devices == slice_.chips * generation.devices
    assert slice_.devices % slice_.hosts == 0
    assert slice_.hbm_bytes * slice_.devices == generation.hbm_gib * 2**30 * slice_.chips


@every
def test_the_default_mesh_fills_the_slice(slice_: Topology) -> None:
    mesh = slice_.default_mesh
    sizes = axis_sizes(mesh, slice_.devices)
    assert math.prod(sizes) == slice_.devices
    assert -1 not in (mesh.replica, mesh.fsdp, mesh.tensor)
    assert axis_sizes(MeshConfig(mesh.replica, -1, mesh.tensor), slice_.devices) == sizes


@every
def test_several_slices_have_the_sum_of_what_each_has(slice_: Topology) -> None:
    three = topology(slice_.name, 3)
    assert (three.chips, three.hosts, three.devices) == (3 * slice_.chips, 3 * slice_.hosts, 3 * slice_.devices)
    assert (three.hbm_bytes, three.compiler_name) == (slice_.hbm_bytes, slice_.compiler_name)
    assert (str(slice_), str(three)) == (slice_.name, f"3 x {slice_.name}")
    mesh, one = three.default_mesh, slice_.default_mesh
    assert (mesh.replica, mesh.fsdp, mesh.tensor) == (3 * one.replica, one.fsdp, one.tensor)
    assert axis_sizes(mesh, three.devices, three.slices) == (mesh.replica, mesh.fsdp, mesh.tensor)
    with pytest.raises(ConfigError, match="lies on 3 slices"):
        axis_sizes(MeshConfig(1, -1, 1), three.devices, three.slices)


def test_names_are_unique_and_read_in_both_spellings() -> None:
    assert len(topologies()) == sum(len(generation.slices) for generation in GENERATIONS)
    assert topology("v5e-16") == topology("v5litepod-16")
    assert topology("v7x-128") == topology("tpu7x-128")
    for name, slice_ in topologies().items():
        assert topology(name) == slice_


@pytest.mark.parametrize(
    ("name", "chips", "hosts", "devices"),
    [  # as Google's pages have them
        ("v4-8", 4, 1, 4),
        ("v5e-8", 8, 1, 8),
        ("v5e-16", 16, 4, 16),
        ("v5p-128", 64, 16, 64),
        ("v6e-256", 256, 64, 256),
        ("v7x-128", 64, 16, 128),
    ],
)
def test_some_by_hand(name: str, chips: int, hosts: int, devices: int) -> None:
    found = topology(name)
    assert (found.chips, found.hosts, found.devices) == (chips, hosts, devices)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5p-127", "v5p comes with 8, 16, 32"),
        ("v5-128", "there is no TPU slice 'v5-128'. Did you mean 'v5p-128'?"),
        ("", "Generations: v4, v5litepod, v5p, v6e, tpu7x"),
    ],
)
def test_an_unknown_slice_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match="there is no TPU slice") as raised:
        topology(name)
    assert message in str(raised.value)


def test_less_than_one_slice_is_refused() -> None:
    with pytest.raises(ConfigError, match="--slices 0: at least 1"):
        topology("v5e-16", 0)
