"""Ours against TRL, transformers and Tunix: `python -m benchmarks.peers [--json]`.

Each side is a process that waits while another works; rounds go ours, theirs, ours, theirs, so that a slow minute of
the machine hits every side. What exactly is timed: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
from typing import Any

from benchmarks.sizes import SIZES
from benchmarks.worker import Missing, Side


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: the work `ours` of our side against the work `theirs` of a peer."""

    name: str
    ours: str
    peer: str
    theirs: str
    least: float | None  # the ratio to reach, and the one aimed for
    aim: float | None


ROWS = (
    Row("dpo_update", "dpo_update", "torch_peer", "dpo_update", 1.8, 2.5),
    Row("dpo_update_precomputed", "dpo_update_precomputed", "torch_peer", "dpo_update_precomputed", None, None),
    Row("sampling", "sampling", "torch_peer", "sampling", 2.3, 4.0),
    Row("online_step", "online_step", "torch_peer", "online_step", 1.5, 2.5),
    Row("dpo_update_tunix", "dpo_update", "tunix_peer", "dpo_update", 1.3, 2.0),
    Row("sampling_tunix", "sampling", "tunix_peer", "sampling", 1.3, 2.0),
)
# glibc gives large blocks back to the system at every free, and faulting them in again costs a third of a step.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**26)}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--repeats", type=int, default=10, help="timed rounds (default 10)")
    parser.add_argument("--warmup", type=int, default=3, help="rounds before them that are not counted (default 3)")
    parser.add_argument("--only", help=f"comma-separated rows of: {', '.join(row.name for row in ROWS)}")
    parser.add_argument("--torch-python", default=os.environ.get("ALIGNJAX_TORCH_PYTHON", sys.executable))
    parser.add_argument("--tunix-python", default=os.environ.get("ALIGNJAX_TUNIX_PYTHON"))
    parser.add_argument(
        "--keep-memory", action="store_true", help="start every side with an allocator that keeps freed memory"
    )
    options = parser.parse_args(argv)
    names = [row.name for row in ROWS]
    if options.only and (unknown := set(options.only.split(",")) - set(names)):
        parser.error(f"--only: no row {sorted(unknown)}; there are {', '.join(names)}")
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    return options


def start(name: str, python: str | None) -> Side | None:
    """The side, or None with a line that says why it is not measured."""
    if python is None:
        print(f"{name}: not measured; give --tunix-python or ALIGNJAX_TUNIX_PYTHON (see benchmarks/README.md)")
        return None
    try:
        return Side(name, python)
    except (Missing, FileNotFoundError) as error:
        print(f"{name}: not measured; {error}")
        return None


def measure(options: argparse.Namespace, rows: list[Row]) -> dict[str, Any]:
    """Medians in seconds by side and work, with what each side said when it prepared them."""
    pythons = {"ours": sys.executable, "torch_peer": options.torch_python, "tunix_peer": options.tunix_python}
    wanted = ["ours", *dict.fromkeys(row.peer for row in rows)]
    sides = {name: side for name in wanted if (side := start(name, pythons[name])) is not None}
    if "ours" not in sides:
        raise SystemExit("alignjax cannot be imported: pip install -e . first")
    facts: dict[str, Any] = {"versions": {name: side.versions for name, side in sides.items()}, "prepared": {}}
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in sides}
    for work in dict.fromkeys(row.ours for row in rows):  # one work at a time: all its sides, round by round
        calls = {("ours", work)} | {(row.peer, row.theirs) for row in rows if row.ours == work and row.peer in sides}
        ordered = sorted(calls)
        for side, name in ordered:
            facts["prepared"][f"{side}.{name}"] = prepared = sides[side].prepare(name)
            check(side, name, prepared["first"], first=True)
        for number in range(options.warmup + options.repeats):
            for side, name in ordered:
                answer = sides[side].time(name)
                check(side, name, answer)
                if number >= options.warmup:
                    samples[side].setdefault(name, []).append(answer["seconds"])
        print(f"  {work}: done", file=sys.stderr)
    facts["machine"] = sides["ours"].prepare("machine")["first"]
    for side in sides.values():
        side.close()
    facts["samples"] = samples
    facts["medians"] = {
        side: {work: statistics.median(times) for work, times in by_work.items()} for side, by_work in samples.items()
    }
    return facts


