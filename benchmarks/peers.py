"""Ours against TRL, transformers and Tunix: `python -m benchmarks.peers [--size medium] [--json] [--save]`.

Each side is a process that waits while another works; rounds go ours, theirs, ours, theirs, so that a slow minute of
the machine hits every side. What exactly is timed: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import os
import statistics
import sys
import time
from typing import Any

from benchmarks import results
from benchmarks.sizes import SIZES, Sizes
from benchmarks.worker import Missing, Side


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: a work of our side against the same work of a peer."""

    name: str
    work: str
    peer: str
    least: float | None = None  # the ratio to reach, and the one aimed for, at size small
    aim: float | None = None


ROWS = (
    Row("dpo_update", "dpo_update", "torch_peer", 1.8, 2.5),
    Row("dpo_update_precomputed", "dpo_update_precomputed", "torch_peer"),
    Row("ipo_update", "ipo_update", "torch_peer"),
    Row("reward_step", "reward_step", "torch_peer"),
    Row("sampling", "sampling", "torch_peer", 2.3, 4.0),
    Row("online_step", "online_step", "torch_peer", 1.5, 2.5),
    Row("grpo_step", "grpo_step", "torch_peer"),
    Row("dpo_update_tunix", "dpo_update", "tunix_peer", 1.3, 2.0),
    Row("sampling_tunix", "sampling", "tunix_peer", 1.3, 2.0),
)
# glibc gives large blocks back to the system at every free; faulting them in again, 4 KiB at a time, costs up to a
# third of a step.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
# What a loss starts at where policy and reference are equal, and of IPO with beta = tau = 0.1.
FIRST_LOSS = {"dpo_update": math.log(2), "dpo_update_precomputed": math.log(2), "ipo_update": 25.0}
FIRST_LOSS |= {"online_step": math.log(2)}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=[*SIZES], default="small", help="the problem, see benchmarks/sizes.py")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="where all sides run")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: float32, on a GPU bfloat16")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--save", action="store_true", help="keep it in benchmarks/results and rewrite RESULTS.md")
    parser.add_argument("--repeats", type=int, default=10, help="timed rounds at most (default 10)")
    parser.add_argument("--warmup", type=int, help="rounds before them that are not counted (default 2, medium 1)")
    parser.add_argument("--only", help=f"comma-separated rows of: {', '.join(row.name for row in ROWS)}")
    parser.add_argument("--torch-python", default=os.environ.get("ALIGNJAX_TORCH_PYTHON", sys.executable))
    parser.add_argument("--tunix-python", default=os.environ.get("ALIGNJAX_TUNIX_PYTHON"))
    parser.add_argument("--alone", action="store_true", help="our side only")
    parser.add_argument(
        "--huge-pages", action="store_true", help="start every side with an allocator that asks for huge pages (Linux)"
    )
    options = parser.parse_args(argv)
    names = [row.name for row in ROWS]
    if options.only and (unknown := set(options.only.split(",")) - set(names)):
        parser.error(f"--only: no row {sorted(unknown)}; there are {', '.join(names)}")
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    if options.save and options.only:
        parser.error("--save keeps whole tables; it does not go with --only")
    if options.warmup is None:
        options.warmup = 1 if options.size == "medium" else 2
    options.dtype = options.dtype or ("float32" if options.device == "cpu" else "bfloat16")
    return options


def say(text: str) -> None:
    print(f"[{datetime.datetime.now():%H:%M:%S}] {text}", file=sys.stderr, flush=True)


def start(options: argparse.Namespace, names: list[str]) -> tuple[dict[str, Side], dict[str, Any]]:
    """The sides that could be started, and the versions of what they imported; a line for each that could not."""
    pythons = {"ours": sys.executable, "torch_peer": options.torch_python, "tunix_peer": options.tunix_python}
    platform, memory = {"cpu": "cpu", "gpu": "cuda"}[options.device], HUGE_PAGES if options.huge_pages else {}
    sides: dict[str, Side] = {}
    for name in names:  # all at once: what they do first is to import
        if pythons[name] is None:
            say(f"{name}: not measured; give --tunix-python or ALIGNJAX_TUNIX_PYTHON (see benchmarks/README.md)")
            continue
        try:
            sides[name] = Side(name, pythons[name], platform, **memory)
        except OSError as error:
            say(f"{name}: not measured; {error}")
    versions: dict[str, Any] = {}
    for name, side in [*sides.items()]:
        try:
            versions[name] = side.ready()
            say(f"{name}: {', '.join(f'{package} {version}' for package, version in versions[name].items())}")
        except Missing as error:
            say(f"{name}: not measured; {error}")
            del sides[name]
    if "ours" not in sides:
        raise SystemExit("our side does not start: pip install -e . first")
    return sides, versions


def wrong(sizes: Sizes, work: str, answer: dict[str, Any], first: bool = False) -> str | None:
    """Why an answer is not the work that was asked for: rows that are not full length, or a loss that does not start
    where it must if policy and reference are equal."""
    if "failed" in answer:
        return answer["failed"]
    if (tokens := answer.get("tokens", sizes.tokens(work))) != sizes.tokens(work):
        return f"it made {tokens} tokens, not {sizes.tokens(work)}"
    expected = FIRST_LOSS.get(work) if first else None
    if expected is not None and abs(answer["loss"] / expected - 1) > (1e-3 if sizes.dtype == "float32" else 3e-2):
        return f"it starts at a loss of {answer['loss']}, not {expected:.4f}"
    return None


