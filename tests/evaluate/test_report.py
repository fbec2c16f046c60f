"""The report: nothing unescaped, nothing loaded, the same again from results.json, errors that name the key."""

from __future__ import annotations

import copy
import io
import json
import random
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from alignjax.evaluate import tournament
from alignjax.evaluate.report import definitions, figures, learning_curves, schema, wording, write_report
from alignjax.evaluate.report.schema import REQUIRED, ResultsError
from alignjax.evaluate.write_results import changed_settings
from tests.evaluate.conftest import OUTPUTS
from tests.train.test_torn_files import changed, places

EVIL = "<script>alert('x')</script> & \"quotes\" {{ 7 * 7 }} | `code` $\\frac$ </div> [link](javascript:x)"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def small(results):
    """As quick to draw as can be."""
    return results | {"curves": {"sft": results["curves"]["sft"]}, "by_seed": None}


def test_report_is_complete_and_loads_nothing(results, tmp_path):
    paths = write_report.write_report(results, tmp_path / "run")
    page = Page(paths["html"].read_text())
    shown = [
        "IPO-MD beats SFT on the held-out judge",
        results["samples"][0]["outputs"]["human"],
        "15,234 pairs from 87 packages",
        "1 min 28 s",
        results["git"],
        "0.10.2",
        '"beta": 0.125',
        "88.0 %",
        "seed 2",
    ]
    for text in shown:
        assert text in page.text
    assert sum(tag == "svg" for tag, _ in page.tags) == 1 + 2 + 2 + 3  # the frontier and a panel per metric and group
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe")
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    links = [attributes["href"][1:] for tag, attributes in page.tags if tag == "a"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(links) <= set(ids)
    columns, _ = wording.player_rows(results)
    defined = [definitions.of_column(column) for column in columns[1:]]
    assert defined.count("measure") == 0
    assert {*defined, "loss", "accuracy", "preference", "kl", "kl-logged", "judge-accuracy", "wall-clock"} <= set(links)
    for name in ("frontier", "win_rates", "learning_curves"):
        assert ElementTree.parse(paths[name]).getroot().tag.endswith("svg")
    for name in ("frontier", "learning_curves"):
        assert f"]({name}.svg)" in paths["markdown"].read_text()


def test_every_kind_of_curve_is_defined():
    assert {definitions.of_curve(kind) for kind in learning_curves.UNITS} <= {*definitions.DEFINITIONS} - {"logged"}
    assert definitions.of_curve(None) == "logged"
    assert definitions.of_column("vs SFT by the training judge (%)") == "by-judge"
    assert definitions.of_column("exactly sorted (%)") == "measure"


def test_answers_stand_beside_what_the_judges_said_of_them(small, tmp_path):
    small["samples"] = small["samples"][:1]
    small["samples"][0]["verdicts"] = {"held_out": {"ipo_md": 0.876, "human": None}, "train": {"ipo_md": 0.25}}
    paths = write_report.write_report(small, tmp_path)
    said = "preferred to SFT: the held-out judge 88 %, the training judge 25 %"
    assert Page(paths["html"].read_text()).text.count(said) == 1
    markdown = paths["markdown"].read_text()
    assert f"{OUTPUTS['ipo_md']} ({said})" in markdown
    assert markdown.count("preferred to") == 1


def test_a_verdict_is_of_the_player_against_the_baseline():
    texts = {"prompt": ["p", "q"], "base": ["a", "b"], "one": ["c", "d"], "two": ["e", "f"]}
    said = {"held_out": {("base", "one"): np.array([0.25, 0.5]), ("two", "base"): np.array([0.75, 1.0])}}
    shown = tournament._shown(texts, ["base", "one", "two"], 2, said, "base")
    assert [row["verdicts"]["held_out"] for row in shown] == [{"one": 0.75, "two": 0.75}, {"one": 0.5, "two": 1.0}]
    assert shown[1]["outputs"] == {"base": "b", "one": "d", "two": "f"}


def test_arbitrary_text_is_escaped_everywhere(small, tmp_path):
    small |= {"title": EVIL, "notes": [EVIL], "config": {EVIL: EVIL}, "command": EVIL, "versions": {EVIL: EVIL}}
    small["samples"] = [{"post": EVIL + "\n```\n# no heading", "outputs": {"sft": EVIL, EVIL: EVIL}}]
    small["players"]["sft"] |= {"label": EVIL, "note": EVIL}
    small["curves"] = {EVIL: {EVIL: {"step": [1, 2], "value": [0.0, 1.0]}}}
    small["judges"]["held_out"]["label"] = EVIL
    small["seconds"] = {EVIL: 1.0}
    paths = write_report.write_report(small, tmp_path)
    text = paths["html"].read_text()
    page = Page(text)
    assert not any(tag == "script" for tag, _ in page.tags)
    assert "<script" not in text
    assert page.text.count(EVIL) >= 10
    markdown = paths["markdown"].read_text()
    fences = markdown.split("````")
    assert len(fences) % 2 == 1
    assert "# no heading" in fences[1]
    outside = "".join(fences[::2]).split("<details>")[0]
    assert "<script" not in outside
    assert "[link](" not in outside


@pytest.mark.slow
def test_rebuild_gives_the_same_bytes_again(results, tmp_path):
    paths = write_report.write_report(results, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name, path in paths.items():
        if name != "results":
            path.unlink()
    assert write_report.rebuild(tmp_path) == paths
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_rebuild_says_what_is_wrong_with_the_file(tmp_path):
    with pytest.raises(ResultsError, match=r"no results\.json"):
        write_report.rebuild(tmp_path)
    (tmp_path / "results.json").write_text('{"title": ')
    with pytest.raises(ResultsError, match="not JSON"):
        write_report.rebuild(tmp_path)


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named_before_anything_is_written(results, tmp_path, key):
    del results[key]
    with pytest.raises(ResultsError, match=f"no '{key}'"):
        write_report.write_report(results, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r["win_rates"]["sft"]["human"].pop("low"), r"no 'win_rates\.sft\.human\.low'"),
        (lambda r: r["win_rates"]["sft"].pop("human"), r"no 'win_rates\.sft\.human'"),
        (lambda r: r["win_rates"].update(ipo={}), "Did you mean"),
        (lambda r: r.update(baseline="stf"), "Did you mean 'sft'"),
        (lambda r: r["players"]["sft"].update(kl=0.1), r"players\.sft\.kl.*interval"),
        (lambda r: r["players"]["sft"]["rouge_l"].update(mean=float("nan")), r"players\.sft\.rouge_l\.mean.*finite"),
        (lambda r: r["judges"].pop("held_out"), r"judges\.held_out"),
        (lambda r: r["curves"]["sft"]["loss"]["step"].pop(), "119 steps but 120"),
        (lambda r: r["samples"][1].pop("post"), r"samples\.1\.post"),
        (lambda r: r["data"].pop("packages"), r"data\.packages"),
        (lambda r: r.update(players=[]), "list; it must be a dict"),
    ],
)
def test_wrong_results_are_refused_by_path(results, change, says):
    change(results)
    with pytest.raises(ResultsError, match=says):
        schema.validate(results)


