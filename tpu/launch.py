"""Ask for a TPU slice, or several, and train a config on it.

    python tpu/launch.py --name ipo --project my-project --zone us-west4-a --topology v5e-16 --capacity spot \\
        --config configs/ipo_md.py --run-dir gs://my-bucket/runs

What stands after -- goes to `alignjax train`, for example -- --seed 1. With --slices 2 the run is one over two such
slices, and the replica axis of its mesh goes from one to the other. The queue answers when it has the chips; then
every host installs the revision and trains, and after a restart resumes. status.py, logs.py and delete.py do the rest;
the slice costs money until it is deleted.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cloud

from alignjax.cli import parsed
from alignjax.cli.config_file import load
from alignjax.cli.device_memory import mesh_on
from alignjax.config import ConfigError, Experiment
from alignjax.parallel.tpu_topologies import Topology, topology

HERE = Path(__file__).resolve().parent
GONE = ("SUSPENDED", "FAILED")  # a queued resource that will not come back by itself
CAPACITY = "spot (cheapest, may be taken away at any time), on-demand, or reserved"


def main(arguments: Sequence[str] | None = None) -> int:
    flags = cloud.parser("Ask for a TPU slice and train a config on it. Words after -- go to alignjax train.")
    flags.add_argument("--topology", required=True, help="accelerator type: v5e-16, v5p-128, v6e-8, tpu7x-128, ...")
    flags.add_argument("--slices", type=int, default=1, help="how many such slices, joined by the slower network")
    flags.add_argument("--capacity", choices=["spot", "on-demand", "reserved"], help=f"{CAPACITY}; not with --cluster")
    flags.add_argument("--config", required=True, help="CONFIG[:MODE], a path inside the repository")
    flags.add_argument("--run-dir", required=True, help="gs://BUCKET/FOLDER, or a folder that every host has mounted")
    flags.add_argument("--repository", help="what the hosts clone; this checkout's origin if not given")
    flags.add_argument("--revision", help="commit to train; this checkout's if not given")
    flags.add_argument("--wait", help="leave the queue after this long, for example 6h; never if not given")
    flags.add_argument("--service-account", help="whom the hosts act as; it must be able to write the bucket")
    flags.add_argument("--again", action="store_true", help="if the slice was taken away, delete its rest and ask anew")
    flags.add_argument(
        "--image", help="with --cluster: Docker image with Python 3.11 or newer to put the checkout into"
    )
    flags.add_argument("--restarts", type=int, default=100, help="with --cluster: how often Kubernetes starts it again")
    flags.add_argument("overrides", nargs="*", help="after --: flags of alignjax train")
    given = flags.parse_args(arguments)
    place = (cloud.checked_name(given.name), given.project, given.zone)
    slice_ = topology(given.topology, given.slices)
    _check_config(given, slice_)
    if given.cluster:
        return _with_xpk(given, place, slice_)
    return _with_gcloud(given, place, slice_)


def _with_gcloud(given: argparse.Namespace, place: tuple[str, str, str], slice_: Topology) -> int:
    name, only_print = place[0], given.only_print
    if slice_.generation.runtime is None:
        raise ConfigError(
            f"{slice_.name} has no TPU VMs, only GKE has it: make a cluster with xpk, then --cluster NAME"
        )
    if given.capacity is None:
        raise ConfigError(f"say --capacity: {CAPACITY}")
    command = cloud.create_command(
        *place,
        accelerator=slice_.name,
        slices=slice_.slices,
        runtime=slice_.generation.runtime,
        capacity=given.capacity,
        metadata=_told(given, slice_),
        startup=str(HERE / "worker.sh"),
        wait=given.wait,
        service_account=given.service_account,
    )
    if only_print:
        if given.again:
            cloud.run(cloud.delete_command(*place), only_print=True)
        cloud.run(command, only_print=True)
        return 0
    there = cloud.run(cloud.describe_command(*place), only_print=False)
    if there.status == 0:
        state = cloud.state_of(there)
        if state not in GONE:
            raise ConfigError(f"{name} exists already and is {state}: take another --name, or delete.py it first")
        if not given.again:
            raise ConfigError(f"{name} exists and is {state}: its chips are gone; --again asks for new ones")
        cloud.demand(cloud.delete_command(*place), only_print=False)
    elif not there.not_found:
        raise cloud.failure(cloud.describe_command(*place), there)
    cloud.demand(command, only_print=False)
    _say(given, slice_, f"{slice_} is asked for: {slice_.chips} chips on {slice_.hosts} hosts.")
    return 0


def _with_xpk(given: argparse.Namespace, place: tuple[str, str, str], slice_: Topology) -> int:
    if slice_.slices > 1 and slice_.hosts == slice_.slices:
        raise ConfigError(f"GKE joins slices of several hosts each, and {slice_.name} has one: take a larger slice")
    if given.image is None:
        raise ConfigError("--cluster needs --image: a Docker image with Python 3.11 or newer, in a registry")
    if given.run_dir.startswith("gs://"):
        raise ConfigError("with --cluster, --run-dir is a folder that `xpk storage` has mounted, not a gs:// address")
    folder = f"{given.run_dir.rstrip('/')}/{given.name}"
    train = shlex.join(_train(given, slice_, folder))
    command = f'pip install -e . "jax[tpu]" && bash tpu/keep_running.sh {shlex.quote(folder)} {train}'
    words = cloud.xpk_create_command(
        *place,
        cluster=given.cluster,
        accelerator=slice_.name,
        slices=slice_.slices,
        command=command,
        image=given.image,
        restarts=given.restarts,
    )
    cloud.demand(words, only_print=given.only_print)
    if not given.only_print:
        _say(given, slice_, f"the workload is on {given.cluster}.")
    return 0


def _told(given: argparse.Namespace, slice_: Topology) -> dict[str, str]:
    """What worker.sh reads on every host."""
    bucket, _, inside = given.run_dir.removeprefix("gs://").partition("/")
    mounted = given.run_dir.startswith("gs://")
    folder = "/".join(filter(None, ["/mnt/alignjax" if mounted else given.run_dir.rstrip("/"), inside * mounted]))
    folder = f"{folder.rstrip('/')}/{given.name}"
    if not mounted and not given.run_dir.startswith("/"):
        raise ConfigError(f"--run-dir {given.run_dir!r} must be gs://BUCKET/FOLDER or an absolute path on the hosts")
    return {
        "alignjax-repository": given.repository or _git("remote", "get-url", "origin"),
        "alignjax-revision": given.revision or _committed(),
        "alignjax-bucket": bucket if mounted else "",
        "alignjax-run-dir": folder,
        "alignjax-command": shlex.join(_train(given, slice_, folder)),
    }


def _train(given: argparse.Namespace, slice_: Topology, folder: str) -> list[str]:
    """The command of every host; hosts find each other, and slices theirs, through the TPU's own metadata."""
    several = ["--distributed"] if slice_.hosts > 1 else []
    several += ["--slices", str(slice_.slices)] if slice_.slices > 1 else []
    return ["alignjax", "train", given.config, "--run-dir", folder, "--resume", *several, *given.overrides]


