"""What the measurements say: figures of each row and side, and RESULTS.md, written from the files in results/.

python -m benchmarks.results      # writes RESULTS.md again, measures nothing
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.sizes import Sizes

HERE = Path(__file__).resolve().parent
NAMES = {"ours": "alignjax", "torch_peer": "TRL / transformers", "tunix_peer": "Tunix"}
HEAD = """# Results

Written by `python -m benchmarks.results` from the files in [results/](results/); what is measured, and how, stands in
[README.md](README.md). Ratios are theirs / ours: above 1, ours is faster.
"""


def figures(facts: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """By work and side: seconds (median), least and most, tokens_per_s, compile_s, peak_gb, and shares of what the
    machine can do; or {"failed": why}. Of a mixed work, which samples and learns, the share of the matmul peak is that
    of all its FLOPs in all its time."""
    sizes = Sizes(**{name: value for name, value in facts["sizes"].items() if name != "parameters"})
    machine = facts["machine"]

    def one(work: str, side: str, found: dict[str, Any]) -> dict[str, Any]:
        if "failed" in found:
            return {"failed": found["failed"]}
        seconds = found["seconds"]
        memory = found.get("device_bytes") or found.get("rss_bytes")
        made = {
            "seconds": seconds,
            "least": min(found["samples"]),
            "most": max(found["samples"]),
            "rounds": len(found["samples"]),
            "tokens_per_s": sizes.tokens(work) / seconds,
            "compile_s": found["compile_seconds"].get("total"),
            "peak_gb": memory and memory / 1e9,
            # Only we run a prompt once for all its completions; what a side runs twice counts as its work.
            "of_matmul_peak": sizes.flops(work, side == "ours") / seconds / 1e9 / machine["matmul_gflops"],
        }
        if work == "sampling":  # the prefill is part of the time and not of the bytes, so this is a lower bound
            rate = sizes.decode_bytes() * sizes.completion / seconds / 1e9
            made |= {"decode_gb_per_s": rate, "of_memory_bandwidth": rate / machine["memory_gb_per_s"]}
        return made

    return {
        work: {side: one(work, side, found) for side, found in sides.items()} for work, sides in facts["works"].items()
    }


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def figures_table(facts: dict[str, Any]) -> list[str]:
    """The Markdown table of a run of `benchmarks.peers`."""
    columns = ["work", "side", "seconds (least - most)", "ratio", "tokens/s", "compile s", "peak GB"]
    columns += ["of matmul peak", "of memory bandwidth"]
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for work, sides in figures(facts).items():
        ours = sides["ours"].get("seconds")
        for side, found in sides.items():
            if "failed" in found:
                lines.append(f"| `{work}` | {NAMES[side]} | failed: {found['failed'].replace('|', '/')} |" + " |" * 6)
                continue
            ratio = None if side == "ours" or not ours else found["seconds"] / ours
            cells = [
                f"{found['seconds']:.4g} ({found['least']:.4g} - {found['most']:.4g})",
                _shown(ratio, ".2f"),
                _shown(found["tokens_per_s"], ".0f"),
                _shown(found["compile_s"], ".1f"),
                _shown(found["peak_gb"], ".2f"),
                _shown(found["of_matmul_peak"], ".0%"),
                _shown(found.get("of_memory_bandwidth"), ".0%"),
            ]
            lines.append(f"| `{work}` | {NAMES[side]} | {' | '.join(cells)} |")
    return lines


def _peers(facts: dict[str, Any]) -> list[str]:
    sizes, machine = facts["sizes"], facts["machine"]
    versions = {
        f"{name} {number}": None for packages in facts["versions"].values() for name, number in packages.items()
    }
    problem = (
        f"{sizes['parameters'] / 1e6:.1f} M parameters: width {sizes['width']}, {sizes['layers']} layers, "
        f"{sizes['heads']} heads, mlp {sizes['mlp']}, vocabulary {sizes['vocabulary']}; prompts of {sizes['prompt']} "
        f"tokens, completions of {sizes['completion']}; {sizes['pairs']} pairs an update, {sizes['rows']} rows "
        f"sampled, {sizes['online']} x 2 in an online step, {sizes['groups']} x {sizes['samples']} in a GRPO step."
    )
    peaks = (
        f"Matmul peak {machine['matmul_gflops']:.0f} GFLOP/s, memory {machine['memory_gb_per_s']:.1f} GB/s "
        f"(8 MiB: {machine['cached_gb_per_s']:.1f})."
    )
    first = f"{facts['date']}, `{facts['command']}`. {problem} {peaks} {', '.join(versions)}."
    return [first, "", *figures_table(facts)]


def scaling_table(facts: dict[str, Any]) -> list[str]:
    """The Markdown table of a run of `benchmarks.scaling`."""
    lines = ["| work | grows | seconds by size | exponent |", "| --- | --- | --- | --- |"]
    for sweep in facts["sweeps"]:
        points = [f"{size}: {seconds:.4g}" for size, seconds in sweep["points"]]
        points += [f"{size}: failed: {why.replace('|', '/')}" for size, why in sweep["failed"]]
        exponent = _shown(sweep["exponent"], ".2f")
        lines.append(f"| `{sweep['work']}` | {sweep['grows']} | {', '.join(points)} | {exponent} |")
    return lines


def _scaling(facts: dict[str, Any]) -> list[str]:
    first = (
        f"{facts['date']}, `{facts['command']}`. The problem of size {facts['size']} with one thing varied; the "
        "exponent is the slope of log seconds over log size, so 1 is linear."
    )
    last = "Simulated devices share the same cores: what they show is what dividing the work costs, not a speed-up."
    return [first, "", *scaling_table(facts), "", last]


def _place(facts: dict[str, Any]) -> tuple[Any, ...]:
    return facts["device"], facts["kind"], facts["sizes"]["parameters"], facts["huge_pages"]


def markdown(runs: list[dict[str, Any]]) -> str:
    """RESULTS.md: a section for each run, by device and size."""
    lines = [HEAD]
    for facts in sorted(runs, key=_place):
        table = f"{facts['size']}, {facts['sizes']['dtype']}" + ", huge pages" * facts["huge_pages"]
        title = {"peers": table, "scaling": "how our side grows"}[facts["kind"]]
        body = {"peers": _peers, "scaling": _scaling}[facts["kind"]](facts)
        lines += [f"## {facts['device']}: {title}", "", *body, ""]
    return "\n".join(lines)


def save(facts: dict[str, Any], folder: Path = HERE) -> Path:
    """Keeps a run in `folder`/results, in the place of one of the same device, size and pages; writes RESULTS.md."""
    words = [facts["device"], facts["kind"], facts["size"], facts["sizes"]["dtype"]]
    words += ["huge-pages"] * facts["huge_pages"]
    path = folder / "results" / (re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()) + ".json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(facts, indent=1) + "\n")
    write(folder)
    return path


def write(folder: Path = HERE) -> None:
    runs = [json.loads(path.read_text()) for path in sorted((folder / "results").glob("*.json"))]
    (folder / "RESULTS.md").write_text(markdown(runs))


if __name__ == "__main__":
    write()
