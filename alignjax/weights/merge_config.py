"""The YAML files of mergekit, as far as they say what a merge of whole models is; anything else is refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import yaml

from alignjax import weights
from alignjax.config import ConfigError, check_known, fn
from alignjax.json_shapes import check_shape, shown
from alignjax.outside import Unreadable, read_text, reading, user_path
from alignjax.weights.leaves import check_sum

ADVICE = "write it as docs/weights.md says"
# A method is a merge with settings, and what its parameters are called there and here: those of a model, which have no
# default and may stand among those of all, and those of all.
WEIGHT, DENSITY, EPSILON = {"weight": "weights"}, {"density": "density"}, {"epsilon": "epsilon"}
SCALED = {"lambda": "scale", "normalize": "normalize"}
METHODS: Mapping[str, tuple[Any, dict[str, Any], dict[str, str], dict[str, str]]] = {
    "linear": (weights.linear, {}, WEIGHT, {"normalize": "normalize"}),
    "slerp": (weights.slerp, {}, {}, {"t": "t"}),
    "karcher": (weights.karcher, {}, {}, {"max_iter": "max_iter", "tol": "tol"}),
    "model_stock": (weights.model_stock, {}, {}, {}),
    "task_arithmetic": (weights.task_arithmetic, {}, WEIGHT, SCALED),
    "ties": (weights.ties, {}, WEIGHT | DENSITY, SCALED),
    "dare_linear": (weights.dare, {"consensus": False}, WEIGHT | DENSITY, SCALED),
    "dare_ties": (weights.dare, {"consensus": True}, WEIGHT | DENSITY, SCALED),
    "della_linear": (weights.della, {"consensus": False, "normalize": False}, WEIGHT | DENSITY | EPSILON, SCALED),
    "della": (weights.della, {}, WEIGHT | DENSITY | EPSILON, SCALED),
    "expo": (weights.expo, {}, {}, {"alpha": "alpha"}),
    "p_soups": (weights.p_soups, {}, {"weight": "preferences"}, {}),
}
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


class _Model(TypedDict):
    model: str
    parameters: NotRequired[dict[str, Any]]


class _Config(TypedDict):
    merge_method: str
    models: list[_Model]
    base_model: NotRequired[str | None]
    parameters: NotRequired[dict[str, Any]]
    dtype: NotRequired[str | None]
    out_dtype: NotRequired[str | None]
    tokenizer_source: NotRequired[str | None]


class MergeConfig(NamedTuple):
    """What a file says: its text, the merge, the folders, the base's if it takes one, the dtype that is written, and
    the parameters as they stand there, of all and of each model."""

    file: Path
    text: str
    name: str
    models: tuple[Path, ...]
    base: Path | None
    dtype: str | None
    shared: Mapping[str, Any]
    own: tuple[Mapping[str, Any], ...]

    @property
    def merge(self) -> Any:
        """The merge of trees."""
        return METHODS[self.name][0]

    def values(self, tensor: str, layers: int) -> dict[str, Any]:
        """Returns the hyper-parameters for a tensor of a network of so many layers.

        Raises:
            ConfigError: One has no value for it, or one that is not in its range.
        """
        merge, settings, of_models, of_all = METHODS[self.name]
        values = dict(settings)
        for theirs, ours in of_models.items():
            found = [{**self.shared, **own}.get(theirs) for own in self.own]
            if None in found:
                raise ConfigError(f"{self.file}: {self.name} needs {theirs!r} of {self.models[found.index(None)]}")
            values[ours] = tuple(self._at(value, theirs, tensor, layers) for value in found)
            if odd := [value for value in values[ours] if not isinstance(value, int | float)]:
                hint = " (YAML reads 1e-3 as text; write 1.0e-3)" if isinstance(odd[0], str) else ""
                raise ConfigError(f"{self.file}: {theirs} is {shown(odd[0])}; it must be a number{hint}")
        for theirs, ours in of_all.items():
            if theirs in self.shared:
                values[ours] = self._at(self.shared[theirs], theirs, tensor, layers)
        try:
            kwargs = dict(fn(merge, **values).kwargs)
            if kwargs.get("normalize"):
                check_sum(kwargs["weights"])
        except ConfigError as error:
            raise ConfigError(f"{self.file}: {error}") from None
        return kwargs

    def _at(self, value: Any, parameter: str, tensor: str, layers: int) -> Any:
        """The value for a tensor: as it is, that of the first filter which stands in the name, or, of a list, that at
        the layer's depth between its numbers; what belongs to no layer has the first of them."""
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for rule in value:
                if not isinstance(rule, dict) or "value" not in rule or set(rule) - {"filter", "value"}:
                    raise ConfigError(f"{self.file}: {parameter}: {shown(rule)} must be a filter with its value")
                if rule.get("filter") in (None, "*") or str(rule["filter"]) in tensor:
                    return self._at(rule["value"], parameter, tensor, layers)
            raise ConfigError(f"{self.file}: no filter of {parameter} fits {tensor}; end with a value without a filter")
        if not isinstance(value, list):
            return value
        if not value or not all(isinstance(number, int | float) for number in value):
            raise ConfigError(f"{self.file}: {parameter} is {shown(value)}; it must be numbers")
        layer = _layer(tensor)
        place = 0.0 if layer is None else layer / max(layers - 1, 1) * (len(value) - 1)
        low = min(int(place), max(len(value) - 2, 0))
        high = min(low + 1, len(value) - 1)
        return value[low] + (place - low) * (value[high] - value[low])


