"""The programs of tpu/ against a gcloud and an xpk that write down what they are asked and answer as they are told.

Nothing here has seen Google's cloud: these tests keep the words of the commands, and what is made of the answers."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WHERE = ["--name", "ipo", "--project", "lab", "--zone", "us-west4-a"]
TRAIN = ["--config", "configs/ipo_md.py:tiny", "--run-dir", "gs://bucket/runs"]
REVISION = ["--repository", "https://example.org/alignjax.git", "--revision", "abc123"]
LAUNCH = [*WHERE, *TRAIN, *REVISION, "--topology", "v5e-16", "--capacity", "spot"]
PLACE = ["--project=lab", "--zone=us-west4-a"]
QUEUED = ["gcloud", "compute", "tpus", "queued-resources"]
DESCRIBE = [*QUEUED, "describe", "ipo", *PLACE, "--format=json"]
DELETE = [*QUEUED, "delete", "ipo", *PLACE, "--force", "--quiet"]
CREATE = [
    *QUEUED,
    "create",
    "ipo",
    *PLACE,
    "--node-id=ipo",
    "--accelerator-type=v5litepod-16",
    "--runtime-version=v2-alpha-tpuv5-lite",
    "--spot",
    "--metadata=^|^alignjax-repository=https://example.org/alignjax.git|alignjax-revision=abc123"
    "|alignjax-bucket=bucket|alignjax-run-dir=/mnt/alignjax/runs/ipo"
    "|alignjax-command=alignjax train configs/ipo_md.py:tiny --run-dir /mnt/alignjax/runs/ipo --resume --distributed",
    f"--metadata-from-file=startup-script={ROOT}/tpu/worker.sh",
]
LIST = ["gcloud", "compute", "tpus", "tpu-vm", "list", *PLACE, "--format=json"]
SLICES = [*LAUNCH, "--slices", "2", "--", "--all.mesh.replica", "2"]
MORE = "--distributed --slices 2 --all.mesh.replica 2"  # what the command of a host ends with
ABSENT = (1, "", "ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: Resource 'ipo' was not found")

FAKE = """#!{python} -IS
import json, pathlib, sys
folder = pathlib.Path({folder!r})
words = [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]
with open(folder / "calls", "a") as calls:
    calls.write(json.dumps(words) + "\\n")
