"""The documentation is true: its examples run, and its links lead somewhere.

Blocks of Python run page by page, those that need a machine on real KVM, where a few dozen bytes of code play the
kernel. Blocks called `console` are commands with what they print, `...` for any of it; in blocks called `sh` and in
indented lines, which change the reader's machine, the options of our own commands are checked and nothing is run.
"""

import doctest
import functools
import importlib
import inspect
import os
import pkgutil
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

import anyvisor
from anyvisor import MachineConfig
from anyvisor.cli import cli
from anyvisor.errors import AnyvisorError, HypervisorUnavailable
from anyvisor.plugins import GROUP
from anyvisor.x86_64.cpu_models import cpu_model
from anyvisor.x86_64.cpu_models.read import KEYS as TEMPLATE_KEYS
from elves import tiny_elf
from talking_guest import TALKING_GUEST
from warm_command import WarmCommand

REPOSITORY = Path(__file__).parent.parent
DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md"))]
NAMES = [str(page.relative_to(REPOSITORY)) for page in PAGES]
NEEDS_KVM = {"README.md", "docs/tutorial/first-machine.md", "docs/how-to/embed.md", "docs/reference/command-line.md"}
LANGUAGES = {"python", "console", "sh", "toml", "text", "{toctree}"}
OPTIONS = doctest.ELLIPSIS
COMMAND_SECONDS = 30

pages = pytest.mark.parametrize("page", PAGES, ids=NAMES)


# -- examples ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files that the examples name, to run them in."""
    tiny_elf(tmp_path / "vmlinuz", TALKING_GUEST)
    (tmp_path / "initrd.img").write_bytes(b"070701".ljust(512, b"\0"))
    (tmp_path / "busybox").write_bytes(b"\x7fELF")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(REPOSITORY / "examples/anyvisor-toy/src")
    return tmp_path


def need_kvm() -> None:
    """Skip, saying why, where there is no KVM; in CI a failure."""
    try:
        anyvisor.open_hypervisor("kvm").close()
    except HypervisorUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(f"to run this: {error}")


def run_console(command: WarmCommand, example: Example) -> None:
    """Run each command after a `$` and compare what it prints."""
    parts = re.split(r"^\$ (.*)\n", example.parsed, flags=re.MULTILINE)
    assert not parts[0], f"line {example.line}: a console block begins with a command"
    for line, wanted in zip(parts[1::2], parts[2::2], strict=True):
        program, *arguments = shlex.split(line)
        assert program == "anyvisor", f"line {example.line}: {program} is not run here; make it a block of sh"
        environment = {**os.environ, "COLUMNS": "100"}
        done = command.run(arguments, env=environment, merge=True, timeout=COMMAND_SECONDS)
        found = done.stdout.decode().replace("\r\n", "\n")
        assert doctest.OutputChecker().check_output(wanted, found, OPTIONS), f"{line} (line {example.line}):\n{found}"


def check_shell(example: Example) -> None:
    """Our own commands in a shell block have the options that are used."""
    for line in example.parsed.splitlines():
        program, *arguments = shlex.split(line, comments=True) or [""]
        if program == "anyvisor":
            check_command(arguments)


def check_command(arguments: list[str]) -> None:
    name, *rest = arguments
    with cli.make_context("anyvisor", list(arguments)) as context:  # a command keeps what its first context says of -h
        command = cli.get_command(context, name)
        assert command, f"there is no command {name}"
        command.make_context(name, rest, parent=context)


def check_toml(example: Example) -> None:
    """A machine's configuration, kept as vm.toml; a CPU template, as cpu.toml; a plugin's project, with our group."""
    data = tomllib.loads(example.parsed)
    if "project" in data:
        assert GROUP in data["project"]["entry-points"]
        return
    if set(data) <= set(TEMPLATE_KEYS):
        Path("cpu.toml").write_text(example.parsed)
        cpu_model("cpu.toml")
        return
    Path("vm.toml").write_text(example.parsed)
    MachineConfig.from_toml("vm.toml")


def examples(page: Path, command: WarmCommand) -> list[Example]:
    parsers = (
        PythonCodeBlockParser(doctest_optionflags=OPTIONS),
        CodeBlockParser("console", functools.partial(run_console, command)),
        CodeBlockParser("sh", check_shell),
        CodeBlockParser("toml", check_toml),
    )
    return list(Document.parse(str(page), *parsers).examples())


@pages
def test_the_examples_of_a_page_run(page: Path, desk: Path, warm_command: WarmCommand) -> None:
    if str(page.relative_to(REPOSITORY)) in NEEDS_KVM:
        need_kvm()
    for example in examples(page, warm_command):
        example.evaluate()


@pages
def test_every_block_has_a_language_that_says_whether_it_is_run(page: Path) -> None:
    fences = re.findall(r"^```(.*)$", page.read_text("utf-8"), re.MULTILINE)
    assert set(fences[0::2]) <= LANGUAGES
    assert set(fences[1::2]) <= {""}


@pages
def test_the_commands_in_indented_lines_have_the_options_that_are_used(page: Path) -> None:
    for line in re.findall(r"^    anyvisor (.*)$", page.read_text("utf-8"), re.MULTILINE):
        check_command(shlex.split(line, comments=True))


def test_an_example_that_is_wrong_is_found(tmp_path: Path, desk: Path, warm_command: WarmCommand) -> None:
    wrong = {
        "python": ("assert 1 == 2", ">>> 1 + 1\n3\n"),
        "console": ("$ anyvisor plan absent\nfine", "$ anyvisor --version\nanyvisor 0.0.0"),
        "sh": ("anyvisor boot --no-such-option", "anyvisor bot"),
        "toml": ("memory = 12.5", "[project.entry-points.anyvisr]\na = 'b'"),
    }
    for language, sources in wrong.items():
        for source in sources:
            page = tmp_path / "page.md"
            page.write_text(f"```{language}\n{source}\n```\n")
            (example,) = examples(page, warm_command)
            with pytest.raises((AssertionError, AnyvisorError, click.UsageError, KeyError)):
                example.evaluate()


def core_modules() -> Iterator[str]:
    for found in pkgutil.walk_packages(anyvisor.__path__, "anyvisor."):
        if not found.name.endswith("__main__"):
            yield found.name


def test_the_examples_in_docstrings_run() -> None:
    for name in core_modules():
        module = importlib.import_module(name)
        done = doctest.testmod(module, optionflags=OPTIONS)
        assert not done.failed, f"{name}: {done}"
        written = [line for line in inspect.getsource(module).splitlines() if re.match(r" *>>> (?!.*\+SKIP)", line)]
        assert done.attempted >= len(written), f"{name}: doctest found {done.attempted} of {written}"


# -- links -------------------------------------------------------------------------------------------------------------


def slug(heading: str) -> str:
    """The anchor that GitHub and MyST make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pages
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{target} does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{file} has no heading {anchor}"


def test_every_page_is_in_the_table_of_contents() -> None:
    entries = "\n".join(re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text("utf-8"), re.DOTALL))
    listed = {line for line in entries.splitlines() if line and not line.startswith(":")}
    assert listed == {str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.rglob("*.md")} - {"index"}
