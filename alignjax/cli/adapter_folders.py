"""LoRA folders of `peft` on the command line: `alignjax import ADAPTERS --base WEIGHTS` adds them to the weights they
were trained on, `alignjax export RUN --adapters` writes those of a role."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignjax.cli.config_file import reload, run_folder
from alignjax.cli.open_model import policy_of_run, record_of_import
from alignjax.config import ConfigError
from alignjax.content_hashes import content_hash
from alignjax.models import huggingface, lora, peft, transformer
from alignjax.models.huggingface.folders import opened
from alignjax.outside import user_path
from alignjax.roles import unwrapped
from alignjax.train.adapter_jobs import save_adapters
from alignjax.types import Model, Params
from alignjax.workspace import DOWNLOAD_AGAIN, read_json


def is_adapters(folder: Path) -> bool:
    """Tells whether a folder holds adapters that `peft` wrote."""
    return (folder / peft.CONFIG).is_file()


def base_of(adapters: Path, base: Path | None) -> Path:
    """Returns the weights that adapters are to be added to. Raises ConfigError if nobody named them."""
    if base is None:
        said = (read_json(adapters / peft.CONFIG, DOWNLOAD_AGAIN) or {}).get("base_model_name_or_path")
        hint = f" ({peft.CONFIG} calls them {said!r})" if said else ""
        raise ConfigError(
            f"{adapters} holds adapters; name the weights that they were trained on{hint} with --base FOLDER"
        )
    if record_of_import(path := user_path(base)) is not None:
        raise ConfigError(
            f"--base {base} is what `alignjax import` wrote; name the folder or file that it was made from"
        )
    return path


def model_with_head(adapters: Path, base: Path, dtype: str) -> Model:
    """Makes the model that adapters are for: that of the base, with a classifier's head if the adapters bring one.

    Args:
        adapters: What `peft` wrote.
        base: Published weights.
        dtype: Of the params.

    Raises:
        ConfigError: The base is not read, or the head is not of the base's width.
    """
    name, config = f"{peft.PREFIX}score.weight", huggingface.config_of(base, param_dtype=dtype)
    with opened(peft.weights_file(adapters)) as file:
        labels = file.get_slice(name).get_shape()[0] if name in file.keys() else 0  # noqa: SIM118
    if not labels or {"reward", "classes"} & {*config.outputs}:
        return transformer(config)
    head: dict[str, Any] = {"outputs": ("reward",)} if labels == 1 else {"outputs": ("classes",), "classes": labels}
    return transformer(huggingface.config_of(base, param_dtype=dtype, head_bias=False, **head))


def added(params: Params, loaded: peft.Loaded) -> Params:
    """Adds adapters to params; what they bring whole takes its place.

    Args:
        params: The params of the base.
        loaded: The adapters.

    Returns:
        Plain params.
    """
    heads = {**loaded.adapters.get("heads", {}), **params["heads"]}
    adapted = lora.adapt(
        {**params, "heads": heads}, loaded.adapters, alpha=loaded.alpha, rank_stabilised=loaded.rank_stabilised
    )
    return lora.merged(adapted)


def hash_of(adapters: Path) -> str:
    """Returns a hash of the contents of a folder of adapters."""
    return content_hash(peft.weights_file(adapters))[:16]


def export_adapters(source: str, to: Path, role: str) -> list[str]:
    """Writes the adapters of a role of a run as a folder that `peft` loads.

    Args:
        source: RUN_DIR or RUN_DIR/STEP.
        to: The new folder.
        role: The role.

    Returns:
        The names of what has no place there.

    Raises:
        ConfigError: The role holds no adapters.
        CheckpointError: Nothing was trained.
    """
    root, step = run_folder(source)
    experiment, workspace = policy_of_run(root, reload(root).config, step, role)
    algorithm = experiment.algorithm
    build = algorithm.roles[role].build
    base = algorithm.roles.get(build.kwargs.get("base", "")) if build is not None else None
    start = None if base is None else unwrapped(base.start)
    name = start.folder if isinstance(start, huggingface.Pretrained) else ""
    return save_adapters(workspace.folder, algorithm, role, to, name)