answers = json.loads((folder / "answers").read_text())
status, out, error = next((answer for verb, answer in answers.items() if verb in words), (0, "", ""))
print(out, end="")
print(error, end="", file=sys.stderr)
sys.exit(status)
"""


@dataclasses.dataclass(frozen=True)
class Done:
    """What a program left behind; `calls`: the commands that the fakes were given."""

    status: int
    out: str
    error: str
    calls: list[list[str]]


Call = Callable[..., Done]


def state(name: str) -> tuple[int, str, str]:
    return (0, json.dumps({"name": "projects/lab/locations/z/queuedResources/ipo", "state": {"state": name}}), "")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """call(program, words, answers={verb: (status, out, error)}, tools=False: none is installed) -> Done."""
    tools, bare = tmp_path / "tools", tmp_path / "bare"
    for folder in (tools, bare):
        folder.mkdir()
        (folder / "git").symlink_to(shutil.which("git") or "/usr/bin/git")
    for name in ("gcloud", "xpk", "kubectl"):
        (tools / name).write_text(FAKE.format(python=sys.executable, folder=str(tmp_path)))
        (tools / name).chmod(0o755)
    monkeypatch.syspath_prepend(str(ROOT / "tpu"))
    cloud = importlib.import_module("cloud")

    def run(program: str, words: list[str], answers: dict[str, Any] | None = None, *, installed: bool = True) -> Done:
        (tmp_path / "answers").write_text(json.dumps(answers or {}))
        (tmp_path / "calls").write_text("")
        monkeypatch.setenv("PATH", str(tools if installed else bare))
        capfd.readouterr()
        try:
            status = cloud.status_of(importlib.import_module(program).main, words)
        except SystemExit as leaving:  # argparse's own
            status = leaving.code
        said = capfd.readouterr()
        calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
        return Done(status, said.out, said.err, calls)

    return run


def test_launch_asks_for_the_slice(call: Call) -> None:
    done = call("launch", LAUNCH, {"describe": ABSENT})
    assert done.status == 0, done.error
    assert done.calls == [DESCRIBE, CREATE]
    assert "16 chips on 4 hosts. It costs money from when it is there until it is deleted" in done.out
    assert "python tpu/delete.py --name ipo --project lab --zone us-west4-a" in done.out


def test_launch_hands_on_capacity_waiting_account_and_overrides(call: Call) -> None:
    words = [*LAUNCH[:-1], "reserved", "--topology", "v5p-8", "--wait", "6h", "--service-account", "me@lab"]
    done = call(
        "launch", [*words, "--run-dir", "/mnt/disk", "--", "--seed", "3", "--report.title", "a b"], {"describe": ABSENT}
    )
    made = done.calls[1]
    assert {"--reserved", "--valid-until-duration=6h", "--service-account=me@lab"} <= set(made)
    assert {"--accelerator-type=v5p-8", "--runtime-version=v2-alpha-tpuv5"} <= set(made)
    told = dict(pair.split("=", 1) for pair in next(w for w in made if w.startswith("--metadata="))[14:].split("|"))
    assert told["alignjax-bucket"] == ""
    assert told["alignjax-run-dir"] == "/mnt/disk/ipo"
    # One host needs no --distributed; the words survive the shell that splits them again on the host.
    command = ["alignjax", "train", "configs/ipo_md.py:tiny", "--run-dir", "/mnt/disk/ipo", "--resume"]
    assert shlex.split(told["alignjax-command"]) == [*command, "--seed", "3", "--report.title", "a b"]


@pytest.mark.parametrize("program", ["launch", "status", "logs", "delete"])
def test_print_shows_the_command_and_runs_nothing(program: str, call: Call) -> None:
    words = LAUNCH if program == "launch" else WHERE
    done = call(program, [*words, "--print"], installed=False)  # not even gcloud need be there
    assert done.status == 0, done.error
    tail = "--command=tail -n 100 /var/log/alignjax.log"
    logs = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "ipo", *PLACE, "--worker=0", tail]
    wanted = {"launch": [CREATE], "status": [DESCRIBE, LIST], "logs": [logs], "delete": [DELETE]}[program]
    said = [shlex.split(line, comments=True) for line in done.out.splitlines()]
    assert [words for words in said if words] == wanted


@pytest.mark.parametrize("program", ["launch", "status", "logs", "delete"])
def test_without_gcloud_there_is_one_message(program: str, call: Call) -> None:
    done = call(program, LAUNCH if program == "launch" else WHERE, installed=False)
    assert done.status == 2
    assert "error: gcloud is not installed. https://cloud.google.com/sdk/docs/install" in done.error


def test_launch_over_a_living_slice_is_refused(call: Call) -> None:
    done = call("launch", LAUNCH, {"describe": state("ACTIVE")})
    assert (done.status, done.calls) == (2, [DESCRIBE])
    assert "ipo exists already and is ACTIVE: take another --name, or delete.py it first" in done.error


def test_what_was_taken_away_is_asked_for_again(call: Call) -> None:
    done = call("launch", LAUNCH, {"describe": state("SUSPENDED")})
    assert (done.status, done.calls) == (2, [DESCRIBE])
    assert "its chips are gone; --again asks for new ones" in done.error
    done = call("launch", [*LAUNCH, "--again"], {"describe": state("SUSPENDED")})
    assert (done.status, done.calls) == (0, [DESCRIBE, DELETE, CREATE])


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("ERROR: RESOURCE_EXHAUSTED: Quota limit 'TPUV5sPreemptibleLitepod' has been exceeded", "iam-admin/quotas"),
        ("ERROR: PERMISSION_DENIED: The caller does not have permission", "needs the role TPU Admin"),
        ("ERROR: Reauthentication failed. Please run: gcloud auth login", "log in: gcloud auth login"),
        ("ERROR: ALREADY_EXISTS: Resource already exists", "a slice of this name exists"),
        ("ERROR: something new", ""),
    ],
)
def test_errors_of_gcloud_are_shown_with_what_to_do(error: str, advice: str, call: Call) -> None:
    done = call("launch", LAUNCH, {"describe": ABSENT, "create": (1, "", error)})
    assert done.status == 2
    assert error in done.error
    assert advice in done.error
    if "PERMISSION" in error:  # also where the first question fails: nothing is made then
        done = call("launch", LAUNCH, {"describe": (1, "", error)})
        assert (done.status, done.calls) == (2, [DESCRIBE])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--topology", "v5e-17"], "there is no TPU slice 'v5e-17': v5litepod comes with 1, 4, 8, 16"),
        (["--topology", "tpu7x-128"], "tpu7x-128 has no TPU VMs, only GKE has it: make a cluster with xpk"),
        (["--config", "configs/nothing.py"], "there is no configs/nothing.py in the repository"),
        (["--run-dir", "runs"], "must be gs://BUCKET/FOLDER or an absolute path"),
        (["--name", "My_Run"], "small letters, digits and dashes"),
        (["--", "--report.title", "a|b"], "may not contain '|'"),
        (["--", "--ipo_md.stpes", "3"], "ipo_md.stpes"),
        (["--", "--all.mesh.fsdp", "6"], "needs 6 devices; there are 16 on v5litepod-16: for example --mesh.replica 1"),
        (["--slices", "2"], "replica, the axis that crosses the slow network between them, must be 2 or a multiple"),
        (["--slices", "2", "--", "--all.mesh.replica", "2", "--all.mesh.fsdp", "8"], "are 32 on 2 x v5litepod-16"),
        (["--slices", "0"], "--slices 0: at least 1"),
        (
            ["--slices", "2", "--topology", "v5e-8", "--cluster", "c", "--", "--all.mesh.replica", "2"],
            "v5litepod-8 has one: take a larger slice",
        ),
    ],
)
def test_mistakes_are_said_before_gcloud_is_asked(change: list[str], message: str, call: Call) -> None:
    done = call("launch", [*LAUNCH, *change])
    assert (done.status, done.calls) == (2, [])
    assert message in done.error


@pytest.mark.parametrize("flag", ["--project", "--zone", "--name", "--topology", "--config", "--run-dir", "--capacity"])
def test_nothing_that_costs_money_has_a_default(flag: str, call: Call) -> None:
    at = LAUNCH.index(flag)
    done = call("launch", [*LAUNCH[:at], *LAUNCH[at + 2 :]])
    assert (done.status, done.calls) == (2, [])
    assert flag in done.error


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (state("WAITING_FOR_RESOURCES"), 0, "it stands in the queue and costs nothing yet"),
        (state("ACTIVE"), 0, "ipo: ACTIVE: the chips are there and cost money"),
        (state("SUSPENDED"), 1, "The run folder is safe: the same launch.py with --again"),
        (state("ODD"), 0, "ODD: a state that this program does not know"),
        (ABSENT, 3, "there is no such slice in us-west4-a of lab"),
        ((0, "{}", ""), 2, "in words that are not known"),
        ((1, "", "ERROR: PERMISSION_DENIED"), 2, "needs the role TPU Admin"),
    ],
)
def test_status_says_what_a_state_means(answer: tuple[int, str, str], status: int, message: str, call: Call) -> None:
    done = call("status", WHERE, {"describe": answer})
    assert (done.status, done.calls) == (status, [DESCRIBE])
    assert message in done.out + done.error


def test_two_slices_are_one_request_and_one_run(call: Call) -> None:
    """One request for two nodes, whose hosts all run one command; the rest goes by the name of the request."""
    done = call("launch", SLICES, {"describe": ABSENT})
    assert done.status == 0, done.error
    place = CREATE.index("--node-id=ipo")
    create = [*CREATE[:place], "--node-count=2", "--node-prefix=ipo", *CREATE[place + 1 :]]
    assert done.calls == [DESCRIBE, [word.replace("--distributed", MORE) for word in create]]
    assert "2 x v5litepod-16 is asked for: 32 chips on 8 hosts" in done.out
    assert "tpu/logs.py --name ipo --project lab --zone us-west4-a --slice 0" in done.out
    printed = call("launch", [*SLICES[:-3], "--print", *SLICES[-3:]], installed=False).out
    assert shlex.split(printed) == done.calls[1]
    # Slices of one host each are several hosts all the same.
    one = call("launch", [*SLICES[:-3], "--topology", "v5e-4", *SLICES[-3:]], {"describe": ABSENT})
    assert any(f"--resume {MORE}" in word for word in one.calls[1])


def test_each_of_several_slices_has_a_state_and_logs(call: Call) -> None:
    spec = {"nodeSpec": [{"multisliceParams": {"nodeCount": 2, "nodeIdPrefix": "ipo"}}]}
    described = (0, json.dumps({**json.loads(state("ACTIVE")[1]), "tpu": spec}), "")
    place = "projects/lab/locations/us-west4-a"
    nodes = [
        {"name": f"{place}/nodes/{name}", "state": state, "queuedResource": f"{place}/queuedResources/{of}"}
        for name, state, of in (("ipo-1", "PREEMPTED", "ipo"), ("other", "READY", "other"), ("ipo-0", "READY", "ipo"))
    ]
    nodes.append({"name": f"{place}/nodes/alone", "state": "READY"})  # asked for without a queue
    done = call("status", WHERE, {"describe": described, "list": (0, json.dumps(nodes), "")})
    assert (done.status, done.calls) == (0, [DESCRIBE, LIST])
    assert done.out.splitlines()[1:] == ["2 of 2 slices are there", "  ipo-0: READY", "  ipo-1: PREEMPTED"]
    done = call("status", WHERE, {"describe": described, "list": (0, '[{"queuedResource": "a/ipo"}]', "")})
    assert (done.status, "in words that are not known" in done.error) == (2, True)
    done = call("logs", [*WHERE, "--slice", "1", "--worker", "3"])
    assert done.calls[0][4:9] == ["ssh", "ipo-1", *PLACE, "--worker=3"]


def test_logs_of_all_hosts_as_they_come(call: Call) -> None:
    done = call("logs", [*WHERE, "--worker", "all", "--follow", "--lines", "5"], {"ssh": (0, "step 3\n", "")})
    assert done.out == "step 3\n"
    assert done.calls[0][-2:] == ["--worker=all", "--command=tail -n 5 -F /var/log/alignjax.log"]
    done = call("logs", WHERE, {"ssh": (255, "", "ERROR: no such node")})
    assert done.status == 2
    assert "a slice has some once it is ACTIVE" in done.error


def test_deleting_twice_is_no_error(call: Call) -> None:
    done = call("delete", WHERE)
    assert (done.status, done.calls, done.out) == (0, [DELETE], "ipo is deleted\n")
    done = call("delete", WHERE, {"delete": ABSENT})
    assert (done.status, done.out) == (0, "ipo: there is nothing to delete\n")
    done = call("delete", WHERE, {"delete": (1, "", "ERROR: PERMISSION_DENIED")})
    assert done.status == 2


def test_xpk_runs_the_same_on_a_cluster(call: Call) -> None:
    words = [*LAUNCH, "--topology", "v7x-128", "--cluster", "mine", "--image", "python:3.12", "--run-dir", "/mnt/disk"]
    done = call("launch", words)
    assert done.status == 0, done.error
    on = ["--cluster=mine", *PLACE]
    train = "alignjax train configs/ipo_md.py:tiny --run-dir /mnt/disk/ipo --resume --distributed"
    command = f'--command=pip install -e . "jax[tpu]" && bash tpu/keep_running.sh /mnt/disk/ipo {train}'
    create = ["xpk", "workload", "create", *on, "--workload=ipo", "--tpu-type=tpu7x-128", "--num-slices=1"]
    assert done.calls == [[*create, "--base-docker-image=python:3.12", "--max-restarts=100", command]]
    where = [*WHERE, "--cluster", "mine"]
    assert call("status", where).calls == [["xpk", "workload", "list", *on, "--filter-by-job=ipo"]]
    assert call("delete", where).calls == [["xpk", "workload", "delete", *on, "--workload=ipo", "--force"]]
    label = "--selector=jobset.sigs.k8s.io/jobset-name=ipo"
    assert call("logs", where).calls == [["kubectl", "logs", label, "--tail=100", "--prefix"]]
    done = call("launch", [*words, "--run-dir", "gs://bucket"])
    assert (done.status, done.calls) == (2, [])
    done = call("launch", [*words, "--slices", "2", "--", "--all.mesh.replica", "4", "--all.mesh.tensor", "2"])
    assert "--num-slices=2" in done.calls[0]
    assert done.calls[0][-1].endswith(f"--resume {MORE.replace('replica 2', 'replica 4')} --all.mesh.tensor 2")
    done = call("logs", [*where, "--slice", "1", "--follow"])
    label = f"{label},jobset.sigs.k8s.io/job-index=1"
    assert done.calls == [["kubectl", "logs", label, "--tail=100", "--prefix", "--follow", "--max-log-requests=4096"]]


@pytest.mark.slow
def test_a_program_is_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "tpu/launch.py", *LAUNCH, "--print"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, shlex.split(done.stdout)) == (0, CREATE), done.stderr
