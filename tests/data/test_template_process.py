"""What a template may not do, and whose process it runs in."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alignjax.config import ConfigError
from alignjax.data.datasets.parsing import BadRow
from alignjax.data.text import template_process, template_worker
from alignjax.data.text.chat import render

TALK = [{"role": "user", "content": "hello"}]

_LOOPS = "{% for a in range(9999) %}" * 3 + "{% endfor %}" * 3
_CALLS = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
_DOUBLED = "{% set ns = namespace(x='aa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}"
_NESTED = "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}"

# A template, and what is said about it.
ENDLESS = [
    (_LOOPS, "more than .* of computing for one row"),
    ("{{ messages[0].content * 10**10 }}", "more than 1024 MiB of memory for one row"),
    ("{{ 'a' * 10**10 }}", "more than 1024 MiB of memory"),
    ("{{ '%1000000000000d' % 1 }}", "more than 1024 MiB of memory"),
    (_NESTED, "does not parse: maximum recursion depth"),
    ("{% if %}", "does not parse: .*line 1"),
    pytest.param(_CALLS, "more than .* of computing", marks=pytest.mark.slow),
    pytest.param(_DOUBLED, "more than", marks=pytest.mark.slow),
    # one call of C, which nothing interrupts: the process ends
    pytest.param("{{ strftime_now('%s' * 10**6) }}", "more than .* of computing", marks=pytest.mark.slow),
]
REFUSED = {
    "{{ range(10**9) }}": "Range too big",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "calls itself without an end",
    "{% include '/etc/passwd' %}": "no loader",
    "{% import 'os' as os %}{{ os }}": "no loader",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}": "unsafe",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}": "unsafe",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}": "unsafe",
    "{% set ns = namespace(__class__=1) %}": "underscore",
    "{{ messages.append(1) }}": "unsafe",
    "{{ 1 / 0 }}": "division by zero",
    "{{ raise_exception('so it is') }}": "says: so it is",
}
EMPTY = ["{{ ''|attr('__class__') }}", "{{ raise_exception.__globals__ }}", "{{ lipsum.__globals__ }}"]


@pytest.mark.parametrize(("template", "sentence"), ENDLESS)
def test_a_template_that_takes_all_ends_in_a_sentence(template: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^the chat template .*{sentence}.*use another one$"):
        render(TALK, template)
    assert render(TALK, "{{ messages[0].content }}") == "hello"  # the next one is rendered as if nothing had been


@pytest.mark.parametrize("template", REFUSED)
def test_what_a_template_may_not_do(template: str) -> None:
    with pytest.raises(BadRow, match=f"^the chat template .*{REFUSED[template]}"):
        render(TALK, template)


@pytest.mark.parametrize("template", EMPTY)
def test_what_a_template_does_not_see(template: str) -> None:
    assert render(TALK, template) == ""


def test_one_process_serves_all_threads_and_blocks() -> None:
    def talk(number: int) -> str:
        rows = (
            {"turns": [{"role": "user", "content": f"{number} {k}"}]} for k in range(2 * template_process.BLOCK + 3)
        )
        return "".join(answer["prompt"] for answer in template_process.rendered("{{ messages[0].content }};", {}, rows))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        said = list(pool.map(talk, range(16)))
    for number, text in enumerate(said):
        assert text == "".join(f"{number} {k};" for k in range(2 * template_process.BLOCK + 3))


def test_rows_that_cannot_be_read_leave_nothing_behind() -> None:
    def rows():
        yield from ({"turns": TALK} for _ in range(template_process.BLOCK))
        raise LookupError

    with pytest.raises(LookupError):
        list(template_process.rendered("{{ messages[0].content }}", {}, rows()))
    assert render(TALK, "{{ messages[0].content }}") == "hello"


def test_the_process_has_neither_jax_nor_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started anew, it knows no secret of ours; and it ends at the end of its input."""
    monkeypatch.setenv("A_SECRET", "told")
    ours = template_process.TemplateProcess()
    assert next(ours.rendered("{{ 1 }}", {}, [{"turns": TALK}]))["prompt"] == "1"
    process = ours.process
    assert process is not None
    if (about := Path(f"/proc/{process.pid}")).is_dir():
        assert b"A_SECRET" not in (about / "environ").read_bytes()
        assert "jaxlib" not in (about / "maps").read_text()
    process.stdin.close()  # type: ignore[union-attr]
    assert process.wait(timeout=20) == 0
    ours.close()


def test_a_process_that_was_killed_is_started_again() -> None:
    ours = template_process.TemplateProcess()
    list(ours.rendered("{{ 1 }}", {}, [{"turns": TALK}]))
    assert ours.process is not None
    os.kill(ours.process.pid, signal.SIGKILL)
    ours.process.wait()
    assert [answer["prompt"] for answer in ours.rendered("{{ 2 }}", {}, [{"turns": TALK}])] == ["2"]
    ours.close()


@pytest.mark.parametrize("lost", ["resource = None", "del resource.RLIMIT_AS", "sys.platform = 'darwin'"])
def test_a_system_without_a_limit_on_memory_renders_and_says_so(
    lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Windows has no module `resource`, other systems no such limit, and macOS takes the number and does nothing; the
    limit on time stays wherever there is one."""
    for name in ("template_worker.py", "template_limits.py", "template_calls.py"):
        text = (Path(template_worker.__file__).parent / name).read_text()
        loaded = "raise ImportError" if "None" in lost else f"import resource\n    import sys\n    {lost}"
        (tmp_path / name).write_text(text.replace("import resource", loaded))
    monkeypatch.setattr(template_worker, "__file__", str(tmp_path / "template_worker.py"))
    ours = template_process.TemplateProcess()
    assert next(ours.rendered("{{ messages[0].content }}", {}, [{"turns": TALK}]))["prompt"] == "hello"
    assert "without a limit on memory" in caplog.text
    if "None" not in lost:
        with pytest.raises(ConfigError, match=r"more than .* of computing for one row"):
            list(ours.rendered(_LOOPS, {}, [{"turns": TALK}]))
    ours.close()


@pytest.mark.slow
def test_without_standard_streams() -> None:
    """Descriptors 0, 1 and 2 are closed in the caller, whose pipes then get these numbers; jax has threads there."""
    code = (
        "import os; import jax, jax.numpy; jax.numpy.zeros(3).block_until_ready(); [os.close(k) for k in (0, 1, 2)]\n"
        "from alignjax.data.text.template_process import rendered\n"
        "rows = [{'turns': [{'role': 'user', 'content': 'x'}]}]\n"
        "os._exit(7 if [answer['prompt'] for answer in rendered('{{ 3 }}', {}, rows)] == ['3'] else 1)\n"
    )
    path = os.pathsep.join(folder for folder in sys.path if folder)
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=False)
    assert done.returncode == 7
