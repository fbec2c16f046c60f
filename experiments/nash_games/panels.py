"""The figures as SVG: a panel for each algorithm with a line for each game, in expectation and on samples; optimistic
against plain; the policy and its mixture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from players import METHODS
from six_games import GAMES

from alignjax.evaluate.report.figures import BASELINE, INK, MUTED, PALETTE, STYLE, frame, svg

COLOUR = dict(zip(GAMES, PALETTE, strict=False))
ACROSS = 5
PLAIN = FuncFormatter(lambda value, _: f"{value:g}" if 0.01 <= value < 1e4 or value == 0 else f"{value:.0e}")
LOWEST = {"expected": 1e-12, "sampled": 1e-5}


def all_of(results: Mapping[str, Any]) -> dict[str, str]:
    """{name of the file: <svg>}."""
    with mpl.rc_context({**STYLE, "font.size": 7.5, "axes.titlesize": 7, "xtick.labelsize": 6.5,
                         "ytick.labelsize": 6.5}):  # fmt: skip
        panels = {mode: every_algorithm(results, mode) for mode in results["runs"]}
        return {**panels, "optimism": optimism(results), "mixture": mixture(results)}


def _figure(rows: int, across: int, height: float = 1.35, width: float = 7.2) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width, height * rows + 0.55), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, across, squeeze=False, sharex=True, sharey=True)


def _logarithmic(axes: Axes, steps: int, low: float, high: float = 1.5) -> None:
    frame(axes)
    axes.set_xscale("symlog", linthresh=1, linscale=0.3)
    axes.set_yscale("log")
    axes.set_xlim(0, steps)
    axes.set_ylim(low, high)
    axes.xaxis.set_major_locator(FixedLocator([0, 1, 10, 100, 1000]))
    axes.xaxis.set_major_formatter(PLAIN)
    axes.yaxis.set_major_formatter(PLAIN)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(numticks=5))
    axes.yaxis.set_minor_locator(NullLocator())


def _curve(axes: Axes, one: Mapping[str, Any], name: str, colour: str, low: float, **line: Any) -> None:
    mean, lower, upper = (np.maximum(values, low * 0.5) for values in one[name])
    axes.plot(one["at"], mean, color=colour, **line)
    if np.any(upper > lower):
        axes.fill_between(one["at"], lower, upper, color=colour, alpha=0.18, lw=0)


def every_algorithm(results: Mapping[str, Any], mode: str) -> str:
    """Small multiples: duality gap over iteration."""
    runs, low = results["runs"][mode], LOWEST[mode]
    figure, grid = _figure(-(-(len(runs) + 1) // ACROSS), ACROSS)
    for axes, (name, games) in zip(grid.flat, runs.items(), strict=False):
        free = "free_" if METHODS[name].free else ""
        steps = max(one["curves"]["at"][-1] for one in games.values())
        _logarithmic(axes, steps, low)
        for game, one in games.items():
            _curve(axes, one["curves"], f"{free}average", COLOUR[game], low, lw=0.7, ls=(0, (2, 1.5)), alpha=0.75)
            _curve(axes, one["curves"], f"{free}policy", COLOUR[game], low, lw=1.1)
        axes.set_title(METHODS[name].label + (" *" if free else ""), pad=3)
    rest = list(grid.flat)[len(runs) :]
    for axes in rest:
        axes.set_axis_off()
    lines = [Line2D([], [], color=colour, lw=1.4, label=game) for game, colour in COLOUR.items()]
    styles = [Line2D([], [], color=INK, lw=1.1, label="policy"),
              Line2D([], [], color=INK, lw=0.7, ls=(0, (2, 1.5)), label="average policy")]  # fmt: skip
    rest[0].legend(handles=[*lines, *styles], loc="upper left", frameon=False, fontsize=6.5, borderpad=0,
                   handlelength=1.6, labelspacing=0.25)  # fmt: skip
    figure.supxlabel("iteration", fontsize=8)
    figure.supylabel("duality gap at tau  (*: without regularisation)", fontsize=8)
    said = {"expected": "in expectation", "sampled": "on samples, mean and 95 % interval over seeds"}[mode]
    return svg(figure, mode, f"Duality gap over iteration for every algorithm on six games, {said}")


FREE = {"sppo": (PALETTE[1], "SPPO (plain)"), "onpo": (PALETTE[0], "ONPO (optimistic)"),
        "comal": (PALETTE[2], "COMAL (moving reference)")}  # fmt: skip
CYCLING = ("rock-paper-scissors", "cycle of five", "Condorcet")


def optimism(results: Mapping[str, Any]) -> str:
    """Above: last and average iterates without regularisation. Below: gradients needed, over the rate."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(CYCLING), sharey="row", squeeze=False)
    for axes, game in zip(grid[0], CYCLING, strict=True):
        _logarithmic(axes, 4096, 1e-9, 2)
        for name, (colour, _) in FREE.items():
            one = results["runs"]["expected"][name][game]["curves"]
            _curve(axes, one, "free_policy", colour, 1e-9, lw=1.2)
            _curve(axes, one, "free_average", colour, 1e-9, lw=0.9, ls=(0, (2, 1.5)))
        axes.set_title(game, pad=3)
        axes.set_xlabel("round")
    grid[0][0].set_ylabel("duality gap without tau")
    handles = [Line2D([], [], color=colour, label=label) for colour, label in FREE.values()]
    handles += [Line2D([], [], color=INK, label="policy"), Line2D([], [], color=INK, ls=(0, (2, 1.5)), lw=0.9,
                label="average policy")]  # fmt: skip
    shared = {"frameon": False, "fontsize": 6.5}
    figure.legend(handles=handles, ncols=5, loc="outside upper center", **shared)
    for axes, game in zip(grid[1], CYCLING, strict=True):
        _needed(axes, results, game)
    grid[1][0].set_ylabel("gradients until gap < 1e-6")
    figure.legend(*grid[1][0].get_legend_handles_labels(), ncols=4, loc="outside lower center", **shared)
    return svg(figure, "optimism", "Optimistic and plain methods: gaps over rounds, and gradients needed over the rate")