def rounds(options: argparse.Namespace, sizes: Sizes, work: str, sides: dict[str, Side]) -> dict[str, Any]:
    """A work on all its sides, round by round -> by side {"samples", "first", ...} or {"failed": why}.

    Rounds end after `repeats` or, with three of them timed, when the row has had its seconds."""
    found: dict[str, Any] = {}
    for name, side in sides.items():
        answer = side.prepare(work, dataclasses.asdict(sizes))
        why = wrong(sizes, work, answer.get("first", answer), first=True)
        found[name] = {"failed": why} if why else {**answer, "samples": []}
    begin = time.monotonic()
    for number in range(options.warmup + options.repeats):
        timed = number - options.warmup
        live = [name for name in sides if "failed" not in found[name]]
        if not live or (timed >= 3 and time.monotonic() - begin > sizes.row_seconds):
            break
        for name in live:
            for call in range(2):  # while a side waited, its freed pages went back to the system and must be found anew
                answer = sides[name].time(work)
                if why := wrong(sizes, work, answer):
                    found[name] = {"failed": why}
                    break
                if call and timed >= 0:
                    found[name]["samples"].append(answer["seconds"])
    for name, facts in found.items():
        if "failed" not in facts:
            found[name] = {**facts, **sides[name].finish(work)}
            found[name]["seconds"] = statistics.median(facts["samples"])
        said = found[name].get("failed")
        say(f"  {work}, {name}: " + (f"failed: {said}" if said else f"{found[name]['seconds']:.4f} s"))
    return found


def peaks(side: Side, sizes: Sizes) -> dict[str, Any]:
    """What the machine can do, and its name; before anything else, so that a run without them ends early."""
    say("machine ...")
    answer = side.prepare("machine", dataclasses.asdict(sizes))
    if "failed" in answer:
        raise SystemExit(f"the machine's peaks could not be measured: {answer['failed']}")
    side.finish("machine")
    return answer["first"]


def measure(options: argparse.Namespace, rows: list[Row]) -> dict[str, Any]:
    """Everything that is known of a run of the table; see `results.figures` for what is made of it."""
    sizes = dataclasses.replace(SIZES[options.size], dtype=options.dtype)
    wanted = ["ours"] if options.alone else ["ours", *dict.fromkeys(row.peer for row in rows)]
    sides, versions = start(options, wanted)
    machine = peaks(sides["ours"], sizes)
    works: dict[str, Any] = {}
    for work in dict.fromkeys(row.work for row in rows):  # one work at a time
        say(f"{work} ...")
        peers = [row.peer for row in rows if row.work == work]
        works[work] = rounds(options, sizes, work, {name: sides[name] for name in ("ours", *peers) if name in sides})
    for side in sides.values():
        side.close()
    return {
        "kind": "peers",
        "size": options.size,
        "sizes": {**dataclasses.asdict(sizes), "parameters": sizes.parameters},
        "device": machine.pop("device"),
        "huge_pages": options.huge_pages,
        "date": f"{datetime.date.today()}",
        "versions": versions,
        "machine": machine,
        "works": works,
    }


def table(rows: list[Row], facts: dict[str, Any]) -> dict[str, float]:
    """Print the table; return the ratios theirs / ours."""
    ratios: dict[str, float] = {}
    print(f"\n{'row':<24}{'ours s':>10}{'theirs s':>10}{'ratio':>8}{'reach':>7}{'aim':>6}")
    for row in rows:
        work = facts["works"][row.work]
        ours, theirs = work["ours"].get("seconds"), work.get(row.peer, {}).get("seconds")
        if ours and theirs:
            ratios[row.name] = theirs / ours
        failed = [
            f"{name} failed: {work[name]['failed']}" for name in ("ours", row.peer) if "failed" in work.get(name, {})
        ]
        numbers = [f"{value:.4f}" if value else "-" for value in (ours, theirs)]
        ratio = f"{ratios[row.name]:.2f}" if row.name in ratios else "-"
        goals = (row.least, row.aim) if facts["size"] == "small" else (None, None)
        print(
            f"{row.name:<24}{numbers[0]:>10}{numbers[1]:>10}{ratio:>8}{goals[0] or '-':>7}{goals[1] or '-':>6}"
            + "".join(f"  {line}" for line in failed)
        )
    return ratios


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    rows = [row for row in ROWS if not options.only or row.name in options.only.split(",")]
    begin = time.monotonic()
    facts = measure(options, rows)
    facts["ratios"] = table(rows, facts)
    facts["figures"] = results.figures(facts)
    facts["medians"] = {}
    for work, sides in facts["works"].items():
        for side, found in sides.items():
            if "seconds" in found:
                facts["medians"].setdefault(side, {})[work] = found["seconds"]
    print(f"\n{facts['device']}: " + ", ".join(f"{name} {value:.1f}" for name, value in facts["machine"].items()))
    print("\n".join(results.figures_table(facts)))
    say(f"done in {time.monotonic() - begin:.0f} s")
    if options.save:
        flags = [f"--{name} {getattr(options, name)}" for name in ("size", "device", "dtype")]
        flags += ["--huge-pages"] * options.huge_pages
        say(f"wrote {results.save({**facts, 'command': ' '.join(['python -m benchmarks.peers', *flags, '--save'])})}")
    if options.json:
        print(json.dumps(facts))


if __name__ == "__main__":
    main()