def _check_config(given: argparse.Namespace, slice_: Topology) -> None:
    """That the hosts have the config, its overrides mean something, and each of its meshes fills the slices: what a run
    would say after the chips are paid for."""
    path, _, mode = given.config.partition(":")
    if Path(path).is_absolute() or not (HERE.parent / path).is_file():
        raise ConfigError(f"--config {given.config!r}: there is no {path} in the repository, which the hosts clone")
    _, overrides = parsed("train", [given.config, *given.overrides])
    config = load(f"{HERE.parent / path}{mode and ':'}{mode}", overrides).config
    for experiment in [config] if isinstance(config, Experiment) else config.steps.values():
        if isinstance(experiment, Experiment):
            mesh_on(experiment.mesh, slice_)


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"git {' '.join(words)}: {done.stderr.strip()}. Say --repository and --revision")
    return done.stdout.strip()


def _committed() -> str:
    """The commit of this checkout, which must say all there is: the hosts see nothing else."""
    if _git("status", "--porcelain", "--untracked-files=no"):
        raise ConfigError("this checkout has changes that are not committed: the hosts would not have them. Commit and "
                          "push them, or say --revision")  # fmt: skip
    return _git("rev-parse", "HEAD")


def _say(given: argparse.Namespace, slice_: Topology, first: str) -> None:
    where = f"--name {given.name} --project {given.project} --zone {given.zone}"
    where += f" --cluster {given.cluster}" if given.cluster else ""
    print(f"{first} It costs money from when it is there until it is deleted.")
    for program in ("status", "logs", "delete"):
        which = " --slice 0" if program == "logs" and slice_.slices > 1 else ""
        print(f"  python tpu/{program}.py {where}{which}")


if __name__ == "__main__":
    sys.exit(cloud.status_of(main))
