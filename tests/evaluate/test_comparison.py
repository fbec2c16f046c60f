"""Reports on several runs, and pages of runs that go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignjax.cli import main
from alignjax.config import ConfigError
from alignjax.evaluate.report import figures, learning_curves, schema, wording
from alignjax.evaluate.report.comparison import MOST_DIFFERENCES, compared, differences
from alignjax.evaluate.report.over_optimization_figure import over_optimization_figure
from alignjax.evaluate.report.run_folders import progress, read_runs
from tests.evaluate.conftest import span
from tests.evaluate.test_report import Page

STAGES = ("sft", "ipo_md")


def write_run(
    folder: Path, *, tau: float, results: dict[str, Any] | None = None, done: tuple[str, ...] = (), step: int = 3
) -> Path:
    """A pipeline's folder as `alignjax train` leaves it: two experiments of 4 steps and a job, of which the later
    experiment has logged `step` steps."""
    experiment = {"type": "alignjax.config.Experiment", "steps": 4}
    steps = {"sft": experiment, "ipo_md": {**experiment, "tau": tau}, "evaluate": {"function": "play"}}
    record = {"config": {"steps": steps}, "hash": "0", "versions": {"jax": "0.10.2", "device": "cpu"}, "git": None}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(record))
    command = {"config": "/somewhere/quickstart.py", "mode": "tiny", "overrides": ["--tau", str(tau)]}
    (folder / "command.json").write_text(json.dumps(command))
    for name, last in zip(STAGES, (4, step), strict=True):
        (folder / name).mkdir()
        lines = [{"step": i, "loss": tau + i, "time/seconds": 1.0} for i in range(1, last + 1)]
        (folder / name / "metrics.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, '
        )
        sample = {"step": last, "samples": [{"prompt": "shared", "completion 0": f"{name} of {tau}"}]}
        (folder / name / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    for name in done:
        (folder / name).mkdir(exist_ok=True)
        whole = {"config": {}, "hash": "0", "seconds": 2.5, "summary": {}}
        (folder / name / "done.json").write_text(json.dumps(whole))
    if results is not None:
        (folder / "results.json").write_text(json.dumps(schema.plain(results)))
    return folder


def test_players_meet_the_baseline_of_their_own_run(results, tmp_path):
    first, second = tmp_path / "a" / "run", tmp_path / "b" / "run"
    other = json.loads(json.dumps(schema.plain(results)))
    for a, b, mean in (("ipo_md", "sft", 0.875), ("sft", "ipo_md", 0.125)):
        other["win_rates"][a][b] = span(mean, 0.01)
    other["over_optimization"] = {
        "IPO": [{"setting": "tau", "kl": span(2.0, 0.1), "win_rates": {"held_out": span(0.7, 0.1)}}]
    }
    runs = read_runs([write_run(first, tau=0.5, results=results), write_run(second, tau=0.25, results=other)])
    both = compared(runs, title="two")
    schema.validate(both)
    assert [run.name for run in runs] == ["a/run", "b/run"]
    assert schema.rate(both, "b/run / ipo_md", "baseline")["mean"] == 0.875
    assert schema.rate(both, "baseline", "b/run / ipo_md")["mean"] == 0.125
    assert schema.rate(both, "a/run / ipo_md", "baseline") == results["win_rates"]["ipo_md"]["sft"]
    assert not {"a/run / sft", "a/run / human"} & {*both["players"]}
    assert both["players"]["a/run / online_ipo"]["kl"] == results["players"]["online_ipo"]["kl"]
    trained = both["win_rates_by_judge"]["train"]["a/run / ipo_md"]["baseline"]
    assert trained == results["win_rates_by_judge"]["train"]["ipo_md"]["sft"]
    assert wording.headline(both).startswith("B/run / IPO-MD beats its SFT on the held-out judge: win rate 87.5 %")
    assert "vs its SFT by the training judge (%)" in wording.player_rows(both)[0]
    assert over_optimization_figure(both) is not None


def test_runs_have_colors_and_players_markers(results, tmp_path):
    runs = read_runs([write_run(tmp_path / name, tau=0.5, results=results) for name in ("one", "my_two")])
    both = compared(runs, title="two")
    palette, shapes = figures.colors(both), figures.markers(both, both["players"])
    assert palette["one / ipo_md"] == palette["one / online_ipo"] == palette["one"] != palette["my_two / ipo_md"]
    assert shapes["one / ipo_md"] == shapes["my_two / ipo_md"] != shapes["one / online_ipo"]
    assert set(figures.markers(results, results["players"]).values()) == {"o"}
    groups = learning_curves.curve_groups(both)
    assert list(groups) == ["Sft", "Ipo md"]
    assert [curve[:2] for curve in groups["Sft"]["loss"]] == [(name, palette[name]) for name in ("one", "my_two")]
    assert schema.label(both, "my_two / some_stage") == "my_two / some stage"


def test_the_command_writes_a_report_that_is_made_again(results, tmp_path, capsys):
    places = [write_run(tmp_path / name, tau=tau) for name, tau in (("one", 0.5), ("two", 0.25))]
    to = tmp_path / "both"
    assert main(["compare", *map(str, places), "--to", str(to)]) == 0
    assert "one, two: no tournament has been played." in capsys.readouterr().out
    page = Page((to / "report.html").read_text())
    for text in ("What differs in the configs", "steps.ipo_md.tau", "ipo_md of 0.5", "quickstart:tiny --tau 0.25"):
        assert text in page.text
    for absent in ("Win rates", "Players", "Judges"):
        assert absent not in page.text
    links = {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"}
    assert links <= {attributes.get("id") for _, attributes in page.tags}
    before = (to / "report.html").read_text()
    assert main(["report", str(to)]) == 0
    assert "one, two: no tournament has been played." in capsys.readouterr().out
    assert (to / "report.html").read_text() == before
    places.append(write_run(tmp_path / "three", tau=0.125, results=results))
    assert main(["compare", *map(str, places), "--to", str(to)]) == 0
    page = Page((to / "report.html").read_text())
    assert "three / IPO-MD" in page.text
    assert "Win rate against KL" in page.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["one"], "two runs or more"),
        (["one", "./one"], "given twice"),
        (["one", "nothing"], "not a run folder"),
        (["one", "two", "--to", "one"], "whose report would be lost"),
        (["one", "two", "--to", "study"], "study/report.html is of no comparison and would be lost"),
        (["one", "two", "--to", "other"], "other/results.json is of no comparison and would be lost"),
        (["one", "circle"], "circle"),
    ],
)
def test_what_cannot_be_compared_is_said(words, said, tmp_path, monkeypatch, capsys):
    for name in ("one", "two"):
        write_run(tmp_path / name, tau=0.5)
    for name, text in (("study/report.html", "mine"), ("other/results.json", "{}")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    (tmp_path / "circle").symlink_to("circle")
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *words]) == 2
    assert said in capsys.readouterr().err
    assert (tmp_path / "study" / "report.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("command.json", '{"overrides": 5}', "command.json: overrides is 5; it must be a list"),
        ("ipo_md/samples.jsonl", '{"step": 1, "samples": 3}\n', "samples.jsonl: samples is 3; it must be a list"),
        ("ipo_md/samples.jsonl", '{"step": 1, "samples": ["a"]}\n', 'samples[0] is "a"; it must be an object'),
    ],
)
def test_what_no_run_writes_is_refused(file, text, said, tmp_path, capsys):
    folder = write_run(tmp_path / "run", tau=0.5)
    (folder / file).write_text(text)
    assert main(["watch", str(folder), "--once"]) == 2
    assert said in capsys.readouterr().err


def test_text_that_has_no_bytes_is_written_out(tmp_path):
    places = [write_run(tmp_path / name, tau=0.5) for name in ("one", "tw\udcff")]
    rows = '{"step": 1, "samples": [{"prompt": "shared", "completion 0": "half \\ud83d"}]}\n'
    (places[0] / "ipo_md" / "samples.jsonl").write_text(rows)
    assert main(["watch", str(places[0]), "--once"]) == 0
    assert r"half \ud83d" in (places[0] / "watch.html").read_text()
    to = tmp_path / "both"
    assert main(["compare", *map(str, places), "--to", str(to)]) == 0
    before = (to / "report.html").read_text()
    assert all(words in before for words in (r"half \ud83d", r"tw\udcff"))
    assert main(["report", str(to)]) == 0
    assert (to / "report.html").read_text() == before


def test_differences_are_the_deepest_and_counted():
    configs = {"a": {"x": [1, {"y": 2}], "z": "w", "only": None}, "b": {"x": [1, {"y": 3}], "z": "w"}, "c": {"x": 5}}
    pair = differences({name: configs[name] for name in "ab"})
    assert pair == {"x[1].y": {"a": "2", "b": "3"}, "only": {"a": "null", "b": "\N{EN DASH}"}}
    assert set(differences(configs)) == {"x", "z", "only"}
    many = {name: {str(i): i + shift for i in range(MOST_DIFFERENCES + 7)} for name, shift in (("a", 0), ("b", 1))}
    assert list(differences(many))[-1] == "and 7 more"
    assert differences({"a": configs["a"], "b": configs["a"]}) == {}


def test_a_page_of_a_run_that_goes_on(tmp_path, capsys):
    folder = write_run(tmp_path / "run", tau=0.5, done=("sft",), step=2)
    (run,) = read_runs([folder])
    said = progress(run)
    assert [said[name]["state"] for name in ("sft", "ipo_md", "evaluate")] == ["done", "now", "to come"]
    assert (said["sft"]["step"], said["ipo_md"]["step"], said["evaluate"]["step"]) == ("4 of 4", "2 of 4", "")
    assert said["sft"]["wall clock"] == "2.5 s"
    assert said["ipo_md"]["last logged"].endswith(" s ago")
    assert main(["watch", str(folder), "--once"]) == 0
    page = Page((folder / "watch.html").read_text())
    assert "At work: ipo_md, step 2 of 4." in page.text
    assert "ipo_md of 0.5" in page.text
    assert "sft of 0.5" not in page.text  # only the stage at work
    assert not any("http-equiv" in attributes for _, attributes in page.tags)
    for name in ("ipo_md", "evaluate"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "done.json").write_text((folder / "sft" / "done.json").read_text())
    capsys.readouterr()
    assert main(["watch", str(folder)]) == 0  # and does not go on
    assert "the run is done" in capsys.readouterr().out


def test_a_page_reads_itself_again_until_the_run_is_done(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", tau=0.5, done=("sft", "evaluate"), step=3)
    seen = []

    def later(seconds: float) -> None:
        seen.append((seconds, (folder / "watch.html").read_text()))
        (folder / "ipo_md" / "done.json").write_text((folder / "sft" / "done.json").read_text())

    monkeypatch.setattr("alignjax.cli.watch.time.sleep", later)
    assert main(["watch", str(folder), "--every", "7"]) == 0
    ((seconds, page),) = seen
    assert seconds == 7
    assert '<meta http-equiv="refresh" content="7">' in page
    assert "http-equiv" not in (folder / "watch.html").read_text()


def test_a_single_experiment_is_one_stage(tmp_path):
    folder = tmp_path / "game"
    folder.mkdir()
    record = {"config": {"steps": 2}, "hash": "0", "versions": {}, "git": "0" * 40}
    (folder / "config.json").write_text(json.dumps(record))
    (run,) = read_runs([folder])
    assert (list(run.stages), run.done) == (["training"], False)
    (folder / "metrics.jsonl").write_text('{"step": 2, "loss": 1.0}\n')
    (run,) = read_runs([folder])
    assert run.done
    with pytest.raises(ConfigError, match="not a run folder"):
        read_runs([tmp_path])