def _layer(tensor: str) -> int | None:
    found = _LAYER.search(tensor)
    return None if found is None else int(found[1])


def depth(tensors: Mapping[str, Any]) -> int:
    """Returns how many layers the names of tensors number."""
    return 1 + max((layer for layer in map(_layer, tensors) if layer is not None), default=0)


class _Loader(yaml.SafeLoader):
    """The safe loader of YAML, which also refuses a key that stands twice or is no text, and what holds itself."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.deep_construct = True  # so that an anchor within itself is refused, not built

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise Unreadable(f"{twice[0]!r} stands twice", f"line {node.start_mark.line + 1}")
        made = super().construct_mapping(node, deep)
        if odd := [key for key in made if not isinstance(key, str)]:
            raise Unreadable(f"the key {odd[0]} is no text", f"line {node.start_mark.line + 1}")
        return made


def read_merge_config(file: Path) -> MergeConfig:
    """Reads a YAML file in mergekit's form.

    Args:
        file: The file. Paths of models are folders, relative to where the command runs.

    Returns:
        What it says. Parameters are checked when `values` is asked for a tensor.

    Raises:
        ConfigError: A key, method or parameter that is not known, named; a base that the method needs and has not.
    """
    # Keys are checked first, then who is the base and who is merged: a base may stand among the models, where merges of
    # differences from it pass it over and slerp begins at it.
    text = read_text(file)
    with reading(file, "mend it", kind=" as YAML"):
        raw = yaml.load(text, _Loader)
    read: dict[str, Any] = check_shape(raw, _Config, file, ADVICE)
    _check_keys(file, read)
    name = read["merge_method"]
    merge, shared = METHODS[name][0], read.get("parameters", {})
    base, models = read.get("base_model"), list(read["models"])
    if base is None and (merge.base or name == "slerp"):
        raise ConfigError(f"{file}: {name} needs a base_model")
    if merge.base:
        models = [model for model in models if not _same(model["model"], base)]
    if name == "slerp":  # which goes from the base to the other
        models.sort(key=lambda model: not _same(model["model"], base))
        if len(models) != 2 or not _same(models[0]["model"], base):
            raise ConfigError(f"{file}: slerp takes two models, one of which is the base_model")
    if not models:
        raise ConfigError(f"{file}: there is no model beside the base_model")
    return MergeConfig(
        file, text, name, tuple(user_path(model["model"]) for model in models),
        user_path(base) if base is not None and merge.base else None,
        read.get("out_dtype") or read.get("dtype"), shared, tuple(model.get("parameters", {}) for model in models),
    )  # fmt: skip


def _same(one: str, other: str | None) -> bool:
    """Whether two paths are those of one folder, however it is written."""
    if other is None:
        return False
    first, second = user_path(one), user_path(other)
    return first == second or (first.is_dir() and second.is_dir() and first.samefile(second))


def _check_keys(file: Path, read: dict[str, Any]) -> None:
    """Refuses what is not known, by name."""
    known = [*_Config.__annotations__]
    for key in read:
        check_known(key, known, f"{file}: {key!r} is not read here")
    name = read["merge_method"]
    check_known(name, [*METHODS], f"{file}: there is no merge_method {name!r}")
    if read.get("tokenizer_source") not in (None, "base"):
        raise ConfigError(f"{file}: tokenizer_source is {read['tokenizer_source']!r}; models of one vocabulary, 'base'")
    _, _, of_models, of_all = METHODS[name]
    for model in read["models"]:
        for key in model:
            check_known(key, [*_Model.__annotations__], f"{file}: {key!r} of a model is not read here")
        for key in model.get("parameters", {}):
            check_known(key, [*of_models], f"{file}: {name} takes no {key!r} of a model")
    for key in read.get("parameters", {}):
        check_known(key, [*of_models, *of_all], f"{file}: {name} takes no parameter {key!r}")
