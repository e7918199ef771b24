"""`anyvisor hooks`: the table of all, and the page of one."""

import json
import re

import pytest

from anyvisor.plugins import hook_names

STEPS = """
from anyvisor import hookimpl

@hookimpl
def anyvisor_gdt(config):
    return None

@hookimpl(wrapper=True)
def anyvisor_cpuid():
    return (yield)

@hookimpl
def anyvisor_devices():
    return ()

@hookimpl(wrapper=True)
def anyvisor_acpi():
    return (yield)
"""


@pytest.fixture
def steps(plugin_path, environment):
    environment["PYTHONPATH"] = f"{plugin_path('my-steps', 'my_steps', STEPS)}:{environment['PYTHONPATH']}"


def row(text, hook):
    (line,) = [line for line in text.splitlines() if line.startswith(f"{hook} ")]
    return re.split(r" {2,}", line)


def test_the_table_has_every_hook_with_its_kind_and_who(run, steps):
    done = run("hooks")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == hook_names()
    assert row(done.stdout, "hook")[1:] == ["kind", "implementations", "who"]
    assert row(done.stdout, "anyvisor_gdt")[1:] == ["replaces", "2", "my-steps is asked first"]
    assert row(done.stdout, "anyvisor_cpuid")[1:] == ["replaces", "2", "linux is asked first, adjusted by my-steps"]
    assert row(done.stdout, "anyvisor_msrs")[1:] == ["replaces", "1", "linux is asked first"]
    assert row(done.stdout, "anyvisor_devices")[1:] == ["collects", "2", "my-steps, pc"]
    assert row(done.stdout, "anyvisor_acpi")[1:] == ["replaces", "2", "linux is asked first, adjusted by my-steps"]
    assert row(done.stdout, "anyvisor_gic")[1:] == ["replaces", "0", "nobody"]
    assert row(done.stdout, "anyvisor_plan_ready")[1:] == ["onlooker", "0", "nobody"]


@pytest.mark.parametrize("name", ["anyvisor_cpuid", "cpuid"])
def test_the_page_of_a_hook_has_all_there_is_to_know(run, steps, name):
    done = run("hooks", name)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "anyvisor_cpuid(config, facts, vcpu) -> Cpuid\n"
        "  replaces: linux is asked first, adjusted by my-steps\n"
        "\n"
        "Documentation\n"
        "  x86_64: the CPUID table of vCPU number `vcpu`.\n"
        "\n"
        "Implementations, in the order in which they are called\n"
        "  my-steps (my_steps), a wrapper\n"
        "  linux (anyvisor_linux)\n"
        "\n"
    )


def test_a_hook_that_nobody_implements_says_so(run):
    assert run("hooks", "fdt").stdout.endswith("called\n  none\n\n")


@pytest.mark.parametrize("name", hook_names())
def test_every_hook_has_a_page(invoke, name):
    done = invoke("hooks", name)
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{name}(")


def test_as_json_it_is_the_same_by_name_or_for_all(run, steps):
    everything = json.loads(run("hooks", "--json").stdout)
    assert [each["name"] for each in everything] == hook_names()
    one = json.loads(run("hooks", "cpuid", "--json").stdout)
    assert one in everything
    assert one == {
        "name": "anyvisor_cpuid",
        "kind": "replaces",
        "signature": "anyvisor_cpuid(config, facts, vcpu) -> Cpuid",
        "documentation": "x86_64: the CPUID table of vCPU number `vcpu`.",
        "implementations": [
            {"plugin": "my-steps", "module": "my_steps", "wrapper": True},
            {"plugin": "linux", "module": "anyvisor_linux", "wrapper": False},
        ],
        "asked_first": "linux",
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("anyvisor_gtd", "there is no hook 'anyvisor_gtd'; did you mean anyvisor_gdt?"),
        ("gtd", "there is no hook 'gtd'; did you mean anyvisor_gdt?"),
        ("mp_table", "there is no hook 'mp_table'; did you mean anyvisor_mptable?"),
        ("zzz", "there is no hook 'zzz'; without a NAME you get a list"),
        ("", "there is no hook ''; without a NAME you get a list"),
    ],
)
def test_a_hook_that_is_not_there_is_a_mistake_with_the_likely_one(run, name, words):
    done = run("hooks", name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"anyvisor: error: {words} (see anyvisor hooks --help)\n"
