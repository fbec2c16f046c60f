"""Folders of weights that are generated row by row, and a program that merges some and prints what memory it took."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from alignjax.weights import ties
from alignjax.weights.merge_folders import merge_folders


def write_folder(folder: Path, shapes: dict[str, tuple[int, int]], seed: int, files: int = 1) -> Path:
    """Writes a folder in bfloat16, `files` files of as many tensors, a few rows at a time."""
    folder.mkdir(parents=True)
    names = list(shapes)
    groups = [names[number::files] for number in range(files)]
    where = {}
    rng = np.random.default_rng(seed)
    for number, group in enumerate(groups):
        file = "model.safetensors" if files == 1 else f"model-{number + 1:05}-of-{files:05}.safetensors"
        entries, end = {}, 0
        for name in group:
            size = 2 * int(np.prod(shapes[name]))
            entries[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [end, end := end + size]}
            where[name] = file
        header = json.dumps(entries).encode()
        with (folder / file).open("wb") as out:
            out.write(len(header).to_bytes(8, "little") + header)
            for name in group:
                rows, columns = shapes[name]
                for start in range(0, rows, 4096):
                    numbers = rng.standard_normal((min(4096, rows - start), columns), np.float32)
                    out.write((numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    if files > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / "config.json").write_text("{}")
    return folder


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


if __name__ == "__main__":
    # A merge of tiny folders first, so that what is counted is no compiler and no import.
    base, *models, to = map(Path, sys.argv[1:])
    tiny = [write_folder(to.with_name(f"tiny-{number}"), {"w": (8, 8)}, number) for number in range(3)]
    merge_folders(ties, tiny[1:], to.with_name("tiny"), base=tiny[0], values=lambda name: {"weights": (0.3, 0.9)})
    before = _peak()
    merge_folders(ties, models, to, base=base, values=lambda name: {"weights": (0.3, 0.9)}, block_bytes=2**22)
    print(json.dumps({"before": before, "peak": _peak()}))