def test_results_with_a_value_of_another_kind_are_told_or_shown(small, tmp_path):
    """Whatever stands in the place of a value: a sentence that names it, or a page."""
    curves = {"sft": {"loss": {"step": [1, 2], "value": [0.5, None]}}}
    bias = {"length_bias": {"sft": {"mean": 0.1, "low": 0, "high": 0.2, "n": 9}}, "human": "human"}
    valid = schema.plain(small | {"curves": curves, "samples": small["samples"][:1], **bias})
    odd = [None, True, 3, -1e300, 10**400, "x", "", [], [1], {}, {"mean": 1}, [None], {"x": None}]
    rng, said = random.Random(0), []
    for place in [*places(curves, ("curves",)), *rng.sample(places(valid), 120)]:
        (tmp_path / "results.json").write_text(json.dumps(changed(valid, place, rng.choice(odd))))
        try:
            results = schema.load(tmp_path)
        except ResultsError as error:
            said.append(str(error))
        else:
            write_report.markdown_report(results, {})
            write_report.terminal_table(results, Console(file=io.StringIO()))
    assert len(said) > 60
    assert all(map(str.isprintable, said))


@pytest.mark.parametrize("text", ['{"title": 1, "title": 2}', "[" * 10_000, "\udcff", '{"title": 1e999}', "", "[]"])
def test_a_file_that_is_no_results_is_told(text, tmp_path):
    (tmp_path / "results.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ResultsError, match=r"results\.json|title"):
        schema.load(tmp_path)


def test_numpy_numbers_and_nan_become_strict_json(small, tmp_path):
    small["curves"]["sft"]["loss"] = {"step": np.arange(3), "value": np.array([1.0, np.nan, np.inf])}
    small["seeds"] = {"run": np.int64(4)}
    small["config"] = {"path": tmp_path, "pair": (1, 2)}
    write_report.write_report(small, tmp_path)
    saved = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert saved["curves"]["sft"]["loss"] == {"step": [0, 1, 2], "value": [1.0, None, None]}
    assert saved["seeds"] == {"run": 4}


def test_a_report_needs_no_human_no_curves_and_no_other_seeds(small, tmp_path):
    del small["players"]["human"], small["win_rates"]["human"]
    for row in small["win_rates"].values():
        row.pop("human", None)
    for key in (
        "by_seed",
        "exploitability",
        "agreement",
        "length_bias",
        "command",
        "win_rates_by_judge",
        "win_rates_hard",
    ):
        small.pop(key, None)
    small |= {"curves": {}, "samples": [], "git": None, "seconds": {}}
    small["players"] = {name: {} for name in small["players"]}
    paths = write_report.write_report(small, tmp_path)
    assert "learning_curves" not in paths
    assert "Ipo md beats sft" in Page(paths["html"].read_text()).text


def test_a_length_bias_says_between_whom_it_is(results):
    assert [row[0] for row in wording.bias_rows(results)] == ["SFT against Human"]
    results["length_bias"] = {"ipo_md": results["length_bias"]}
    assert [row[0] for row in wording.bias_rows(results)] == ["IPO-MD"]


def with_rate(results, mean, low, high):
    out = copy.deepcopy(results)
    for name in wording.trained(out):
        out["win_rates"][name]["sft"] = {"mean": mean, "low": low, "high": high, "n": 10}
    return out


def test_headline_is_honest(results):
    assert wording.headline(results).startswith("IPO-MD beats SFT on the held-out judge")
    unsure = wording.headline(with_rate(results, 0.55, 0.49, 0.61))
    assert unsure.startswith("No trained policy beats SFT.")
    assert "cannot be told apart from" in unsure
    worse = wording.headline(with_rate(results, 0.4, 0.35, 0.45))
    assert "No trained policy beats SFT." in worse
    assert "loses to SFT" in worse


def test_terminal_table_fits_80_columns_and_shows_brackets(results):
    results["players"]["sft"]["label"] = "SFT [bold]"
    stream = io.StringIO()
    write_report.terminal_table(results, Console(file=stream, width=80))
    text = stream.getvalue()
    assert "SFT [bold]" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    mean = wording.number(results["win_rates"]["ipo_md"]["sft"]["mean"], 1, 100)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert any(line.startswith("IPO-MD") and f"{mean} (" in line for line in text.splitlines())


def test_colors_are_distinct_and_stay_with_the_player(results):
    palette = figures.colors(results)
    assert len(set(palette.values())) == len(results["players"])
    groups = learning_curves.curve_groups(results)
    drawn = {label: color for label, color, _, _ in groups["Preference optimization"]["loss"]}
    assert drawn == {schema.label(results, name): palette[name] for name in wording.trained(results)}


def test_panels_are_of_the_learning_and_not_shown_twice(results):
    def curves(*values):
        return {"step": list(range(len(values))), "value": list(values)}

    results["curves"]["sft"] = {
        "gradient_norm/policy": curves(3, 2),
        "loss": curves(8, 7),
        "loss/sft": curves(8, 7),
        "time/seconds": curves(1, 2),
        "kl": curves(0, 0),
        "own": curves(1, 2),
        "pair/accuracy": curves(0.5, 0.6),
    }
    groups = learning_curves.curve_groups(results)
    assert list(groups["SFT"]) == ["loss", "pair/accuracy", "gradient_norm/policy", "own"]
    assert learning_curves.axis_label("gradient_norm/preference") == "gradient norm"
    of_both = [learning_curves.axis_label(f"{stage}/length") for stage in ("generate", "opponent")]
    assert of_both[1] == f"{of_both[0]}, opponent"


def test_smoothing_keeps_lines_and_gaps():
    line = np.linspace(0, 5, 200)
    smooth = learning_curves.smoothed([None if i == 100 else value for i, value in enumerate(line)])
    assert np.isnan(smooth[100])
    inside = np.r_[50:80, 120:150]
    np.testing.assert_allclose(smooth[inside], line[inside], atol=0.02)
    noise = np.random.default_rng(0).normal(size=500)
    assert np.std(learning_curves.smoothed(list(noise))) < 0.3
    np.testing.assert_allclose(learning_curves.smoothed([3.0]), [3.0])


def test_curves_are_read_from_a_file_that_was_resumed_and_cut(tmp_path):
    rows = [{"step": s, "loss": 10.0 - s, "note": "x", "fine": True} for s in range(1, 6)]
    rows += [{"step": 4, "loss": -1.0}, {"step": 6, "kl": 2}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 7, "lo')
    found = learning_curves.read_curves(path)
    assert found == {
        "loss": {"step": [1, 2, 3, 4, 5], "value": [9.0, 8.0, 7.0, -1.0, 5.0]},
        "kl": {"step": [6], "value": [2]},
    }
    assert learning_curves.read_curves(path, ["kl", "absent"]) == {"kl": found["kl"]}
    assert learning_curves.read_curves(path, ["loss"], points=3)["loss"] == {
        "step": [2, 4, 5],
        "value": [8.5, 3.0, 5.0],
    }


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (59.99, "60.0 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")]
)
def test_durations(seconds, text):
    assert wording.duration(seconds) == text


def test_numbers_have_no_negative_zero():
    assert wording.number(-0.0001, 2) == "0.00"
    assert wording.number(-1.5) == "\N{MINUS SIGN}1.5"


def test_a_report_says_what_the_command_line_changed(tmp_path):
    assert changed_settings(tmp_path) == []
    (tmp_path / "command.json").write_text('{"overrides": []}')
    assert changed_settings(tmp_path) == []
    (tmp_path / "command.json").write_text('{"overrides": ["--all.steps", "2"]}')
    (line,) = changed_settings(tmp_path)
    assert "--all.steps 2" in line
    assert "counted as without" in line
