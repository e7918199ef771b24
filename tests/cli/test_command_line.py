"""The command line as a whole: help, version, exit codes, start-up, and the commands that plugins add."""

import json
import subprocess
import sys

import pytest

import anyvisor
from anyvisor.cli import COMMANDS

HEAVY = (
    "cattrs",
    "rich",
    "anyvisor.x86_64.cpuid",
    "anyvisor.x86_64.boot",
    "anyvisor.cli.boot",
    "logging",
    "difflib",
    "pytest",
    "hypothesis",
    "unicorn",
    "anyvisor_kvm.hypervisor",
    "anyvisor_unicorn.hypervisor",
    "anyvisor_mock.hypervisor",
    "anyvisor.testing",
    "anyvisor.plugins.project",
    "anyvisor.plugins.trace",
)


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_command_and_every_exit_code(invoke, flag):
    done = invoke(flag)
    assert done.exit_code == 0
    for word in (*COMMANDS, "Exit codes", "130", "ANYVISOR_DEBUG"):
        assert word in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(invoke, command):
    done = invoke(command, "-h")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"Usage: anyvisor {command}")


def test_version(invoke):
    assert invoke("--version").stdout == f"anyvisor {anyvisor.__version__}\n"


def test_the_module_is_the_command(run_cold):
    assert run_cold("--version").stdout == f"anyvisor {anyvisor.__version__}\n"


def test_no_command_shows_the_help_and_is_a_mistake(run):
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Commands:" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("bot",), ("boot", "--nope"), ("boot", "k", "--cpus", "many"), ("boot", "a", "b"), ("plan",)],
)
def test_a_mistake_in_the_command_is_one_line_that_leads_to_the_help(run, arguments):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("anyvisor: error: ") and done.stderr.count("\n") == 1
    assert "--help)" in done.stderr


def test_help_imports_nothing_heavy():
    """cattrs alone costs as much as all of the help; rich more."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "anyvisor", "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "anyvisor.cli" in imported and "click" in imported
    assert imported.isdisjoint(HEAVY), imported & set(HEAVY)


COMMAND_PLUGIN = """
import sys
import click
from anyvisor import hookimpl
from anyvisor.errors import ConfigError

@hookimpl
def anyvisor_commands():
    offered = {"greet": "greet", "boot": "greet", "absent": "absent", "odd": "hookimpl"}
    return {name: f"greeter:{attribute}" for name, attribute in offered.items()}

@click.command()
@click.option("--fail", is_flag=True)
@click.option("--code", type=int, default=0)
@click.pass_context
def greet(ctx, fail, code):
    if fail:
        raise ConfigError("the greeting is wrong; greet otherwise")
    click.echo("good day")
    ctx.exit(code)
"""


@pytest.fixture
def greeter(plugin_path, environment):
    environment["PYTHONPATH"] = f"{plugin_path('greeter', 'greeter', COMMAND_PLUGIN)}:{environment['PYTHONPATH']}"


def test_a_plugin_adds_a_command(run, greeter):
    done = run("greet")
    assert (done.returncode, done.stdout) == (0, "good day\n")
    assert "greet" in run("--help").stdout.partition("Commands of plugins:")[2]


def test_a_plugins_command_ends_as_ours_do(run, greeter):
    assert run("greet", "--code", "7").returncode == 7
    done = run("greet", "--fail")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "anyvisor: error: the greeting is wrong; greet otherwise"


def test_a_plugins_command_cannot_take_the_place_of_ours(run, greeter):
    done = run("--help")
    assert (
        "anyvisor: warning: plugin greeter (of greeter 1.2.3): offers a command boot, which anyvisor has itself"
        in done.stderr
    )
    assert "Boot KERNEL" in run("boot", "--help").stdout


@pytest.mark.parametrize(
    ("command", "cause"), [("absent", "cannot import greeter:absent"), ("odd", "not a click command")]
)
def test_a_plugins_command_that_is_none_is_an_error_with_the_plugins_name(run, greeter, command, cause):
    done = run(command)
    assert done.returncode == 1
    assert f"command {command} of plugin greeter" in done.stderr and cause in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plugin_whose_commands_hook_raises_costs_a_warning_and_not_the_help(run, plugin_path, environment):
    source = "import anyvisor\n@anyvisor.hookimpl\ndef anyvisor_commands():\n    raise KeyError('oh')\n"
    environment["PYTHONPATH"] = f"{plugin_path('rude', 'rude', source)}:{environment['PYTHONPATH']}"
    done = run("--help")
    assert done.returncode == 0 and "doctor" in done.stdout
    assert "anyvisor: warning: plugin rude (of rude 1.2.3): failed in anyvisor_commands" in done.stderr


BROKEN_PLUGINS = {
    "raises": ("raise RuntimeError('planted')", "cannot be imported: RuntimeError: planted"),
    "syntax": ("def (", "cannot be imported: SyntaxError"),
    "imports": ("import no_such_module", "cannot be imported: ModuleNotFoundError"),
    "misspelt": (
        "import anyvisor\n@anyvisor.hookimpl\ndef anyvisor_gtd():\n    return None\n",
        "there is no hook anyvisor_gtd, so it is never called; did you mean anyvisor_gdt?",
    ),
    "parameters": (
        "import anyvisor\n@anyvisor.hookimpl\ndef anyvisor_gdt(colour):\n    return None\n",
        "colour",
    ),
}


@pytest.fixture(params=BROKEN_PLUGINS)
def broken(request, plugin_path, environment):
    """A throwaway distribution with a plugin that is broken in some way; what is said about it."""
    source, cause = BROKEN_PLUGINS[request.param]
    environment["PYTHONPATH"] = f"{plugin_path('broken-one', 'broken_one', source)}:{environment['PYTHONPATH']}"
    return cause


def test_a_broken_plugin_is_on_the_list_with_its_name_and_not_fatal(run, broken):
    done = run("plugins")
    assert (done.returncode, done.stderr) == (0, "")
    problems = done.stdout.partition("Problems\n")[2]
    assert "plugin broken-one (of broken-one 1.2.3): " in problems and broken in problems
    assert "anyvisor_linux" in done.stdout


def test_a_broken_plugin_is_in_the_json_and_in_the_doctors_report(run, broken):
    listed = json.loads(run("plugins", "--json").stdout)
    assert any(each["name"] == "broken-one" and broken in each["cause"] for each in listed["problems"])
    assert {"linux", "pc", "kvm"} <= {each["name"] for each in listed["plugins"]}
    assert broken in run("doctor", script="halt").stdout


def test_a_broken_plugin_costs_other_commands_a_line_and_nothing_else(run, broken, kernel):
    done = run("boot", kernel, "--backend", "scripted")
    assert (done.returncode, done.stdout) == (0, "hello from the guest\r\n")
    warnings = [line for line in done.stderr.splitlines() if line.startswith("anyvisor: warning: plugin broken-one ")]
    assert len(warnings) == 1 and broken in warnings[0]
