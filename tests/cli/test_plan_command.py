"""`anyvisor plan`: what is shown is what the guest will find, read back from the plan's bytes."""

import json
import struct

import attrs
import pytest
from guests_in_bytes import LOAD_ADDRESS

from anyvisor import BootPlan, MachineConfig, assemble, generic_facts
from anyvisor.config import DEFAULT_COMMAND_LINE
from anyvisor.memory import GIB, MIB
from anyvisor.x86_64.describe import describe

SECTIONS = [
    "Memory map",
    "GDT",
    "Page tables",
    "Boot parameters",
    "ACPI tables",
    "MP table",
    "SMBIOS tables",
    "Processor",
    "Topology",
    "NUMA",
    "CPUID, as against the host's",
    "MSRs",
    "Registers",
    "Virtual machine",
    "Devices",
    "Steps",
]


@pytest.fixture
def described(kernel):
    """The sections of a plan for a configuration: title -> text."""

    def described(change=lambda plan: plan, **config):
        plan = change(assemble(MachineConfig(kernel=kernel, **config), generic_facts()))
        return {section.title: section.text for section in describe(plan, generic_facts())}

    return described


def test_every_section_is_shown_and_none_is_unreadable(invoke, kernel):
    shown = invoke("plan", kernel, "--cpus", "2").stdout
    titles = [line for line in shown.splitlines() if line and not line.startswith(" ")]
    assert titles == SECTIONS
    assert "cannot be read" not in shown


def test_json_is_the_plan_itself(invoke, kernel):
    text = invoke("plan", kernel, "--json", "--cpus", "3").stdout
    assert BootPlan.from_json(text) == assemble(MachineConfig(kernel=kernel, vcpus=3), generic_facts())
    assert len(json.loads(text)["vcpus"]) == 3


def test_the_segments_are_named_by_what_they_are(described):
    lines = described()["GDT"].splitlines()
    assert any("0x0010" in line and "code64" in line for line in lines)
    assert any("0x0018" in line and "data32" in line for line in lines)
    assert any("0x0020" in line and "tss64 busy" in line for line in lines)


def test_page_tables_are_shown_as_the_ranges_they_map(described):
    assert described()["Page tables"].splitlines() == [
        "root (CR3) 0x9000",
        "0x000000000000 - 0x0000ffffffff  to itself: 2048 pages of 2M",
    ]
    assert "2560 pages of 2M" in described(memory=4 * GIB)["Page tables"]


def test_a_page_that_leads_elsewhere_is_shown_as_such(described):
    """Damage one entry of the lowest table: the second 2 MiB lead to the third."""

    def damage(plan):
        tables = plan.blob("page tables")
        content = bytearray(tables.content)
        struct.pack_into("<Q", content, 2 * 4096 + 8, 4 * MIB | 0x83)
        return replaced(plan, tables, bytes(content))

    lines = described(damage)["Page tables"].splitlines()
    assert lines[1:] == [
        "0x000000000000 - 0x0000001fffff  to itself: 1 pages of 2M",
        "0x000000200000 - 0x0000003fffff  to 0x400000: 1 pages of 2M",
        "0x000000400000 - 0x0000ffffffff  to itself: 2046 pages of 2M",
    ]


def test_boot_parameters_are_read_back_from_the_zero_page(described, tmp_path):
    (tmp_path / "initrd").write_bytes(b"x" * 5000)
    text = described(command_line="console=ttyS0 answer=42", initrd=tmp_path / "initrd", memory=64 * MIB)[
        "Boot parameters"
    ]
    assert f"entry        {LOAD_ADDRESS:#x}" in text
    assert "command line 'console=ttyS0 answer=42' (23 of 2047 bytes)" in text
    assert "(5000)" in text
    assert "0x00000009e000-0x0000000fffff  RESERVED" in text


def replaced(plan, old, content):
    """The plan with other bytes in one of its pieces."""
    new = attrs.evolve(old, content=content)
    return attrs.evolve(plan, blobs=tuple(new if each is old else each for each in plan.blobs))