def _needed(axes: Axes, results: Mapping[str, Any], game: str) -> None:
    frame(axes)
    for name, label, style in (("online_ipo", "online IPO (plain)", "o-"), ("egpo", "EGPO (extragradient)", "s-")):
        for tau, colour in ((0.1, PALETTE[0]), (0.02, PALETTE[1])):
            needed = np.array(results["optimism"][f"{name}|{game}|{tau}"], float)
            filled = colour if name == "egpo" else "white"
            axes.plot(results["rates"], needed, style, color=colour, ms=3, lw=1, mfc=filled, mew=0.8,
                      label=f"{label}, tau {tau}")  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PLAIN)
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("learning rate x 0.1 / tau")


def mixture(results: Mapping[str, Any]) -> str:
    """What stops at an equilibrium when one samples from a mixture: the policy does not."""
    names, games = ("ipo_md", "nash_md", "ipo_md_retuned"), ("rock-paper-scissors", "intransitive", "Condorcet")
    figure, grid = _figure(len(games), len(names), 1.5)
    low, shown = 1e-8, (("policy", PALETTE[1], "policy, at tau"), ("mixture", PALETTE[0], "mixture, at tau"),
                        ("mixture_own", PALETTE[2], "mixture, at the training tau / (1 - b)"))  # fmt: skip
    for row, game in zip(grid, games, strict=True):
        for axes, name in zip(row, names, strict=True):
            _logarithmic(axes, 4096, low, 2)
            for key, colour, _ in reversed(shown):
                exact = results["runs"]["expected"][name][game]["curves"]
                _curve(axes, exact, key, colour, low, lw=1.2 if key != "mixture_own" else 2.0)
                for drawn in (runs[name][game] for mode, runs in results["runs"].items() if mode == "sampled"):
                    _curve(axes, drawn["curves"], key, colour, low, lw=0.8, ls=":")
            axes.axhline(results["reference"][game], color=BASELINE, lw=0.8, ls=(0, (4, 3)))
        row[0].set_ylabel(game, color=MUTED)
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(METHODS[name].label, pad=3)
    handles = [Line2D([], [], color=colour, label=label) for _, colour, label in shown]
    handles += [Line2D([], [], color=INK, ls=":", lw=0.9, label="on samples"),
                Line2D([], [], color=BASELINE, ls=(0, (4, 3)), lw=0.8, label="reference mu")]  # fmt: skip
    figure.legend(handles=handles, frameon=False, fontsize=6.5, loc="outside lower center", ncols=5)
    figure.supylabel("duality gap", fontsize=8)
    return svg(figure, "mixture", "Gaps of policy and mixture for methods that sample from the mixture")
