"""`alignjax compare`: one report of several runs."""

from __future__ import annotations

from pathlib import Path

from alignjax import outside
from alignjax.cli.report_flags import Compare
from alignjax.config import ConfigError
from alignjax.evaluate.report.comparison import compared
from alignjax.evaluate.report.run_folders import read_runs
from alignjax.evaluate.report.write_report import terminal_table, write_report
from alignjax.outside import writing
from alignjax.train.run_record import FILE
from alignjax.workspace import read_json

ELSEWHERE = "name another folder with --to DIR"
REPORT = ("results.json", "report.html", "report.md")


def compare(flags: Compare) -> int:
    """Writes the report, and prints its table and where it is.

    Args:
        flags: The flags of `alignjax compare`.

    Returns:
        The exit status, 0.

    Raises:
        ConfigError: There are fewer than two runs, one is none or stands twice, or the place to write to is a run
            or has another report.
    """
    if len(flags.run_dirs) < 2:
        raise ConfigError("compare takes two runs or more; `alignjax report RUN_DIR` shows one")
    runs = read_runs([outside.user_path(folder) for folder in flags.run_dirs])
    _check_place(flags.to)
    results = compared(runs, title=" and ".join(run.name for run in runs))
    with writing(flags.to, ELSEWHERE):
        paths = write_report(results, flags.to)
    console = outside.console()
    if any(run.results for run in runs):
        terminal_table(results, console)
    else:
        console.print(results["headline"])
    print(f"\n{paths['html']}")
    return 0


def _check_place(to: Path) -> None:
    """Refuses a folder whose report is of something else than several runs, and would be lost."""
    if (to / FILE).exists():
        raise ConfigError(f"{to} is a run, whose report would be lost; {ELSEWHERE}")
    there = next((name for name in REPORT if (to / name).exists()), None)
    results = read_json(to / "results.json", ELSEWHERE) if there else None
    if there and not (isinstance(results, dict) and "runs" in results):
        raise ConfigError(f"{to / there} is of no comparison and would be lost; {ELSEWHERE}")
