"""Programs of strangers, and formulas: processes with limits."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from alignjax import verifiers
from alignjax.asking import check_named
from alignjax.config import ConfigError, fn
from alignjax.verifiers import formulas, tested_programs as module
from alignjax.verifiers.tested_programs import Ended, NotContained, contained

pytestmark = pytest.mark.slow
CONTAINED = pytest.mark.skipif(bool(module._refusal()), reason=module._refusal() or "contained")


def one(source: str, given: str = "", **limits: Any) -> Ended:
    (ended,) = contained([(source, given)], errors=True, **{"seconds": 2.0, **limits})
    return ended


@CONTAINED
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import socket; socket.create_connection(('127.0.0.1', 9), 2)", "unreachable"),
        ("import socket; socket.getaddrinfo('example.com', 80)", "name resolution"),
        ("open('{outside}', 'w')", "Read-only file system"),
        ("x = bytearray(3 * 2**30)", "MemoryError"),
        ("open('big', 'wb').write(b'x' * 2**26)", "File too large"),
        ("for i in range(99): open(f'{i}', 'wb').write(b'x' * 2**23)", ""),
        ("import os; os.setuid(0)", "Invalid argument"),
    ],
)
def test_what_a_program_may_not_do(source: str, words: str, tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    ended = one(source.replace("{outside}", str(tmp_path / "escaped")))
    assert ended.status not in (0, "late", "processes")
    assert words in ended.output
    assert list(tmp_path.iterdir()) == []


@CONTAINED
def test_a_program_sees_nothing_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "very secret")
    ended = one("import os; print(os.listdir('/proc'), os.getppid(), 'SECRET_KEY' in os.environ); os.kill(1, 9)")
    assert ended == Ended(0, "[] 1 False\n")


@CONTAINED
def test_a_program_that_does_not_end_is_ended_with_all_that_it_started() -> None:
    began = time.monotonic()
    left = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(77.125)\nwhile 1: pass"
    assert one(left, seconds=0.5).status == "late"
    forks = "import os, time\nfor _ in range(60):\n    if os.fork() == 0:\n        time.sleep(77.125)\ntime.sleep(1)"
    assert one(forks).status in ("processes", 1)
    assert time.monotonic() - began < 30
    assert not any(b"77.125" in path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())


CODE = "Here:\n```python\ndef add(a, b):\n    return a {} b\n```\n"


@CONTAINED
def test_unit_tests_pass_or_fail() -> None:
    right, wrong = CODE.format("+"), CODE.format("-")
    asserts = ["assert add(1, 0) == 1", "assert add(1, 2) == 3"]
    early, loop = "import sys\ndef add(a, b): sys.exit(0)", "def add(a, b):\n    while 1: pass"
    both = fn(verifiers.unit_tests, seconds=1.0, share=True)
    said = [right, wrong, early, loop, [{"role": "assistant", "content": right}], right]
    assert both(completions=said, tests=[*[asserts] * 5, None]) == [1, 0.5, 0, 0, 1, None]
    assert both.replace(share=False)(completions=[right, wrong], tests=["\n".join(asserts)] * 2) == [1, 0]
    pairs = {"inputs": ["1\n", "3"], "outputs": ["2\n", "6 \n"]}
    assert both(completions=["print(int(input()) * 2)", "print(2)"], tests=[pairs] * 2) == [1, 0.5]
    assert both.replace(setup="three = 3")(completions=["x = three"], tests=["assert x == 3"]) == [1]
    with pytest.raises(ValueError, match="tests are a text"):
        both(completions=[right], tests=[{"input": 1}])


def test_where_nothing_contains_a_program_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With containment=False it runs with limits alone."""
    monkeypatch.setattr(module.contained_process, "__file__", str(uncontained(Path(module.contained_process.__file__))))
    module._refusal.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"does not give a program namespaces.*containment=False"):
            check_named(verifiers.unit_tests, "here")
        with pytest.raises(NotContained):
            one("print(1)")
        check_named(fn(verifiers.unit_tests, containment=False), "here")
        asked = fn(verifiers.unit_tests, containment=False, seconds=2.0)
        assert asked(completions=["x = 1", "while 1: pass"], tests=["assert x == 1"] * 2) == [1, 0]
    finally:
        module._refusal.cache_clear()


def uncontained(file: Path) -> Path:
    """A copy of the program on a system that has no namespaces."""
    import tempfile  # noqa: PLC0415

    copy = Path(tempfile.mkdtemp()) / file.name
    copy.write_text(file.read_text().replace('sys.platform == "linux"', 'sys.platform == "none"'))
    return copy


def test_formulas_are_compared() -> None:
    pytest.importorskip("math_verify")
    cases = [
        ("so $\\boxed{\\frac{1}{2}}$", "0.5", 1.0), ("$(1,2)$", "(1,2)", 1.0), ("$x=3$", "3", 1.0),
        ("$\\sqrt{8}$", "2\\sqrt{2}", 1.0),
        ("\\boxed{10^{10^{10^{10}}}}", "4", 0.0), ("$0.5$", "\\frac13", 0.0),
        ("", "3", 0.0), ("7", None, None), ("$7$", "$7$", 1.0),
    ]  # fmt: skip
    said, right, marks = ([each[k] for each in cases] for k in range(3))
    assert fn(verifiers.latex, seconds=2.0)(completions=said, answer=right) == marks


def test_formulas_need_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formulas.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'alignjax\[math\]'"):
        check_named(verifiers.latex, "here")
