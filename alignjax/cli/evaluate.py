"""`alignjax evaluate` and `alignjax report` evaluate a finished run again and rebuild its report."""

from __future__ import annotations

from collections.abc import Sequence

from alignjax import outside
from alignjax.cli.config_file import reload, run_folder
from alignjax.cli.flags import Evaluate, Report
from alignjax.config import ConfigError, Experiment, Pipeline, nearest
from alignjax.workspace import Workspace


def evaluate(flags: Evaluate, arguments: Sequence[str]) -> int:
    """Runs a job of a pipeline and the jobs behind it again, on the checkpoints that the run folder holds.

    Args:
        flags: the flags of `alignjax evaluate`.
        arguments: overrides of the config, as words of a command line.

    Returns:
        The exit status.

    Raises:
        ConfigError: the folder is no run, or the run has no such job or is not trained yet; with a judge, what
            `judge_models` refuses; with rows that reward models are measured on, what `reward_benchmark` does.
    """
    if flags.rewards is not None:
        from alignjax.cli.reward_benchmark import reward_benchmark  # noqa: PLC0415

        return reward_benchmark(flags, arguments)
    if flags.format != "table":
        raise ConfigError(f"--format {flags.format} goes with --rewards FILE; leave it out")
    if flags.judge is not None or flags.data is not None:
        from alignjax.cli.judge_models import judge_models  # noqa: PLC0415

        return judge_models(flags, arguments)
    from alignjax.train.pipeline import DONE, run_pipeline  # noqa: PLC0415

    root, _ = run_folder(str(flags.run_dir))
    step = flags.step
    config = reload(root, arguments).config
    if not isinstance(config, Pipeline):
        raise ConfigError(f"{root} is one experiment and has no evaluation step; its metrics are in metrics.jsonl")
    names = list(config.steps)
    jobs = [name for name in names if not isinstance(config.steps[name], Experiment)]
    if step not in jobs:
        raise ConfigError(f"{root} has no job {step!r}.{nearest(step, jobs)}")
    again = [name for name in jobs if names.index(name) >= names.index(step)]
    missing = [name for name in names if name not in again and not (root / name / DONE).exists()]
    if missing:
        raise ConfigError(f"{root} has not finished {', '.join(missing)}: run its alignjax train line with --resume")
    for name in again:
        (root / name / DONE).unlink(missing_ok=True)
    run_pipeline(config, Workspace(root), resume=True)
    return 0


def report(flags: Report) -> int:
    """Renders report.html and report.md from results.json again and prints the table."""
    from alignjax.evaluate.report import schema  # noqa: PLC0415  # with matplotlib, which evaluate() may not need
    from alignjax.evaluate.report.write_report import rebuild, terminal_table  # noqa: PLC0415

    if not flags.run_dir.is_dir():
        raise ConfigError(f"no such run folder: {flags.run_dir}")
    paths = rebuild(flags.run_dir)
    terminal_table(schema.load(flags.run_dir), outside.console())
    print(f"\n{paths['html']}")
    return 0
