"""The reference pages are complete: they name every hook, key, option and error that there is, and no other."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import attrs
import click
import pytest

import anyvisor
from anyvisor import MachineConfig, Topology, errors, hookspecs
from anyvisor.cli import COMMANDS, cli
from anyvisor.cli.failure import EXIT_CODES
from anyvisor.config import DEFAULT_COMMAND_LINE, Identity, NumaNode, Raw
from anyvisor.errors import AnyvisorError
from anyvisor.memory import MIB
from anyvisor.plugins import DEFAULTS
from anyvisor.plugins import choice as plugin_choice
from anyvisor.terminal import ESCAPE_HELP
from anyvisor.x86_64.generic import FACTS
from elves import tiny_elf

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    return tiny_elf(tmp_path / "vmlinux", code=b"\xf4")


def text_of(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def code_words(text: str) -> set[str]:
    """What a page has between single backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def hooks() -> dict[str, Callable[..., object]]:
    return {name: value for name, value in vars(hookspecs).items() if name.startswith("anyvisor_")}


def documented_hooks() -> list[tuple[str, str]]:
    """Name and text of each hook's section, in the page's order."""
    parts = re.split(r"^### `(.*)`$", text_of("reference/hooks.md"), flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def signature(name: str, function: Callable[..., object]) -> str:
    parameters = ", ".join(inspect.signature(function).parameters)
    return f"{name}({parameters}) -> {inspect.signature(function).return_annotation}"


def test_the_hooks_page_has_every_hook_and_no_other_with_its_inputs_and_result() -> None:
    wanted = {signature(name, function) for name, function in hooks().items()}
    assert sorted(heading for heading, _ in documented_hooks()) == sorted(wanted)


def test_the_hooks_page_says_which_steps_collect() -> None:
    onlookers = text_of("reference/hooks.md").partition("## Onlookers")[2]
    for heading, text in documented_hooks():
        name = heading.partition("(")[0]
        first_result = vars(hooks()[name])["anyvisor_spec"]["firstresult"]
        collects = not first_result and heading not in onlookers
        assert text.lstrip().startswith("Collects") == collects, name


def test_the_hooks_page_has_the_boot_order(kernel: Path) -> None:
    plan = anyvisor.assemble(MachineConfig(kernel=kernel), FACTS)
    taken = [step.hook for step in plan.steps]
    documented = [heading.partition("(")[0] for heading, _ in documented_hooks()]
    assert [name for name in documented if name in taken] == taken


def test_the_configuration_page_has_every_key_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (?:path|text|size|numbers?|tables?|true, false) ", text_of("reference/configuration.md"), re.MULTILINE)  # fmt: skip  # noqa: E501
    kinds = (MachineConfig, Topology, NumaNode, Identity, Raw)
    keys = [field.name for kind in kinds for field in attrs.fields(kind)]
    assert sorted(rows) == sorted(keys)


def test_the_configuration_page_explains_the_default_command_line() -> None:
    text = text_of("reference/configuration.md")
    assert f"```text\n{DEFAULT_COMMAND_LINE}\n```" in text
    assert [word for word in re.findall(r"^\| `([^`]+)` \| [A-Z]", text, re.MULTILINE) if "=" in word] == (
        DEFAULT_COMMAND_LINE.split()
    )


def sections() -> dict[str, str]:
    """The text about each command, by its name; what comes before them by an empty one."""
    parts = re.split(r"^## `anyvisor (\w+).*$", text_of("reference/command-line.md"), flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def options(command: click.Command) -> set[str]:
    """Its own and those of its subcommands; of the whole command line only its own."""
    parts = [command, *(command.commands.values() if isinstance(command, click.Group) else [])]
    found = [each for part in parts for each in part.params if isinstance(each, click.Option)]
    return {name for each in found for name in (*each.opts, *each.secondary_opts)}


def test_the_command_line_page_has_every_command() -> None:
    assert [name for name in sections() if name] == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_line_page_has_every_option_of_a_command_and_no_other(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command
    machine = set(re.findall(r"`(--?[\w-]+)", sections()["boot"].partition("describe a machine:")[2]))
    rows = "\n".join(line for line in sections()[name].splitlines() if line.startswith("| `-"))
    documented = set(re.findall(r"`(--?[\w-]+)", rows))
    if name in {"plan", "check", "dump"}:
        documented |= machine
    assert documented == options(command)


def test_the_command_line_page_has_the_options_before_a_command_the_exit_codes_and_the_keys() -> None:
    text = text_of("reference/command-line.md")
    rows = "\n".join(line for line in sections()[""].splitlines() if line.startswith("| `-"))
    assert set(re.findall(r"`(--?[\w-]+)", rows)) == options(cli) | {"-h", "--help"}
    for code in re.findall(r"^  (\d+)\+? ", EXIT_CODES, re.MULTILINE):
        assert re.search(rf"^\| {code}\b", text, re.MULTILINE), f"exit code {code}"
    for line in ESCAPE_HELP:
        assert line.partition("  ")[0] in text


def test_the_plugins_page_has_every_variable_and_every_part_of_a_choice() -> None:
    text = text_of("reference/plugins.md")
    source = inspect.getsource(plugin_choice)
    variables = set(re.findall(r"\bANYVISOR_[A-Z]+\b", source))
    assert set(re.findall(r"^\| `(ANYVISOR_\w+)` \|", text, re.MULTILINE)) == variables
    parts = text.partition("| `PluginChoice` | |")[2]
    assert re.findall(r"^\| `(\w+)` \|", parts, re.MULTILINE) == [
        field.name for field in attrs.fields(plugin_choice.PluginChoice)
    ]
    assert f"1. anyvisor's own: {', '.join(f'`{name}`' for name in own_names())};" in text


def own_names() -> list[str]:
    return [module.removeprefix("anyvisor_") for module in DEFAULTS]


def test_the_embedding_page_has_every_error() -> None:
    kinds = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, AnyvisorError)}
    documented = re.findall(r"^\| `(\w+)` \|", text_of("how-to/embed.md").partition("## Errors")[2], re.MULTILINE)
    assert set(documented) == kinds - {"AnyvisorError"}


def test_the_map_of_the_first_megabyte_is_that_of_a_plan(kernel: Path) -> None:
    rows = re.findall(r"^\| `(0x\w+)` \| `(0x\w+)` \| (.*) \|$", text_of("explanation/how-a-machine-starts.md"), re.MULTILINE)  # fmt: skip  # noqa: E501
    ranges = [(int(start, 16), int(end, 16)) for start, end, _ in rows]
    assert ranges == sorted(ranges)
    plan = anyvisor.assemble(MachineConfig(kernel=kernel, vcpus=254, tables="both"), FACTS)
    low = [blob.region for blob in plan.blobs if blob.guest_address < MIB]
    assert {"RSDP", "DSDT", "SMBIOS tables", "reset vector", "mp table", "zero page"} <= {each.name for each in low}
    for region in low:
        assert any(start <= region.start and region.end - 1 <= end for start, end in ranges), region
    starts = {region.start for region in low}
    assert all(any(start <= each <= end for each in starts) for start, end in ranges if start != 0x6000)
