"""What the programs beside this file share: the commands of gcloud and xpk as lists of words, and one way to run them.

A command is made by a pure function, printed in full before it is run, and with --print not run at all. Google's own
messages are shown as they are; where one is known, what to do about it is said below.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from alignjax.config import ConfigError

LOG_FILE = "/var/log/alignjax.log"  # of every host, written by worker.sh
INSTALL = {
    "gcloud": "https://cloud.google.com/sdk/docs/install",
    "xpk": "pip install xpk; it also needs gcloud, kubectl and Docker: https://github.com/AI-Hypercomputer/xpk",
    "kubectl": "gcloud components install kubectl",
}
# Parts of Google's messages -> what to do. The first that is found counts.
ADVICE = (
    (("quota", "RESOURCE_EXHAUSTED"), "the project's quota does not allow this slice in this zone: ask for more at "
     "https://console.cloud.google.com/iam-admin/quotas (service Cloud TPU API), or take a smaller slice"),
    (("ALREADY_EXISTS", "already exists"), "a slice of this name exists: status.py shows it, delete.py removes it"),
    (("Reauthentication", "auth login", "UNAUTHENTICATED"), "log in: gcloud auth login"),
    (("PERMISSION_DENIED", "403"), "this account may not do that: it needs the role TPU Admin in the project, which "
     "needs the Cloud TPU API: gcloud services enable tpu.googleapis.com"),
    (("Invalid choice", "does not have zone", "INVALID_ARGUMENT"), "the zone may not have this kind of slice: "
     "https://docs.cloud.google.com/tpu/docs/regions-zones lists what is where"),
)  # fmt: skip


class Failed(ConfigError):
    """A command of gcloud or xpk failed; the message says how, and what to do where that is known."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command said."""

    status: int
    out: str
    error: str

    @property
    def not_found(self) -> bool:
        return self.status != 0 and re.search(r"NOT_FOUND|not found|does not exist", self.error) is not None


def parser(about: str) -> argparse.ArgumentParser:
    """The flags that every program has. There is no default for the project and the zone: where a slice is made is
    where it is paid for."""
    made = argparse.ArgumentParser(description=about, allow_abbrev=False)
    made.add_argument("--name", required=True, help="of the request or workload, its slices, and the run folder")
    made.add_argument("--project", required=True, help="Google Cloud project that pays")
    made.add_argument("--zone", required=True, help="for example us-west4-a")
    made.add_argument("--cluster", help="GKE cluster made with `xpk cluster create`: use xpk instead of TPU VMs")
    made.add_argument("--print", action="store_true", dest="only_print", help="print the commands; run nothing")
    return made


def checked_name(name: str) -> str:
    """Google's rule for names; ConfigError for another."""
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", name):
        raise ConfigError(f"--name {name!r}: small letters, digits and dashes, beginning with a letter, 40 at most")
    return name


def run(command: Sequence[str], *, only_print: bool, live: bool = False) -> Answer:
    """Print a command and, unless only_print, run it. live: its output goes straight to the terminal.

    Raises Failed where the program is not installed.
    """
    print(shlex.join(command), file=sys.stdout if only_print else sys.stderr, flush=True)
    if only_print:
        return Answer(0, "", "")
    program = command[0]
    if shutil.which(program) is None:
        raise Failed(f"{program} is not installed. {INSTALL[program]}")
    streams: Any = None if live else subprocess.PIPE
    done = subprocess.run(command, stdout=streams, stderr=streams, text=True, check=False)
    return Answer(done.returncode, done.stdout or "", done.stderr or "")


def demand(command: Sequence[str], *, only_print: bool) -> Answer:
    """`run`, where a failure is the end: raises Failed with what the command said and what to do about it."""
    answer = run(command, only_print=only_print)
    if answer.status:
        raise failure(command, answer)
    return answer


def failure(command: Sequence[str], answer: Answer) -> Failed:
    said = (answer.error or answer.out).strip() or f"status {answer.status} and no message"
    advice = next((advice for marks, advice in ADVICE if any(mark in said for mark in marks)), None)
    return Failed(f"{' '.join(command[:4])} failed:\n{said}" + (f"\n{advice}" if advice else ""))


def status_of(program: Callable[[Sequence[str] | None], int], arguments: Sequence[str] | None = None) -> int:
    """The exit status of a program; 2 and a message for what the user can mend."""
    try:
        return program(arguments)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _queued(verb: str, name: str, project: str, zone: str) -> list[str]:
    words = ["gcloud", "compute", "tpus", "queued-resources", verb, name]
    return [*words, f"--project={project}", f"--zone={zone}"]


def node_name(name: str, slice_number: int | None) -> str:
    """What a slice's TPU VMs are called: as the request, where it is for one slice (None), else with a number."""
    return name if slice_number is None else f"{name}-{slice_number}"


