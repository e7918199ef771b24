"""`anyvisor plan`: every piece decoded, in words, as JSON and as a picture."""

import json
import xml.etree.ElementTree as ET

import pytest

from anyvisor import BootPlan
from seen_plans import kernel_for


def test_long_tables_are_short_and_full_on_demand(invoke, kernel):
    machine = ("plan", kernel, "--cpus", "300", "--tables", "acpi")
    short, full = invoke(*machine).stdout, invoke(*machine, "--full").stdout
    assert len(short.splitlines()) < 300
    assert "Device C000-C12B: _HID ACPI0007, _UID 0-299" in short
    assert "processors 255-299: x2APIC ids 255-299, enabled" in short
    assert "Device C12B: _HID ACPI0007, _UID 299" in full
    assert "vCPU 299, against vCPU 0:" in full
    assert len(full.splitlines()) > 1500


def test_tables_of_all_kinds_are_shown_together(invoke, kernel):
    shown = invoke(
        "plan", kernel, "--cpus", "4", "-m", "1G", "--tables", "both", "--numa", "512M:0-1", "--numa", "512M:2-3"
    ).stdout
    for line in (
        "  MADT (APIC): revision 6, ",
        "    processors 0-3: APIC ids 0-3, enabled",
        "    processor 1-3: enabled, signature 0x600, features 0x201",
        "  handle 0x0100, type 1, System Information",
        "  1 package x 4 cores x 1 thread, as leaf 0xb of CPUID tells",
        "  node 1: APIC ids 2-3, 512M at 0x20000000-0x3fffffff, distances 20 10",
    ):
        assert line in shown


def test_the_decoded_form_is_json_too(invoke, kernel):
    text = invoke("plan", kernel, "--cpus", "300", "--json", "--decoded").stdout
    sections = {each["title"]: each for each in json.loads(text)}
    placed = {each["table"]["is"]: each for each in sections["ACPI tables"]["value"]["placed"]}
    assert len([each for each in placed["Madt"]["table"]["entries"] if each["is"] in {"Lapic", "X2Apic"}]) == 300
    assert sections["GDT"]["value"]["segments"][2]["is"] == "Segment"
    assert sections["Boot parameters"]["value"]["structure"]["header"]["header"] == int.from_bytes(b"HdrS", "little")
    assert sections["Topology"]["value"]["counts"] == {"package": 1, "core": 300, "thread": 1}
    assert sections["MP table"]["value"] is None
    assert sections["Steps"]["text"][0].startswith("anyvisor_memory_layout")


def test_json_alone_stays_the_plan(invoke, kernel):
    plan = BootPlan.from_json(invoke("plan", kernel, "--json", "--full").stdout)
    assert [each.index for each in plan.vcpus] == [0]


def test_decoded_alone_is_refused_with_the_way_out(invoke, kernel):
    done = invoke("plan", kernel, "--decoded")
    assert done.exit_code == 2
    assert "--decoded goes with --json" in done.stderr


def test_a_picture_is_drawn_into_a_file_and_nothing_else_is_printed(invoke, kernel, tmp_path):
    done = invoke("plan", kernel, "--svg", tmp_path / "memory.svg")
    assert done.exit_code == 0
    assert done.stdout == ""
    assert f"wrote {tmp_path / 'memory.svg'}" in done.stderr
    words = " ".join(each.text or "" for each in ET.parse(tmp_path / "memory.svg").iter())
    for name in ("zero page", "GDT", "RSDP", "SMBIOS tables", "I/O APIC", "reserved RAM", "placed by linux"):
        assert name in words


def test_a_picture_goes_to_stdout_and_beside_json(invoke, kernel, tmp_path):
    ET.fromstring(invoke("plan", kernel, "--svg", "-").stdout)
    text = invoke("plan", kernel, "--svg", tmp_path / "m.svg", "--json").stdout
    assert BootPlan.from_json(text).blobs
    assert (tmp_path / "m.svg").read_text().startswith("<svg")


def test_a_picture_that_cannot_be_written_is_one_line(invoke, kernel, tmp_path):
    done = invoke("plan", kernel, "--svg", tmp_path / "absent" / "memory.svg")
    assert done.exit_code == 2
    assert done.stderr == f"anyvisor: error: {tmp_path}/absent/memory.svg: No such file or directory\n"


@pytest.mark.parametrize("option", [("--raw-address", "0x7c00"), ("--raw-mode", "real")])
def test_a_place_for_a_flat_binary_goes_with_its_protocol(invoke, kernel, option):
    done = invoke("plan", kernel, *option)
    assert done.exit_code == 2
    assert "no image looks like one; add --protocol raw (see anyvisor plan --help)" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("linux64", ["in long mode", "zero page    at 0x7000", "code64"]),
        ("linux32", ["in protected mode", "zero page    at 0x7000", "code32"]),
        ("pvh", ["in protected mode", "PVH start info at 0x6000", "magic           0x336ec578"]),
        ("multiboot", ["in protected mode", "multiboot information at 0x6000", "loader anyvisor"]),
        ("raw", ["in long mode", "no parameters"]),
    ],
)
def test_boot_parameters_are_shown_by_protocol(invoke, tmp_path, protocol, words):
    done = invoke("plan", kernel_for(protocol, tmp_path), "--protocol", protocol)
    assert done.exit_code == 0, done.stderr
    for each in words:
        assert each in done.stdout
    assert "cannot be read" not in done.stdout
