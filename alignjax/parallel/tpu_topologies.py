"""TPU slices that can be asked for: chips, hosts, devices as JAX sees them, memory, and a mesh to begin with.

Numbers are from the Cloud TPU pages https://docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e and tpu7x (of v4's links
from arXiv:2304.01433), runtimes from https://docs.cloud.google.com/tpu/docs/runtimes. The names of slices, and that
"v4", "v5p" and "tpu7x" count TensorCores where "v5litepod" and "v6e" count chips, agree with xpk's
`system_characteristics.py`. Devices per chip: with a megacore (v4, v5p) both TensorCores are one device; an Ironwood
chip is two devices (https://docs.jax.dev/en/latest/_autosummary/jax.experimental.pallas.tpu.ChipVersion.html).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from alignjax.config import ConfigError, MeshConfig, nearest

FSDP_WAYS = 64  # default meshes split a batch of prompts no further; beyond it, devices go to the tensor axis
TENSOR_WAYS = 8  # more would leave too few heads to each device


@dataclasses.dataclass(frozen=True)
class Generation:
    """A kind of TPU.

    Attributes:
        prefix: The beginning of its accelerator types.
        alias: Another spelling of it that people use.
        cores: TensorCores per chip.
        devices: Devices of jax per chip.
        counts: "chips" or "cores", whichever the number in an accelerator type counts.
        hbm_gib: Memory of a chip, in GiB.
        runtime: The software version of a TPU VM, or None where there are none and only GKE (xpk) serves.
        slices: The number in an accelerator type -> chips along the axes of the interconnect.
        tflops: Of a chip in bfloat16, 10^12 FLOP/s.
        memory_gb_s: Of a chip's memory, 10^9 bytes/s.
        links_gb_s: Of a chip's links in a slice, both directions of all together, 10^9 bytes/s.
    """

    prefix: str
    alias: str
    cores: int
    devices: int
    counts: str
    hbm_gib: float
    runtime: str | None
    slices: Mapping[int, str]
    tflops: float
    memory_gb_s: float
    links_gb_s: float


_CUBES = {8: "2x2x1", 16: "2x2x2", 32: "2x2x4", 64: "2x4x4", 128: "4x4x4", 256: "4x4x8", 512: "4x8x8", 1024: "8x8x8"}
_CUBES |= {2048: "8x8x16", 4096: "8x16x16"}
_LARGE_CUBES = {8192: "16x16x16", 12288: "16x16x24"}
_SQUARES = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}

GENERATIONS = (
    Generation("v4", "v4", 2, 1, "cores", 32, "tpu-ubuntu2204-base", _CUBES, 275, 1200, 600),
    Generation("v5litepod", "v5e", 1, 1, "chips", 16, "v2-alpha-tpuv5-lite", _SQUARES, 197, 819, 400),
    Generation("v5p", "v5p", 2, 1, "cores", 95, "v2-alpha-tpuv5", _CUBES | _LARGE_CUBES, 459, 2765, 1200),
    Generation("v6e", "v6e", 1, 1, "chips", 32, "v2-alpha-tpuv6e", _SQUARES, 918, 1638, 800),
    Generation("tpu7x", "v7x", 2, 2, "cores", 192, None, {2: "1x1x1"} | _CUBES, 2307, 7380, 1200),
)


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice, or several like it. Chips, hosts and devices are those of all slices together.

    Attributes:
        name: The accelerator type of each slice, as gcloud and xpk take it.
        generation: The kind of TPU.
        shape: Chips along the interconnect of each slice.
        slices: The number of slices, joined by the data center's network.
    """

    name: str
    generation: Generation
    shape: str
    slices: int = 1

    def __str__(self) -> str:
        return self.name if self.slices == 1 else f"{self.slices} x {self.name}"

    @property
    def chips(self) -> int:
        return self.slices * self._chips

    @property
    def _chips(self) -> int:
        return math.prod(map(int, self.shape.split("x")))

    @property
    def chips_per_host(self) -> int:
        """A TPU VM has four, except that v5e and v6e have slices of one VM with one or eight, Ironwood one with one."""
        return self._chips if self._chips == 1 or (self._chips == 8 and self.shape == "2x4") else 4

    @property
    def hosts(self) -> int:
        return self.chips // self.chips_per_host

    @property
    def devices(self) -> int:
        """The number that `jax.device_count()` returns on all slices."""
        return self.chips * self.generation.devices

    @property
    def hbm_bytes(self) -> int:
        """Memory of one device in bytes, before what the runtime keeps for itself."""
        return int(self.generation.hbm_gib * 2**30 / self.generation.devices)

    @property
    def default_mesh(self) -> MeshConfig:
        """In a slice, weights and batch over up to 64 devices, the rest to heads and hidden units; what is left over,
        and the slices, to replicas."""
        devices = self.devices // self.slices
        fsdp = math.gcd(devices, FSDP_WAYS)
        tensor = math.gcd(devices // fsdp, TENSOR_WAYS)
        return MeshConfig(replica=self.devices // fsdp // tensor, fsdp=fsdp, tensor=tensor)

    @property
    def compiler_name(self) -> str:
        """The name of the slice for the TPU compiler (libtpu)."""
        prefix = "v5e" if self.generation.prefix == "v5litepod" else self.generation.prefix
        return f"{prefix}:{self.shape}"


def topologies() -> dict[str, Topology]:
    """Returns every slice by accelerator type."""
    slices = [
        Topology(f"{generation.prefix}-{number}", generation, shape)
        for generation in GENERATIONS
        for number, shape in generation.slices.items()
    ]
    return {topology.name: topology for topology in slices}


def topology(name: str, slices: int = 1) -> Topology:
    """Looks up an accelerator type.

    Args:
        name: The accelerator type; "v5e-16" and "v7x-128" are understood too.
        slices: The number of such slices.

    Raises:
        ConfigError: There is no such type, or less than one slice.
    """
    if slices < 1:
        raise ConfigError(f"--slices {slices}: at least 1")
    prefix, _, number = name.partition("-")
    generation = next((g for g in GENERATIONS if prefix.lower() in (g.prefix, g.alias)), None)
    if generation is None:
        kinds = ", ".join(g.prefix for g in GENERATIONS)
        raise ConfigError(f"there is no TPU slice {name!r}.{nearest(name, topologies())} Generations: {kinds}")
    spelling = f"{generation.prefix}-{number}"
    if spelling not in topologies():
        sizes = ", ".join(map(str, generation.slices))
        raise ConfigError(
            f"there is no TPU slice {name!r}: {generation.prefix} comes with {sizes} ({generation.counts})"
        )
    return dataclasses.replace(topologies()[spelling], slices=slices)