def test_a_damaged_table_is_described_by_the_reason(described):
    def damage(plan):
        table = next(
            each for each in plan.blobs if isinstance(each.content, bytes) and each.content.startswith(b"PCMP")
        )
        return replaced(plan, table, b"PCMQ" + table.content[4:])

    sections = described(damage, tables="mptable")
    assert sections["MP table"].startswith("cannot be read: ")
    assert "code64" in sections["GDT"]


def test_each_vcpu_has_its_processor_entry_and_its_own_cpuid(described):
    sections = described(vcpus=3, tables="mptable")
    assert (
        [line for line in sections["MP table"].splitlines() if "processor" in line][2].strip().startswith("processor 2")
    )
    cpuid = sections["CPUID, as against the host's"]
    assert "+HYPERVISOR" in cpuid.partition("vCPU 1")[0]
    assert "0x02" in cpuid.partition("vCPU 2")[2]


def test_apic_ids_are_those_of_the_topology(described):
    from anyvisor import Topology

    machine = described(vcpus=3, topology=Topology(cores=3))["Virtual machine"]
    assert "vCPUs: 3, APIC ids 0-2" in machine


def test_vcpus_that_are_alike_are_told_together(described):
    registers = described(vcpus=3)["Registers"]
    assert registers.startswith("vCPU 0:\n")
    assert "vCPU 1-2:\n  waits for the kernel to wake it" in registers


def test_msrs_are_named(described):
    assert "MTRR_DEF_TYPE = 0x806" in described()["MSRs"]


def test_devices_and_steps_name_who_provides_them(invoke, kernel):
    shown = invoke("plan", kernel).stdout
    assert "serial0 (serial): port 0x3f8-0x3ff, interrupt 4" in shown
    assert "anyvisor_gdt             linux" in shown
    assert "anyvisor_devices         pc" in shown


def test_a_plugin_that_adjusts_a_step_is_named(run, kernel, plugin_path, environment):
    source = "import anyvisor\n@anyvisor.hookimpl(wrapper=True)\ndef anyvisor_gdt():\n    return (yield)\n"
    environment["PYTHONPATH"] = f"{plugin_path('adjuster', 'adjuster', source)}:{environment['PYTHONPATH']}"
    assert "anyvisor_gdt             linux, adjusted by adjuster" in run("plan", kernel).stdout


def test_a_plan_for_a_backend_uses_its_facts(run, kernel):
    shown = run("plan", kernel, "--backend", "scripted")
    assert shown.returncode == 0
    assert "vCPU 0, against the scripted backend" in shown.stdout


@pytest.mark.parametrize(
    ("options", "topology"),
    [
        (["--cpus", "4"], (1, 4, 1)),
        (["--cpus", "4", "--sockets", "2"], (2, 2, 1)),
        (["--cpus", "4", "--threads", "2"], (1, 2, 2)),
        (["--sockets", "2", "--cores", "3"], (2, 3, 1)),
        (["--threads", "2"], (1, 1, 2)),
        ([], (1, 1, 1)),
    ],
)
def test_what_is_left_out_of_a_topology_follows_from_the_rest(kernel, options, topology):
    import click

    from anyvisor.cli.options import MachineOptions, machine_options

    seen = []

    @click.command()
    @machine_options
    def command(**said):
        seen.append(MachineOptions(**said).to_config())

    command.main([str(kernel), *options], standalone_mode=False)
    found = seen[0].topology
    assert (found.sockets, found.cores, found.threads) == topology
    assert seen[0].vcpus == found.vcpus


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], DEFAULT_COMMAND_LINE),
        (["--append", "quiet"], f"{DEFAULT_COMMAND_LINE} quiet"),
        (["--cmdline", "a=1"], "a=1"),
        (["--cmdline", "a=1", "--append", "b=2"], "a=1 b=2"),
        (["--cmdline", ""], ""),
    ],
)
def test_the_command_line_is_replaced_or_added_to(invoke, kernel, options, line):
    assert f"command line {line!r} ({len(line)} of" in invoke("plan", kernel, *options).stdout
