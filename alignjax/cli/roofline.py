"""The shortest time that a step can take on a TPU, from what its compiled functions cost: the roofline.

time >= max(FLOPs / peak, bytes moved / memory bandwidth, bytes sent / bandwidth of the links in one direction)
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from alignjax.cli.compiled_costs import Costs
from alignjax.parallel.tpu_topologies import Topology


def bounds(costs: Costs, topology: Topology) -> dict[str, float]:
    """Computes how long each part of a device would be busy at its peak.

    Args:
        costs: What a function costs a device.
        topology: The slice, whose links are taken as those within it even where several slices are joined.

    Returns:
        Seconds by part: "products" at the bfloat16 peak, "memory" and "interconnect". The largest is the bound.
    """
    kind = topology.generation
    each = kind.devices  # a chip's peaks are shared by its devices
    return {
        "products": costs.flops * each / (kind.tflops * 1e12),
        "memory": costs.bytes_moved * each / (kind.memory_gb_s * 1e9),
        "interconnect": costs.bytes_sent * each / (kind.links_gb_s / 2 * 1e9),
    }


def roofline(costs: Mapping[str, Costs], topology: Topology) -> Table:
    """Makes the table of what each function costs a device, and of the bound that follows.

    Args:
        costs: Costs by the name of a function.
        topology: The slice.
    """
    table = Table("roofline", title_justify="left")
    for head in ("TFLOPs", "GB moved", "GB over the interconnect", "at least (ms)", "of products alone"):
        table.add_column(head, justify="right")
    table.add_column("bound by")
    for name, cost in costs.items():
        seconds = bounds(cost, topology)
        limit = max(seconds, key=seconds.__getitem__)
        share = seconds["products"] / seconds[limit] if seconds[limit] else 0.0
        numbers = cost.flops / 1e12, cost.bytes_moved / 1e9, cost.bytes_sent / 1e9, 1e3 * seconds[limit]
        table.add_row(name, *(f"{number:.4g}" for number in numbers), f"{share:.0%}", limit)
    return table
