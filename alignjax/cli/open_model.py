"""WHERE of the commands that ask a model: a run, an imported checkpoint, a published folder or a GGUF file, told by
what it holds, becomes a model that can be asked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignjax.cli.config_file import COMMAND_FILE, reload, run_folder
from alignjax.cli.plain_attention import runnable_here
from alignjax.config import ConfigError, Experiment, Pipeline, nearest
from alignjax.data import Dataset, tokenizer_of
from alignjax.data.sources.asked import frame_of
from alignjax.gguf_files import is_gguf, origin, read_header
from alignjax.models import RopeScaling, TransformerConfig, huggingface, parameter_count, transformer
from alignjax.models.huggingface.folders import CONFIG
from alignjax.outside import user_path
from alignjax.roles import unwrapped
from alignjax.serving.opened_model import OpenedModel, tokenizer_and_frame
from alignjax.train import checkpoint
from alignjax.train.run_record import FILE
from alignjax.train.state import restored_params
from alignjax.types import Model
from alignjax.workspace import Workspace, read_json

TOKENIZER = "tokenizer"  # the folder of an imported checkpoint that holds its tokenizer files
KINDS = (
    "a run folder of `alignjax train` (or RUN_DIR/STEP), what `alignjax import` wrote, a folder with config.json and "
    "safetensors, or a .gguf file"
)


def open_model(where: str, role: str = "policy", dtype: str | None = None) -> OpenedModel:
    """Opens what a person named: a role of a run, an imported checkpoint, a published folder or a GGUF file.

    Args:
        where: RUN_DIR, RUN_DIR/STEP, a folder or a file. What it is, is told by what it holds.
        role: The role of a run or of an imported checkpoint.
        dtype: What published weights are kept and computed in, "float32" if None; a run and an import have their own,
            and refuse one.

    Returns:
        The model.

    Raises:
        ConfigError: It is nothing that can be opened, has no such role or no tokenizer, or cannot be sampled from.
        CheckpointError: There is nothing trained yet.
    """
    # Told apart by files that only one of the kinds has. A step of a run is a folder inside of one.
    path = user_path(where)
    if dtype is not None and has_own_dtype(where):
        raise ConfigError(
            f"--dtype {dtype}: {where} has weights of its own dtype, which its config says; leave --dtype out, or open "
            "what `alignjax export` makes of it"
        )
    if _is_run(path) or _is_run(path.parent):
        opened = _of_run(where, role)
    elif not path.exists():
        run_folder(where)  # says what is near
        raise ConfigError(f"there is no {path}; name {KINDS}")
    elif path.is_file():
        if not is_gguf(path):
            raise ConfigError(f"{path} is no GGUF file and cannot be opened: name {KINDS}")
        opened = _of_published(path, role, dtype)
    elif not (path / CONFIG).is_file():
        adapters = " It holds adapters: name the run or the folder that they were added to." * _is_peft(path)
        raise ConfigError(f"{path} cannot be opened: name {KINDS}.{adapters}")
    elif (record := record_of_import(path)) is not None:
        opened = _of_import(path, record, role)
    else:
        opened = _of_published(path, role, dtype)
    _check_model(opened, where, role)
    return opened


def has_own_dtype(where: str) -> bool:
    """Says whether the weights at a place are those of a run or an import, whose config says their dtype."""
    path = user_path(where)
    imported = (path / CONFIG).is_file() and record_of_import(path) is not None
    return imported or _is_run(path) or _is_run(path.parent)


def _is_run(folder: Path) -> bool:
    return (folder / COMMAND_FILE).is_file()


def _is_peft(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def _check_model(opened: OpenedModel, where: str, role: str) -> None:
    """Raises ConfigError for a model that cannot be sampled from, or whose tokenizer is another model's."""
    model, config = opened.model, opened.model.config
    if model.extend is None or "lm" not in model.heads:
        raise ConfigError(f"role {role!r} of {where} has no model that can be sampled from")
    if isinstance(config, TransformerConfig) and (last := max(opened.stops)) >= config.vocab:
        raise ConfigError(
            f"{where}: a token that ends a text is number {last}, and the model has {config.vocab} tokens: this is the "
            "tokenizer of another model"
        )


def _of_run(where: str, role: str) -> OpenedModel:
    root, step = run_folder(where)
    experiment, workspace = policy_of_run(root, reload(root).config, step, role)
    experiment, plain = runnable_here(experiment)
    if role in plain:
        print(f"plain attention: this machine has no kernel for the {role}'s", file=sys.stderr)
    model = experiment.algorithm.roles[role].model
    if model is None:
        raise ConfigError(f"role {role!r} has no model that can be sampled from")
    dataset = dataset_of(experiment)
    params = restored_params(workspace.folder, experiment.algorithm, role)
    number = checkpoint.steps(workspace.folder)[-1]
    line = f"{role} of {workspace.folder}, step {number:,}"
    start = unwrapped(experiment.algorithm.roles[role].start)
    published = isinstance(start, huggingface.Pretrained) and user_path(start.folder).exists()
    longest = huggingface.positions_of(start.folder) if published else None
    tokenizer, frame = tokenizer_of(dataset, workspace), frame_of(dataset, workspace)
    return OpenedModel(workspace.folder.resolve().name, line, model, params, tokenizer, frame, longest)


