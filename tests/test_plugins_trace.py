"""What ANYVISOR_TRACE shows: a line for every call of a hook, and for calls within calls."""

import logging
import re
import subprocess
import sys

import pytest

from anyvisor import hookimpl
from anyvisor.assemble import assemble
from anyvisor.config import MachineConfig
from anyvisor.errors import ConfigError, PluginError
from anyvisor.launch import launch
from anyvisor.plugins import PluginChoice, load_plugins
from anyvisor.plugins.trace import short
from anyvisor.x86_64.generic import FACTS
from anyvisor_mock import MockHypervisor
from elves import tiny_elf

TRACED = PluginChoice(trace=True)


@pytest.fixture
def lines(caplog):
    """What was traced so far, times left out."""
    caplog.set_level(logging.INFO, "anyvisor.trace")

    def lines():
        return [re.sub(r"\d+\.\d{3} ms", "T ms", record.message) for record in caplog.records]

    return lines


@pytest.fixture
def config(tmp_path):
    return MachineConfig(kernel=tiny_elf(tmp_path / "vmlinux", code=b"\xf4"), vcpus=2)


def traced(*extra):
    return load_plugins(extra, installed=False, choice=TRACED)


def plugin(name, **hooks):
    return type(name, (), {hook: staticmethod(function) for hook, function in hooks.items()})()


def test_every_step_of_an_assembly_is_a_line_with_who_and_what(lines, config):
    plan = assemble(config, FACTS, traced())
    found = lines()
    assert "anyvisor_load_kernel(): linux, T ms: Kernel" in found
    assert "anyvisor_cpuid(vcpu=0): linux, T ms: Cpuid" in found
    assert "anyvisor_registers(vcpu=0): linux, T ms: Regs, Change, Fpu" in found
    assert "anyvisor_registers(vcpu=1): linux, T ms: none" in found
    assert "anyvisor_acpi(): linux, T ms: FirmwareTables" in found
    assert f"anyvisor_devices(): pc, T ms: {len(plan.devices)} DeviceSpec" in found
    asked = [line.partition("(")[0] for line in found]
    assert [*dict.fromkeys(asked)] == [
        "anyvisor_memory_layout", "anyvisor_load_kernel", "anyvisor_cpuid", "anyvisor_devices", "anyvisor_gdt",
        "anyvisor_page_tables", "anyvisor_acpi", "anyvisor_smbios", "anyvisor_boot_params", "anyvisor_registers",
        "anyvisor_lapic", "anyvisor_msrs", "anyvisor_plan_ready",
    ]  # fmt: skip


def test_the_plan_is_the_same_with_and_without(config):
    assert assemble(config, FACTS, traced()) == assemble(config, FACTS, load_plugins(installed=False))


def test_who_adjusted_and_who_is_told_is_shown(lines, config):
    @hookimpl(wrapper=True)
    def anyvisor_gdt():
        return (yield)

    onlooker = plugin("Onlooker", anyvisor_plan_ready=hookimpl(lambda plan: None))
    assemble(config, FACTS, traced(plugin("Mine", anyvisor_gdt=anyvisor_gdt), onlooker))
    assert "anyvisor_gdt(): linux, adjusted by Mine, T ms: Gdt" in lines()
    assert lines()[-1] == "anyvisor_plan_ready(): Onlooker, T ms"


def test_a_machines_hooks_are_traced_from_whichever_thread(lines, config):
    onlooker = plugin(
        "Onlooker", anyvisor_machine_started=hookimpl(lambda: None), anyvisor_machine_stopped=hookimpl(lambda: None)
    )
    plugins = traced(onlooker)
    plan = assemble(config.replace(vcpus=1), FACTS, plugins)
    with launch(plan, MockHypervisor(FACTS), plugins) as machine:
        machine.start()
    names = [line.split("(")[0] for line in lines()]
    assert names[-3:] == ["anyvisor_device_factories", "anyvisor_machine_started", "anyvisor_machine_stopped"]
    assert "anyvisor_device_factories(): pc, T ms: serial, i8042" in lines()[-3]


