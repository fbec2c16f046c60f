"""`alignjax compare`: one report of several runs."""

from __future__ import annotations

from alignjax import outside
from alignjax.cli.report_flags import Compare
from alignjax.config import ConfigError
from alignjax.evaluate.report.comparison import compared
from alignjax.evaluate.report.run_folders import read_runs
from alignjax.evaluate.report.write_report import terminal_table, write_report
from alignjax.outside import writing
from alignjax.train.run_record import FILE


def compare(flags: Compare) -> int:
    """Writes the report, and prints its table and where it is.

    Args:
        flags: The flags of `alignjax compare`.

    Returns:
        The exit status, 0.

    Raises:
        ConfigError: There are fewer than two runs, one is none or stands twice, or the place to write to is a run.
    """
    if len(flags.run_dirs) < 2:
        raise ConfigError("compare takes two runs or more; `alignjax report RUN_DIR` shows one")
    runs = read_runs([outside.user_path(folder) for folder in flags.run_dirs])
    if (flags.to / FILE).exists():
        raise ConfigError(f"{flags.to} is a run, whose report would be lost; name another folder with --to DIR")
    results = compared(runs, title=" and ".join(run.name for run in runs))
    with writing(flags.to, "name another folder with --to DIR"):
        paths = write_report(results, flags.to)
    console = outside.console()
    if any(run.results for run in runs):
        terminal_table(results, console)
    else:
        console.print(results["headline"])
    print(f"\n{paths['html']}")
    return 0