def check(side: str, work: str, answer: dict[str, Any], first: bool = False) -> None:
    """Every side must do the same work: full-length rows, and a loss that starts at ln 2 where policy = reference."""
    if (tokens := answer.get("tokens", SIZES.rows * SIZES.completion)) != SIZES.rows * SIZES.completion:
        raise SystemExit(f"{side}.{work} made {tokens} tokens, not {SIZES.rows * SIZES.completion}")
    if first and "loss" in answer and abs(answer["loss"] - 0.693147) > 1e-3:
        raise SystemExit(f"{side}.{work} starts at a loss of {answer['loss']}, not ln 2")


def derived(facts: dict[str, Any]) -> dict[str, Any]:
    """Utilisation of the update and of decoding, from the analytic counts in sizes.py."""
    ours, machine = facts["medians"]["ours"], facts["machine"]
    found: dict[str, Any] = {}
    for work, reference in (("dpo_update", True), ("dpo_update_precomputed", False)):
        if work in ours:
            rate = SIZES.update_flops(shared=True, reference=reference) / ours[work] / 1e9
            found[f"{work}_gflops"] = rate
            found[f"{work}_mfu"] = rate / machine["matmul_gflops"]
    if "sampling" in ours:
        # The prefill is part of the time and not of the bytes, so this is a lower bound.
        rate = SIZES.decode_bytes() * SIZES.completion / ours["sampling"] / 1e9
        found["decode_gb_per_s"] = rate
        found["decode_of_memory_bandwidth"] = rate / machine["memory_gb_per_s"]
    found["tokens_per_s"] = {
        side: SIZES.rows * SIZES.completion / times["sampling"]
        for side, times in facts["medians"].items()
        if "sampling" in times
    }
    found["compile_seconds"] = {
        name.removeprefix("ours."): prepared["compile_seconds"]
        for name, prepared in facts["prepared"].items()
        if prepared["compile_seconds"]
    }
    return found


def table(rows: list[Row], facts: dict[str, Any]) -> dict[str, float]:
    """Print the table; return the ratios theirs / ours."""
    medians, ratios = facts["medians"], {}
    print(f"\n{'row':<24}{'ours s':>10}{'theirs s':>10}{'ratio':>8}{'reach':>7}{'aim':>6}")
    for row in rows:
        ours, theirs = medians["ours"][row.ours], medians.get(row.peer, {}).get(row.theirs)
        if theirs is None:
            print(f"{row.name:<24}{ours:>10.4f}{'-':>10}{'-':>8}{row.least or '-':>7}{row.aim or '-':>6}")
            continue
        ratios[row.name] = theirs / ours
        numbers = f"{row.name:<24}{ours:>10.4f}{theirs:>10.4f}{ratios[row.name]:>8.2f}"
        print(f"{numbers}{row.least or '-':>7}{row.aim or '-':>6}")
    return ratios


def shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{key} ({shown(inner)})" if isinstance(inner, dict) else f"{key} {inner:.4g}"
            for key, inner in value.items()
        )
    return f"{value:.3g}"


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    if options.keep_memory:
        os.environ.update(KEEP_MEMORY)
    rows = [row for row in ROWS if not options.only or row.name in options.only.split(",")]
    facts = measure(options, rows)
    facts["ratios"] = table(rows, facts)
    facts["derived"] = derived(facts)
    print("\nthis machine: " + ", ".join(f"{name} {value:.1f}" for name, value in facts["machine"].items()))
    for name, value in facts["derived"].items():
        print(f"{name}: {shown(value)}")
    if options.json:
        print(json.dumps(facts))


if __name__ == "__main__":
    main()
