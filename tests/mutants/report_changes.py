"""Mutants of reports."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

REPORT, COMPARISON = "tests/evaluate/test_report.py", "tests/evaluate/test_comparison.py"

REPORTS = (
    Mutant(
        "a judge is said to prefer the baseline's answer",
        "evaluate/tournament.py",
        "{name: _against(verdict, name, baseline) for name in others}",
        "{name: _against(verdict, baseline, name) for name in others}",
        (REPORT, "-k", "test_a_verdict_is_of"),
    ),
    Mutant(
        "players of a comparison lose what they win",
        "evaluate/report/comparison.py",
        "for a, b in ((name, base), (base, name)))",
        "for a, b in ((base, name), (name, base)))",
        (COMPARISON, "-k", "test_players_meet"),
    ),
    Mutant(
        "a run is watched after its last stage",
        "evaluate/report/run_folders.py",
        "reached |= not stage.done",
        "reached |= stage.done",
        (COMPARISON, "-k", "test_a_page_of_a_run"),
    ),
)
