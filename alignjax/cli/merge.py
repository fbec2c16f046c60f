"""`alignjax merge`: models of one architecture as one, as a YAML file says."""

from __future__ import annotations

from pathlib import Path

import jax
from rich.text import Text

from alignjax import outside
from alignjax.cli.merge_flags import Merge
from alignjax.models.huggingface.folders import tensors_of
from alignjax.outside import visible
from alignjax.weights.merge_config import depth, read_merge_config
from alignjax.weights.merge_folders import merge_folders

CONFIG = "merge.yml"


def merge(flags: Merge) -> int:
    """Merges folders of published weights into a new one, and returns the exit status.

    Args:
        flags: The flags of `alignjax merge`.

    Raises:
        ConfigError: Before anything is written: what the config, the folders or the place to write to are not.
    """
    config = read_merge_config(flags.config)
    names = tensors_of(config.base or config.models[0])
    layers = depth(names)
    values = {name: config.values(name, layers) for name in names}  # all are checked before the first is used

    def beside(folder: Path) -> None:
        (folder / CONFIG).write_text(config.text, encoding="utf-8")  # the file may be a pipe, which is read once

    with outside.console(stderr=True, soft_wrap=True).status("reading") as status:
        merge_folders(
            config.merge, config.models, flags.to, base=config.base,
            key=jax.random.key(flags.seed) if config.merge.random else None, values=values.__getitem__,
            dtype=config.dtype, beside=beside,
            report_progress=lambda name, number, of: status.update(
                Text(visible(f"merging {name} ({number + 1} of {of})"))
            ),
        )  # fmt: skip
    said = f"{flags.to}: {config.name} of {len(config.models)} models. Use it as any folder of published weights"
    print(visible(said))
    return 0