def _of_import(folder: Path, record: dict[str, Any], role: str) -> OpenedModel:
    model = transformer(config_of_import(folder, record, role))
    _check_not_classifier(folder, model)
    tokenizer, frame = tokenizer_and_frame(folder / TOKENIZER)
    params = {"heads": {}, **checkpoint.restore_role(folder, role)}
    imported = record["config"]["imported"]
    told = f" ({imported['numbers']})" if imported.get("numbers") else ""
    line = f"{role} imported into {folder} from {imported['folder']}{told}, {_size(model)}"
    longest = imported["beside"].get("max_position_embeddings")
    return OpenedModel(folder.resolve().name, line, model, params, tokenizer, frame, longest)


def config_of_import(folder: Path, record: dict[str, Any], role: str) -> TransformerConfig:
    """Returns the architecture of a role that `alignjax import` wrote. Raises ConfigError if it has no such role."""
    roles = record["config"]["algorithm"]["roles"]
    if role not in roles:
        raise ConfigError(f"{folder} has no role {role!r}.{nearest(role, roles)}")
    return config_from(roles[role]["model"]["model"])


def _of_published(source: Path, role: str, dtype: str | None) -> OpenedModel:
    """Opens published weights, of a folder or a GGUF file."""
    if role != "policy":
        raise ConfigError(f"{source} holds published weights and has no roles; leave out --role {role}")
    dtype = dtype or "float32"
    model = transformer(huggingface.config_of(source, dtype=dtype, param_dtype=dtype))
    _check_not_classifier(source, model)
    tokenizer, frame = tokenizer_and_frame(source)
    architecture = huggingface.config_in(source)[0]["architectures"][0]
    told = f" ({origin(read_header(source))})" if is_gguf(source) else ""
    params = huggingface.load(source, model)
    line = f"{architecture} in {source}{told}, {_size(model)} in {dtype}"
    longest = huggingface.positions_of(source)
    return OpenedModel(source.resolve().name.removesuffix(".gguf"), line, model, params, tokenizer, frame, longest)


def _size(model: Model) -> str:
    return f"{parameter_count(model):,} parameters"


def _check_not_classifier(folder: Path, model: Model) -> None:
    if model.config.outputs:
        raise ConfigError(
            f"{folder} holds a sequence classifier, which says numbers and no words; name a language model"
        )


# ---------------------------------------------------------------------------------------- runs and imported checkpoints


def experiments_in(config: Experiment | Pipeline) -> dict[Any, Experiment]:
    """Returns the experiments of a config by the names of their steps; one that is no pipeline's has none."""
    steps: Mapping[Any, Any] = config.steps if isinstance(config, Pipeline) else {None: config}
    return {name: step for name, step in steps.items() if isinstance(step, Experiment)}


def policy_of_run(
    root: Path, config: Experiment | Pipeline, step: str | None, role: str
) -> tuple[Experiment, Workspace]:
    """Finds the experiment whose checkpoint has a role; of a pipeline the last step that has one with the role.

    Args:
        root: The run folder.
        config: Its config.
        step: The step of a pipeline; None: the last one with the role.
        role: The role.

    Returns:
        The experiment and its folder.

    Raises:
        ConfigError: For a step or a role that does not exist, or if no step has a checkpoint with the role.
    """
    # The last step with a checkpoint is taken, not the last of the config: a pipeline that still runs, or was stopped,
    # is sampled from as far as it came.
    steps = experiments_in(config)
    if step is None and isinstance(config, Pipeline):
        done = [name for name, each in steps.items() if role in each.algorithm.roles and checkpoint.steps(root / name)]
        if not done:
            raise ConfigError(f"no step of {root} has a checkpoint with a role {role!r}; steps: {', '.join(steps)}")
        step = done[-1]
    if step not in steps:
        one = " It is one experiment; name the run folder itself."
        hint = nearest(str(step), steps) if isinstance(config, Pipeline) else one
        raise ConfigError(f"{root} trains no step {step!r}.{hint}")
    experiment = steps[step]
    if role not in experiment.algorithm.roles:
        raise ConfigError(
            f"{Workspace(root, step).folder} has no role {role!r}.{nearest(role, experiment.algorithm.roles)}"
        )
    return experiment, Workspace(root, step)


def dataset_of(experiment: Experiment) -> Dataset:
    """Returns the dataset that an experiment's source reads, or raises ConfigError if it names none."""
    for value in experiment.source.kwargs.values():
        if isinstance(value, Dataset):
            return value
    raise ConfigError(f"the source {experiment.source.name} names no dataset, so there is no tokenizer to speak with")


def record_of_import(folder: Path) -> dict[str, Any] | None:
    """The record that `alignjax import` wrote into a folder; None for another folder."""
    record = read_json(folder / FILE)
    config = record.get("config") if isinstance(record, dict) else None
    return record if isinstance(config, dict) and "imported" in config else None


def _fields(record: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items() if key != "type"}


def config_from(record: dict[str, Any]) -> TransformerConfig:
    """Returns the configuration of a transformer out of its JSON in a record."""
    fields = _fields(record)
    if (scaling := fields.get("rope_scaling")) is not None:
        fields["rope_scaling"] = RopeScaling(**_fields(scaling))
    return TransformerConfig(**fields)
