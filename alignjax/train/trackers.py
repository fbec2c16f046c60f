"""Trackers of runs: TensorBoard, Weights & Biases, Trackio and MLflow, each a sink over its library.

A sink is a function write(step, row), open inside a `with`: it logs the numbers of a row, and {"samples": rows of
texts} as a table.
"""

from __future__ import annotations

import contextlib
import importlib
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from alignjax.config import ConfigError, check_known

Row = dict[str, Any]
Write = Callable[[int, Row], Any]


@contextlib.contextmanager
def tensorboard(folder: Path, step: int) -> Iterator[Write]:
    """Writes for TensorBoard, after purging what it has beyond `step`; nothing where tensorboardX is not installed.

    Args:
        folder: Where events go.
        step: The last step that stays.
    """
    module = None
    with contextlib.suppress(ImportError):
        module = importlib.import_module("tensorboardX")
    if module is None:
        yield lambda step, row: None
        return
    with contextlib.closing(module.SummaryWriter(str(folder), purge_step=step + 1)) as writer:

        def write(step: int, row: Row) -> None:
            for name, value in _scalars(row).items():
                writer.add_scalar(name, value, step)
            for number, texts in enumerate(row.get("samples", ())):
                for name, text in texts.items():
                    writer.add_text(f"samples/{number}/{name}", str(text), step)

        yield write


@contextlib.contextmanager
def wandb(folder: Path, project: str, config: Any) -> Iterator[Write]:
    """Logs to a Weights & Biases run, which is named after the run folder.

    The folder keeps the run's id: a folder of the same name elsewhere, or made anew, is another run. A run that an
    error ends counts as failed.

    Args:
        folder: The run folder.
        project: The project to log to.
        config: The config of the run, as JSON.

    Raises:
        ConfigError: wandb is not installed, or cannot log, for example for want of a login.
    """
    module, (name, number) = _installed("wandb"), _name_and_id(folder, "wandb")
    try:
        run = module.init(project=project, name=name, id=number, dir=str(folder), config=config, resume="allow")
    except module.Error as error:
        raise ConfigError(f"tags ask for wandb: {error} WANDB_MODE=offline logs into the run folder alone") from error

    def write(step: int, row: Row) -> None:
        tables = {"samples": module.Table(*_table(row["samples"]))} if row.get("samples") else {}
        run.log(_scalars(row) | tables, step=step)

    try:
        yield write
    finally:
        run.finish(exit_code=int(sys.exc_info()[0] is not None))


@contextlib.contextmanager
def trackio(folder: Path, project: str, config: Any) -> Iterator[Write]:
    """Logs to a Trackio run, which lies on this machine (TRACKIO_DIR says where) and is named after the run folder and
    the id that this keeps.

    Args:
        folder: The run folder.
        project: The project to log to.
        config: The config of the run, as JSON.

    Raises:
        ConfigError: trackio is not installed, or cannot log.
    """
    module, name = _installed("trackio"), "-".join(_name_and_id(folder, "trackio"))
    with _in_words("trackio"):
        run = module.init(project=project, name=name, config=config, resume="allow", embed=False)

    def write(step: int, row: Row) -> None:
        columns, data = _table(row.get("samples", ()))
        tables = {"samples": module.Table(columns=columns, data=data)} if data else {}
        run.log(_scalars(row) | tables, step=step)

    try:
        yield write
    finally:
        run.finish()


@contextlib.contextmanager
def mlflow(folder: Path, project: str, config: Any) -> Iterator[Write]:
    """Logs to an MLflow run, which lies where MLFLOW_TRACKING_URI says and is named after the run folder.

    The folder keeps an id, by which the run is found again. A run that an error ends counts as failed.

    Args:
        folder: The run folder.
        project: The MLflow experiment to log to.
        config: The config of the run, as JSON.

    Raises:
        ConfigError: mlflow is not installed, or cannot log, for example because its server does not answer.
    """
    module, (name, number) = _installed("mlflow"), _name_and_id(folder, "mlflow")
    with _in_words("mlflow"):
        client = module.MlflowClient()
        known = client.get_experiment_by_name(project)
        place = known.experiment_id if known else client.create_experiment(project)
        runs = client.search_runs([place], f"tags.folder_id = '{number}'")
        run = runs[0] if runs else client.create_run(place, run_name=name, tags={"folder_id": number})
        client.set_terminated(run.info.run_id, "RUNNING")
        client.log_dict(run.info.run_id, config, "config.json")

    def write(step: int, row: Row) -> None:
        numbers = [module.entities.Metric(key, float(value), 0, step) for key, value in _scalars(row).items()]
        client.log_batch(run.info.run_id, metrics=numbers)
        if row.get("samples"):
            columns, data = _table([{"step": step, **texts} for texts in row["samples"]])
            values = dict(zip(columns, map(list, zip(*data, strict=True)), strict=True))
            client.log_table(run.info.run_id, values, "samples.json")

    try:
        yield write
    finally:
        client.set_terminated(run.info.run_id, "FAILED" if sys.exc_info()[0] else "FINISHED")


BY_TAG: dict[str, Callable[..., contextlib.AbstractContextManager[Write]]] = {
    "wandb": wandb,
    "trackio": trackio,
    "mlflow": mlflow,
}


def check_tags(tags: Iterable[str]) -> None:
    """Checks that every tag of an experiment is a tracker's.

    Args:
        tags: The names of the tags.

    Raises:
        ConfigError: One is not.
    """
    for tag in tags:
        check_known(tag, BY_TAG, f"tags name {tag!r}, which is no tracker")


def _scalars(row: Row) -> Row:
    """The entries of a row that are single numbers."""
    return {name: value for name, value in row.items() if isinstance(value, (int, float))}


def _table(rows: Any) -> tuple[list[str], list[list[Any]]]:
    """(columns, data) of rows of texts, which may have different names."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return columns, [[row.get(name, "") for name in columns] for row in rows]


def _installed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(f"tags ask for {name}, which is not installed: pip install 'alignjax[{name}]'") from None


@contextlib.contextmanager
def _in_words(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
        raise ConfigError(f"tags ask for {name}, which cannot log: {first}") from error


def _name_and_id(folder: Path, tracker: str) -> tuple[str, str]:
    """A name for people, and an id that the run folder keeps."""
    id_file = folder / tracker / "id"
    if not id_file.is_file():
        id_file.parent.mkdir(parents=True, exist_ok=True)
        id_file.write_text(secrets.token_hex(4), encoding="utf-8")
    return "-".join(folder.resolve().parts[-2:]), id_file.read_text(encoding="utf-8")