def create_command(
    name: str, project: str, zone: str, *, accelerator: str, slices: int, runtime: str, capacity: str,
    metadata: dict[str, str], startup: str, wait: str | None, service_account: str | None,
) -> list[str]:  # fmt: skip
    """slices: how many of `accelerator`; capacity: "spot", "on-demand" or "reserved"; metadata: what the hosts read;
    startup: the file of the script that every host runs at every boot; wait: how long to stand in the queue, "6h"."""
    nodes = [f"--node-id={name}"] if slices == 1 else [f"--node-count={slices}", f"--node-prefix={name}"]
    words = [*_queued("create", name, project, zone), *nodes, f"--accelerator-type={accelerator}"]
    words += [f"--runtime-version={runtime}"]
    words += {"spot": ["--spot"], "on-demand": [], "reserved": ["--reserved"]}[capacity]
    words += [f"--valid-until-duration={wait}"] if wait else []
    words += [f"--service-account={service_account}"] if service_account else []
    # gcloud splits at commas unless told another sign; values may hold commas, and none may hold this one.
    wrong = [key for key, value in metadata.items() if "|" in value]
    if wrong:
        raise ConfigError(f"{wrong[0]} may not contain '|': {metadata[wrong[0]]!r}")
    words += ["--metadata=^|^" + "|".join(f"{key}={value}" for key, value in metadata.items())]
    return [*words, f"--metadata-from-file=startup-script={startup}"]


def describe_command(name: str, project: str, zone: str) -> list[str]:
    return [*_queued("describe", name, project, zone), "--format=json"]


def delete_command(name: str, project: str, zone: str) -> list[str]:
    """--force: together with the slices it holds, if any; --quiet: without a question."""
    return [*_queued("delete", name, project, zone), "--force", "--quiet"]


def nodes_command(project: str, zone: str) -> list[str]:
    """All TPU VMs of the zone, of which `nodes_of` finds those of a request."""
    return ["gcloud", "compute", "tpus", "tpu-vm", "list", f"--project={project}", f"--zone={zone}", "--format=json"]


def logs_command(node: str, project: str, zone: str, *, worker: str, lines: int, follow: bool) -> list[str]:
    tail = f"tail -n {lines} {'-F ' if follow else ''}{LOG_FILE}"
    words = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", node, f"--project={project}", f"--zone={zone}"]
    return [*words, f"--worker={worker}", f"--command={tail}"]


def _xpk(verb: str, name: str, project: str, zone: str, cluster: str) -> list[str]:
    words = ["xpk", "workload", verb, f"--cluster={cluster}", f"--project={project}", f"--zone={zone}"]
    return [*words, f"--filter-by-job={name}" if verb == "list" else f"--workload={name}"]


def xpk_create_command(
    name: str, project: str, zone: str, *, cluster: str, accelerator: str, slices: int, command: str, image: str,
    restarts: int,
) -> list[str]:  # fmt: skip
    """A workload on a cluster that exists: the checkout is put into `image`, and `command` runs in it on each host."""
    words = [*_xpk("create", name, project, zone, cluster), f"--tpu-type={accelerator}", f"--num-slices={slices}"]
    return [*words, f"--base-docker-image={image}", f"--max-restarts={restarts}", f"--command={command}"]


def xpk_list_command(name: str, project: str, zone: str, cluster: str) -> list[str]:
    return _xpk("list", name, project, zone, cluster)


def xpk_delete_command(name: str, project: str, zone: str, cluster: str) -> list[str]:
    return [*_xpk("delete", name, project, zone, cluster), "--force"]


def xpk_logs_command(name: str, *, slice_number: int | None, lines: int, follow: bool) -> list[str]:
    """Through kubectl, whose context `xpk` has set to the cluster. Kubernetes' JobSet labels the pods: a slice is one
    of its jobs. Kubectl follows five pods and no more, unless told another number."""
    selector = f"jobset.sigs.k8s.io/jobset-name={name}"
    selector += "" if slice_number is None else f",jobset.sigs.k8s.io/job-index={slice_number}"
    words = ["kubectl", "logs", f"--selector={selector}", f"--tail={lines}", "--prefix"]
    return [*words, "--follow", "--max-log-requests=4096"] if follow else words


def state_of(answer: Answer) -> str:
    """ "ACTIVE", "SUSPENDED", ...: of the JSON that `describe_command` answers with."""
    try:
        return json.loads(answer.out)["state"]["state"]
    except (ValueError, KeyError, TypeError):
        raise _unknown("described the queued resource", answer) from None


def slices_of(answer: Answer) -> int:
    """How many slices the request that `describe_command` answers with is for."""
    try:
        (spec,) = json.loads(answer.out).get("tpu", {}).get("nodeSpec", [{}])
        several = spec.get("multisliceParams") or spec.get("multiNodeParams") or {}  # API v2 and v2alpha1
        return int(several.get("nodeCount", 1))
    except (ValueError, AttributeError, TypeError):
        raise _unknown("described the queued resource", answer) from None


def nodes_of(name: str, answer: Answer) -> dict[str, str]:
    """{TPU VM: its state ("READY", "PREEMPTED", ...)} of a request, from what `nodes_command` answers with."""
    try:
        nodes = [node for node in json.loads(answer.out) if _last(node.get("queuedResource", "")) == name]
        return {_last(node["name"]): node["state"] for node in sorted(nodes, key=lambda node: node["name"])}
    except (ValueError, KeyError, AttributeError, TypeError):
        raise _unknown("listed the TPU VMs", answer) from None


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _unknown(did: str, answer: Answer) -> Failed:
    return Failed(f"gcloud {did} in words that are not known: {answer.out[:200]!r}")