def test_a_call_within_a_call_is_indented_below_it(lines):
    plugins = None

    def anyvisor_gdt():
        plugins.hook.anyvisor_msrs(config=None, facts=None, vcpu=3)
        return plugins.hook.anyvisor_lapic(config=None, vcpu=4)

    def anyvisor_msrs():
        plugins.hook.anyvisor_lapic(config=None, vcpu=5)
        return 1

    hooks = {"anyvisor_gdt": hookimpl(anyvisor_gdt), "anyvisor_msrs": hookimpl(anyvisor_msrs)}
    plugins = traced(plugin("Mine", **hooks, anyvisor_lapic=hookimpl(lambda: 2)))
    plugins.hook.anyvisor_gdt(config=None, layout=None, kernel=None)
    plugins.hook.anyvisor_lapic(config=None, vcpu=6)
    assert lines() == [
        "anyvisor_gdt(): Mine, T ms: 2",
        "  anyvisor_msrs(vcpu=3): Mine, T ms: 1",
        "    anyvisor_lapic(vcpu=5): Mine, T ms: 2",
        "  anyvisor_lapic(vcpu=4): Mine, T ms: 2",
        "anyvisor_lapic(vcpu=6): Mine, T ms: 2",
    ]


def test_what_is_raised_is_shown_and_raised_on(lines, config):
    def fails():
        raise ValueError("on\npurpose")

    plugins = traced(plugin("Mine", anyvisor_gdt=hookimpl(fails)))
    with pytest.raises(PluginError, match="plugin Mine failed"):
        assemble(config, FACTS, plugins)
    assert lines()[-1] == (
        "anyvisor_gdt(): nobody, T ms: raised PluginError: plugin Mine failed in anyvisor_gdt: ValueError: on purpose"
    )

    def fails_within():
        plugins.hook.anyvisor_gdt(config=None, layout=None, kernel=None)

    plugins.register(plugin("Outer", anyvisor_msrs=hookimpl(fails_within)))
    with pytest.raises(PluginError, match="plugin Mine failed"):
        plugins.hook.anyvisor_msrs(config=None, facts=None, vcpu=0)
    assert [line.count("  ") for line in lines()[-2:]] == [0, 1]
    plugins.hook.anyvisor_fdt(config=None, facts=None, layout=None, devices=())
    assert not lines()[-1].startswith(" ")


def test_two_plugins_of_one_name_for_a_hypervisor_are_shown_too(lines):
    other = hookimpl(lambda: {"kvm": "other:open"})
    with pytest.raises(PluginError, match="both kvm and Mine offer 'kvm'"):
        traced(plugin("Mine", anyvisor_hypervisors=other)).names_from("anyvisor_hypervisors")
    assert "raised PluginError: anyvisor_hypervisors: both kvm and Mine" in lines()[-1]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "None"),
        (7, "7"),
        ("x" * 100, f"'{'x' * 56}..."),
        (b"\0" * 9, "bytes"),
        ((), "none"),
        ([], "none"),
        ((1, 2, 3), "3 int"),
        ((1, "a", 2), "int, str, int"),
        ([(1,), ("a", "b")], "1 int + 2 str"),
        ({"kvm": 1, "mock": 2}, "kvm, mock"),
        ({}, "none"),
        (FACTS, "HostFacts"),
        (ConfigError("no"), "ConfigError"),
    ],
)
def test_a_value_is_shown_in_a_few_words(value, words):
    assert short(value) == words


def test_nothing_of_it_is_there_when_it_is_off():
    plain, with_trace = load_plugins(installed=False), traced()
    assert "traced" in with_trace.manager._inner_hookexec.__qualname__
    assert "traced" not in plain.manager._inner_hookexec.__qualname__


SHOW = """
import logging, sys
{before}
from anyvisor.plugins import load_plugins
load_plugins(installed=False)
load_plugins(installed=False).names_from("anyvisor_hypervisors")
"""


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("", r"anyvisor: anyvisor_hypervisors\(\): kvm, unicorn, mock, [\d.]+ ms: kvm, unicorn, mock\n"),
        ("logging.basicConfig(format='mine %(name)s')", "mine anyvisor.trace\n"),
        ("logging.getLogger('anyvisor').addHandler(logging.NullHandler())", ""),
    ],
    ids=["to stderr", "to the program's own handler", "to a handler that keeps quiet"],
)
def test_the_lines_go_to_stderr_once_unless_the_program_has_handlers(monkeypatch, before, words):
    monkeypatch.setenv("ANYVISOR_TRACE", "1")
    code = SHOW.format(before=before)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == ""
    assert re.fullmatch(words, done.stderr)
