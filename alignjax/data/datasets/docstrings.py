"""The data that needs no download: docstrings of the Python packages installed on this machine.

The body of a docstring is the post, its PEP 257 summary line the human-written TL;DR: the summarization task of the
online-preference papers (arXiv:2403.08635, section 5) on any machine. Files are parsed, never imported.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from alignjax.config import ConfigError, check_ranges
from alignjax.data.datasets.records import Record, is_aside
from alignjax.data.prepared import Dataset, Report
from alignjax.data.text.words import nfc
from alignjax.ranges import Fraction, Natural, Share, Within

SKIPPED_FOLDERS = frozenset(("test", "tests", "testing", "idle_test", "_vendor", "vendor", "__pycache__"))
SKIPPED_PACKAGES = frozenset(("site-packages", "dist-packages", "alignjax", "lib2to3"))
SAMPLED = 500  # files; of more a look reads a share
PATTERN_LIMIT = 8  # pairs of one package that may differ in names only
# The rules that choose pairs, here and in extract_docstrings.py: pairs chosen by other rules are other data. Replace
# one of these whenever a rule changes, so that old prepared files are left alone; a test notices that they changed.
# They are what the hashes of the two files were, so that data prepared by earlier versions is still recognized.
RULES = (
    "0c5d82ba70eedcc497da74bc7a34c1b04dbe51a75815a2141269453681ed9664",
    "bf005287719db6106b5633b40d1feb638424a62a77864054e51f7cd675b5f2cd",
    "texts are compared in normal form C",
)
_NAMES = re.compile(r"[`'\"].*?[`'\"]|\w*[_.\d]\w*|\b\w*[a-z][A-Z]\w*")
_WORKER = Path(__file__).with_name("extract_docstrings.py")

File = tuple[str, str, str]  # package, path, path relative to its root
Pair = Sequence[str]  # package, file, signature, summary, body


@dataclasses.dataclass(frozen=True, kw_only=True)
class Docstrings(Dataset):
    """Docstrings of the standard library and of every installed package; summary line as completion, body as prompt.

    Args:
        test_fraction: Share of *packages* whose docstrings are the test split (a hash of the package's name decides, so
            that a package is on the same side everywhere).
        dev_fraction: Share of packages whose docstrings are the split "dev", for choosing hyper-parameters; they are
            taken from the train split.
        max_share: The share of all pairs that no package exceeds.
        signature: Whether the post starts with the signature.
        roots: Folders to read instead of this environment's.
        workers: Processes that parse; 0 for one per core.

    Raises:
        ConfigError: A share is out of its range.
    """

    test_fraction: Within = 0.1
    dev_fraction: Fraction = 0.0
    max_share: Share = 0.12
    signature: bool = True
    roots: tuple[str, ...] = ()
    workers: Natural = dataclasses.field(default=0, compare=False)
    suffix: str = "\nTL;DR:"

    name: ClassVar[str] = "docstrings"
    schema: ClassVar[str] = "instructions"
    splits: ClassVar[tuple[str, ...]] = ("train", "dev", "test")

    def __post_init__(self) -> None:
        check_ranges(self)
        object.__setattr__(self, "roots", tuple(str(root) for root in self.roots))
        if not 0 <= self.dev_fraction < 1 - self.test_fraction:
            raise ConfigError("Docstrings needs 0 <= dev_fraction < 1 - test_fraction")

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-able settings without what changes nothing in what is written: `workers`, and no dev split."""
        left_out = {"workers"} | (set() if self.dev_fraction else {"dev_fraction"})
        return {key: value for key, value in super().settings.items() if key not in left_out}

    def fingerprint(self) -> str:
        """Returns a hash of the installed packages, or of the files in `roots`, and of the rules."""
        return _fingerprint(self.roots)

    def collect(self, report: Report) -> tuple[dict[str, list[Record]], dict[str, Any]]:
        """Parses all files and splits the pairs by package. The result depends on the files alone."""
        files = list_files(self.roots or environment_roots())
        report(f"docstrings: parsing {len(files):,} files of {len({file[0] for file in files})} packages")
        pairs, failed = extract(files, self.workers or os.cpu_count() or 1)
        chosen, left_out = select(pairs, self.max_share)
        names = ("train", "dev", "test") if self.dev_fraction else ("train", "test")
        splits: dict[str, list[Record]] = {name: [] for name in names}
        packages: dict[str, set[str]] = {name: set() for name in names}
        for package, where, signature, summary, body in chosen:
            split = "test" if in_test(package, self.test_fraction) else "train"
            if split == "train" and in_dev(package, self.dev_fraction / (1 - self.test_fraction)):
                split = "dev"
            splits[split].append(self._record(package, where, signature, summary, body))
            packages[split].add(package)
        parts = (f"{len(splits[split]):,} {split} from {len(names)}" for split, names in packages.items())
        return splits, {
            "sentence": f"{len(chosen):,} pairs from {sum(map(len, packages.values()))} packages ({', '.join(parts)})",
            "packages": {split: sorted(names) for split, names in packages.items()},
            "largest_packages": dict(collections.Counter(pair[0] for pair in chosen).most_common(10)),
            "parsed_files": len(files),
            "unparsed_files": failed,
            **left_out,
        }

    def sample(self, report: Report) -> tuple[list[Record], str] | None:
        """Returns the pairs of an even share of the files, where there are more than SAMPLED of them."""
        files = list_files(self.roots or environment_roots())
        share = -(-len(files) // SAMPLED)
        if share <= 1:
            return None
        chosen, _ = select(extract(files[::share], self.workers or os.cpu_count() or 1)[0], self.max_share)
        many = f"{len(files):,} files of {len({file[0] for file in files}):,} packages"
        return [self._record(*pair) for pair in chosen], f"{len(chosen):,} pairs from 1 in {share} of {many}"

    def _record(self, package: str, where: str, signature: str, summary: str, body: str) -> Record:
        post = f"{signature}\n{body}" if self.signature else body
        return Record(post, (summary,), meta={"package": package, "file": where})


def environment_roots() -> tuple[str, ...]:
    """Returns the standard library and the site-packages folders of this interpreter."""
    paths = sysconfig.get_paths()
    sites = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    return tuple(dict.fromkeys([paths["stdlib"], paths["purelib"], paths["platlib"], *sites]))


def package_name(where: str) -> str:
    """Returns the package that a file belongs to: its first folder or its own name. `_pytest` and `pytest` are one
    package."""
    first = where.split("/", 1)[0].removesuffix(".py")
    return first.lstrip("_") or first


def in_test(package: str, fraction: float) -> bool:
    """Says whether a package is in the test split: a pure function of its name.

    Args:
        package: The name of the package.
        fraction: The share of all packages that the test split gets, in [0, 1].
    """
    return is_aside(f"alignjax{package}", fraction)


def in_dev(package: str, fraction: float) -> bool:
    """Says whether a package that is not in the test split is in the dev split: a pure function of its name.

    Args:
        package: The name of the package.
        fraction: The share of these packages that the dev split gets, in [0, 1].
    """
    return is_aside(f"alignjax dev {package}", fraction)


def list_files(roots: Iterable[str]) -> list[File]:
    """Returns all Python files but tests and vendored copies, sorted by their path relative to a root.

    Args:
        roots: Folders; of files with the same relative path, the first one counts.

    Raises:
        ConfigError: A root is not a folder.
    """
    files: dict[str, File] = {}
    for root in roots:
        if not Path(root).is_dir():
            raise ConfigError(f"Docstrings.roots names {root}, which is not a folder")
        for folder, inside, names in os.walk(root):
            where = Path(folder).relative_to(root).as_posix()
            skip = SKIPPED_FOLDERS | SKIPPED_PACKAGES if where == "." else SKIPPED_FOLDERS
            inside[:] = [name for name in inside if name not in skip and not name.endswith(("-info", ".libs"))]
            for name in names:
                if name.endswith(".py") and not name.endswith("_test.py") and not name.startswith("test_"):
                    relative = name if where == "." else f"{where}/{name}"
                    files.setdefault(relative, (package_name(relative), f"{folder}/{name}", relative))
    return [files[relative] for relative in sorted(files)]


def extract(files: Sequence[File], workers: int) -> tuple[list[list[str]], int]:
    """Parses files in processes of their own.

    The processes run a script that knows only the standard library: no start-up cost of ours, nothing inherited from a
    parent that holds a device, no guard needed in the caller's main module.

    Args:
        files: The files; the order of the result is theirs.
        workers: The most processes to start.

    Returns:
        ([package, file, signature, summary, body] of every good docstring, the number of files that did not parse).

    Raises:
        RuntimeError: A process died.
    """
    # The largest files first, in turns, so that all end at about the same time.
    workers = max(1, min(workers, len(files) // 50 + 1))
    by_size = sorted(files, key=lambda file: os.path.getsize(file[1]), reverse=True)
    with ThreadPoolExecutor(workers) as threads:
        answers = list(threads.map(_parse, (by_size[number::workers] for number in range(workers))))
    pairs = [pair for answer in answers for pair in answer["pairs"]]
    pairs.sort(key=lambda pair: pair[1])  # stable: within a file the order stays that of the file
    return pairs, sum(answer["failed"] for answer in answers)


def _parse(files: Sequence[File]) -> dict[str, Any]:
    """What a worker answers about a list of files."""
    command = [sys.executable, "-I", "-X", "utf8", str(_WORKER)]
    done = subprocess.run(command, input=json.dumps(files).encode(), stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise RuntimeError(f"a docstring worker ended with exit code {done.returncode}; see its error above")
    return json.loads(done.stdout)


def select(pairs: Iterable[Pair], max_share: float) -> tuple[list[Pair], dict[str, int]]:
    """Chooses pairs: without repeated texts (a body or a summary that came before), without what generators wrote (more
    than PATTERN_LIMIT pairs of a package that differ in names only) and with no package above its share.

    Args:
        pairs: All pairs.
        max_share: The share of the pairs that no package exceeds; a hash of their text decides which ones stay.

    Returns:
        (the pairs that stay, in order, the number of those that were left out by reason).
    """
    # Repetitions go before shares, or a package of copies would fill its share with them; a hash picks what stays of a
    # package, so that a choice depends on the texts and not on the order in which packages were read.
    seen: set[str] = set()
    patterns: collections.Counter[tuple[str, ...]] = collections.Counter()
    unique: list[Pair] = []
    counts = {"repeated": 0, "generated": 0}
    for pair in pairs:
        marks = {f"{kind}:{' '.join(nfc(text).lower().split())}" for kind, text in zip("sb", pair[3:5], strict=True)}
        pattern = _pattern(pair)
        patterns[pattern] += 1
        if marks & seen:
            counts["repeated"] += 1
        elif patterns[pattern] > PATTERN_LIMIT:
            counts["generated"] += 1
        else:
            unique.append(pair)
        seen |= marks
    limit = max(1, int(max_share * len(unique)))
    packages: dict[str, list[int]] = collections.defaultdict(list)
    for number, pair in enumerate(unique):
        packages[pair[0]].append(number)
    for package, numbers in packages.items():
        if len(numbers) > limit:
            digest = {n: hashlib.sha256("\n".join(unique[n]).encode()).digest() for n in numbers}
            packages[package] = sorted(numbers, key=digest.__getitem__)[:limit]
    chosen = sorted(number for numbers in packages.values() for number in numbers)
    return [unique[number] for number in chosen], {**counts, "over_share": len(unique) - len(chosen)}


def _pattern(pair: Pair) -> tuple[str, ...]:
    """What is left of a pair without its names: package, how the summary begins, how the body begins."""
    return pair[0], *pair[3].split()[:3], _NAMES.sub("#", pair[4][:200])[:80]


@lru_cache(maxsize=8)
def _fingerprint(roots: tuple[str, ...]) -> str:
    """Names and versions of what is installed; for folders named in the settings, their files, sizes and times."""
    if roots:
        stats = [(where, os.stat(path)) for _, path, where in list_files(roots)]
        made_from: list[Any] = [(where, stat.st_size, stat.st_mtime_ns) for where, stat in stats]
    else:
        installed = importlib.metadata.distributions(path=list(environment_roots()))
        made_from = sorted({(d.metadata["Name"] or "", d.version or "") for d in installed})
        made_from = [item for item in made_from if item[0] != "alignjax"] + [platform.python_version()]
    return hashlib.sha256(json.dumps([*made_from, *RULES]).encode()).hexdigest()
