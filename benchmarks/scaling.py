"""How our side grows with batch, length, samples and simulated devices: `python -m benchmarks.scaling [--save]`.

Seconds of a call at a few sizes, and the slope of their logarithms: 1 is linear, below 1 is what is shared or fixed.
Simulated devices share the same cores, so that they cannot be faster: what they show is what dividing the work costs.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import math
import statistics
import sys
import time
from typing import Any

from benchmarks import results
from benchmarks.peers import peaks, say
from benchmarks.sizes import SIZES, Sizes
from benchmarks.worker import Side


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A work at several sizes: `fields` of the problem are set to each of `points`; without fields, the devices are."""

    work: str
    grows: str
    fields: tuple[str, ...]
    points: tuple[int, ...]


SWEEPS = (
    Sweep("dpo_update", "pairs", ("pairs",), (2, 4, 8)),
    Sweep("dpo_update", "tokens of prompt and of completion", ("prompt", "completion"), (32, 64, 128)),
    Sweep("sampling", "rows", ("rows",), (4, 16, 64)),
    Sweep("sampling", "new tokens", ("completion",), (32, 64, 128)),
    Sweep("grpo_step", "samples a prompt", ("samples",), (2, 4, 8)),
    Sweep("dpo_update", "simulated devices", (), (1, 2, 4, 8)),
)


def slope(points: list[tuple[int, float]]) -> float | None:
    """Least squares of log seconds over log size; None with fewer than two sizes."""
    if len(points) < 2:
        return None
    x, y = ([math.log(point[axis]) for point in points] for axis in (0, 1))
    return statistics.linear_regression(x, y).slope


def timed(side: Side, work: str, sizes: Sizes, repeats: int) -> tuple[float | None, str]:
    """The best of a few calls, since a slope is of what the program costs; or None and why it failed."""
    answer = side.prepare(work, dataclasses.asdict(sizes))
    if "failed" in answer:
        return None, answer["failed"]
    times = []
    for _ in range(repeats):
        answer = side.time(work)
        if "failed" in answer:
            return None, answer["failed"]
        times.append(answer["seconds"])
    side.finish(work)
    return min(times), ""


def measured(sweep: Sweep, side: Side, base: Sizes, repeats: int) -> dict[str, Any]:
    """{"work", "grows", "points": [(size, seconds)], "failed": [(size, why)], "exponent"}."""
    points, failed = [], []
    for size in sweep.points:
        sizes, own = dataclasses.replace(base, **dict.fromkeys(sweep.fields, size)), side
        if not sweep.fields:
            own = Side("ours", sys.executable, XLA_FLAGS=f"--xla_force_host_platform_device_count={size}")
            own.ready()
        seconds, why = timed(own, sweep.work, sizes, repeats)
        if own is not side:
            own.close()
        say(f"  {sweep.work}, {size} {sweep.grows}: " + (f"failed: {why}" if seconds is None else f"{seconds:.4f} s"))
        if seconds is None:
            failed.append((size, why))
        else:
            points.append((size, seconds))
    return {**dataclasses.asdict(sweep), "points": points, "failed": failed, "exponent": slope(points)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=[*SIZES], default="small", help="what the sweeps start from (default small)")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of each point, of which the best counts")
    parser.add_argument("--save", action="store_true", help="keep it in benchmarks/results and rewrite RESULTS.md")
    options = parser.parse_args(argv)
    begin, base = time.monotonic(), SIZES[options.size]
    side = Side("ours", sys.executable)
    facts = {
        "kind": "scaling",
        "size": options.size,
        "sizes": {**dataclasses.asdict(base), "parameters": base.parameters},
        "date": f"{datetime.date.today()}",
        "huge_pages": False,
        "versions": {"ours": side.ready()},
        "command": f"python -m benchmarks.scaling --size {options.size} --save",
    }
    machine = peaks(side, base)
    facts |= {"device": machine.pop("device"), "machine": machine}
    facts["sweeps"] = [measured(sweep, side, base, options.repeats) for sweep in SWEEPS]
    side.close()
    print("\n".join(results.scaling_table(facts)))
    say(f"done in {time.monotonic() - begin:.0f} s")
    if options.save:
        say(f"wrote {results.save(facts)}")


if __name__ == "__main__":
    main()
