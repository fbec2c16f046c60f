"""The data that needs no download: docstrings of the Python packages installed on this machine.

The body of a docstring is the post, its PEP 257 summary line the human-written TL;DR: the summarisation task of the
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
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from alignjax.config import ConfigError
from alignjax.data.datasets.records import Record
from alignjax.data.prepared import Collected, Dataset, Report

SKIPPED_FOLDERS = frozenset(("test", "tests", "testing", "idle_test", "_vendor", "vendor", "__pycache__"))
SKIPPED_PACKAGES = frozenset(("site-packages", "dist-packages", "alignjax", "lib2to3"))
MOULD_LIMIT = 8
_NAMES = re.compile(r"[`'\"].*?[`'\"]|\w*[_.\d]\w*|\b\w*[a-z][A-Z]\w*")
_WORKER = Path(__file__).with_name("extract_docstrings.py")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Docstrings(Dataset):
    """Docstrings of the standard library and of every installed package; summary line as completion, body as prompt.

    test_fraction: share of *packages* whose docstrings are the test split (a hash of the package's name decides, so
    that a package is on the same side everywhere). max_share: no package gives more than this share of all pairs.
    signature: the post starts with the signature. roots: folders to read instead of this environment's. workers:
    processes that parse; 0 for one per core.
    """

    test_fraction: float = 0.1
    max_share: float = 0.12
    signature: bool = True
    roots: tuple[str, ...] = ()
    workers: int = dataclasses.field(default=0, compare=False)
    suffix: str = "\nTL;DR:"

    name: ClassVar[str] = "docstrings"
    schema: ClassVar[str] = "instructions"
    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    def __post_init__(self) -> None:
        object.__setattr__(self, "roots", tuple(str(root) for root in self.roots))
        if not 0 < self.test_fraction < 1 or not 0 < self.max_share <= 1:
            raise ConfigError("Docstrings needs 0 < test_fraction < 1 and 0 < max_share <= 1")

    @property
    def settings(self) -> dict[str, Any]:
        """Without `workers`, which changes nothing in what is written."""
        return {key: value for key, value in super().settings.items() if key != "workers"}

    def fingerprint(self) -> str:
        return _fingerprint(self.roots)

    def collect(self, report: Report) -> Collected:
        """Parses all files and splits the pairs by package. The result depends on the files alone."""
        files = list_files(self.roots or environment_roots())
        report(f"docstrings: parsing {len(files):,} files of {len({file[0] for file in files})} packages")
        pairs, failed = extract(files, self.workers or os.cpu_count() or 1)
        kept, dropped = select(pairs, self.max_share)
        splits: dict[str, list[Record]] = {"train": [], "test": []}
        packages: dict[str, set[str]] = {"train": set(), "test": set()}
        for package, where, signature, summary, body in kept:
            split = "test" if in_test(package, self.test_fraction) else "train"
            post = f"{signature}\n{body}" if self.signature else body
            splits[split].append(Record(post, (summary,), meta={"package": package, "file": where}))
            packages[split].add(package)
        largest = collections.Counter(pair[0] for pair in kept).most_common(10)
        counts = {split: len(found) for split, found in packages.items()}
        account = {
            "sentence": f"{len(kept):,} pairs from {sum(counts.values())} packages "
            f"({len(splits['train']):,} train from {counts['train']}, {len(splits['test']):,} test from "
            f"{counts['test']})",
            "packages": {split: sorted(found) for split, found in packages.items()},
            "largest_packages": dict(largest),
            "parsed_files": len(files),
            "unparsed_files": failed,
            **dropped,
        }
        return Collected(splits, account)


def environment_roots() -> tuple[str, ...]:
    """The standard library and the site-packages folders of this interpreter."""
    paths = sysconfig.get_paths()
    sites = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    return tuple(dict.fromkeys([paths["stdlib"], paths["purelib"], paths["platlib"], *sites]))


def package_name(where: str) -> str:
    """The package that a file belongs to: its first folder or its own name. `_pytest` and `pytest` are one package."""
    first = where.split("/", 1)[0].removesuffix(".py")
    return first.lstrip("_") or first


def in_test(package: str, fraction: float) -> bool:
    """Which side of the split a package is on: a pure function of its name."""
    digest = hashlib.sha256(f"alignjax{package}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def list_files(roots: Iterable[str]) -> list[tuple[str, str, str]]:
    """[(package, path, path relative to its root)] of all Python files but tests and vendored copies, sorted by the
    last. Raises ConfigError for a root that is not a folder."""
    found: dict[str, tuple[str, str, str]] = {}
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
                    found.setdefault(relative, (package_name(relative), f"{folder}/{name}", relative))
    return [found[relative] for relative in sorted(found)]


def extract(files: Sequence[tuple[str, str, str]], workers: int) -> tuple[list[list[str]], int]:
    """([package, file, signature, summary, body] of every good docstring, files that did not parse), parsed by
    `workers` processes. The order is that of `files`.

    The processes run a script that knows only the standard library: no start-up cost of ours, nothing inherited from a
    parent that holds a device, no guard needed in the caller's main module.
    """
    workers = max(1, min(workers, len(files) // 50 + 1))
    loads: list[list[tuple[str, str, str]]] = [[] for _ in range(workers)]
    weights = [0] * workers
    for size, file in sorted(((os.path.getsize(file[1]), file) for file in files), reverse=True):
        lightest = weights.index(min(weights))
        loads[lightest].append(file)
        weights[lightest] += size
    with tempfile.TemporaryDirectory() as folder:
        running = [_started(load, Path(folder) / str(number)) for number, load in enumerate(loads)]
        try:
            codes = [process.wait() for process in running]
        finally:
            for process in running:
                process.kill()  # does nothing to one that has ended
        if any(codes):
            raise RuntimeError(f"a docstring worker ended with exit code {max(codes, key=abs)}; see its error above")
        found = [json.loads((Path(folder) / f"{number}.out").read_bytes()) for number in range(workers)]
    pairs = [pair for each in found for pair in each["pairs"]]
    pairs.sort(key=lambda pair: pair[1])  # stable: within a file the order stays that of the file
    return pairs, sum(each["failed"] for each in found)


def _started(load: Sequence[tuple[str, str, str]], place: Path) -> subprocess.Popen[bytes]:
    """A worker on a list of files. Lists and answers go through files, so that no full pipe can stop it."""
    asked, answer = place.with_suffix(".in"), place.with_suffix(".out")
    asked.write_text(json.dumps(load))
    with asked.open("rb") as given, answer.open("wb") as taken:
        return subprocess.Popen([sys.executable, "-I", "-X", "utf8", str(_WORKER)], stdin=given, stdout=taken)


def select(pairs: Iterable[Sequence[str]], max_share: float) -> tuple[list[Sequence[str]], dict[str, int]]:
    """Pairs without repeated texts (a body or a summary that was there before), without what generators wrote (more
    than MOULD_LIMIT pairs of a package that differ in names only) and with no package above its share. Which pairs of a
    large package stay is decided by a hash of their text."""
    seen: set[str] = set()
    moulds: collections.Counter[tuple[str, ...]] = collections.Counter()
    cast = 0
    unique: list[Sequence[str]] = []
    repeated = 0
    for pair in pairs:
        marks = {f"{kind}:{' '.join(pair[place].lower().split())}" for kind, place in (("summary", 3), ("body", 4))}
        mould = _mould(pair)
        moulds[mould] += 1
        if marks & seen:
            repeated += 1
        elif moulds[mould] > MOULD_LIMIT:
            cast += 1
        else:
            unique.append(pair)
        seen |= marks
    limit = max(1, int(max_share * len(unique)))
    places: dict[str, list[int]] = collections.defaultdict(list)
    for place, pair in enumerate(unique):
        places[pair[0]].append(place)
    kept = sorted(place for found in places.values() for place in _drawn(unique, found, limit))
    return [unique[place] for place in kept], {
        "repeated": repeated,
        "generated": cast,
        "over_share": len(unique) - len(kept),
    }


def _mould(pair: Sequence[str]) -> tuple[str, ...]:
    """What is left of a pair without its names: package, how the summary begins, how the body begins."""
    return pair[0], *pair[3].split()[:3], _NAMES.sub("#", pair[4][:200])[:80]


def _drawn(pairs: Sequence[Sequence[str]], places: list[int], limit: int) -> Iterator[int]:
    if len(places) > limit:
        places = sorted(places, key=lambda place: hashlib.sha256("\n".join(pairs[place]).encode()).digest())[:limit]
    yield from places


@lru_cache(maxsize=8)
def _fingerprint(roots: tuple[str, ...]) -> str:
    """Names and versions of what is installed; for folders given by hand, their files, sizes and times."""
    if roots:
        stats = [(where, os.stat(path)) for _, path, where in list_files(roots)]
        made_from: list[Any] = [(where, stat.st_size, stat.st_mtime_ns) for where, stat in stats]
    else:
        installed = importlib.metadata.distributions(path=list(environment_roots()))
        made_from = sorted({(d.metadata["Name"] or "", d.version or "") for d in installed})
        made_from = [item for item in made_from if item[0] != "alignjax"] + [platform.python_version()]
    # The rules that choose pairs stand in these two files: pairs chosen by other rules are other data.
    made_from += [hashlib.sha256(file.read_bytes()).hexdigest() for file in (_WORKER, Path(__file__))]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
