"""`anyvisor dump`: raw bytes for other tools, which are asked here what they read in them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from anyvisor import MachineConfig, assemble, generic_facts
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.dump import KINDS, dump
from seen_plans import kernel_for

SECONDS = 120
PACKAGES = {"iasl": "acpica-tools", "acpiexec": "acpica-tools", "dmidecode": "dmidecode", "cpuid": "cpuid"}


def ask(*command, cwd):
    """What a tool of Debian's says; a skip, in CI a failure, where it is not installed."""
    if not shutil.which(command[0]):
        assert os.environ.get("CI") != "true", f"no {command[0]}"
        pytest.skip(f"apt-get install {PACKAGES[command[0]]}")
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL, check=False
    )
    return done.stdout + done.stderr


@pytest.fixture
def dumped(invoke, tmp_path):
    """Dump into a new directory: `dumped("acpi", "--cpus", 2)` -> the directory."""

    def dumped(kind, *options):
        directory = tmp_path / kind
        done = invoke("dump", kind, directory, *options)
        assert done.exit_code == 0, done.stderr
        listed = re.findall(r"^(.*)  (\d+) bytes$", done.stdout, re.MULTILINE)
        assert {Path(path): int(size) for path, size in listed} == {
            path: path.stat().st_size for path in directory.iterdir()
        }
        return directory

    return dumped


# -- what other tools read -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [("--cpus", 1), ("--cpus", 300), ("--cpus", 2, "--reduced-hardware")])
def test_iasl_disassembles_every_acpi_table_and_acpiexec_loads_the_aml(dumped, options):
    directory = dumped("acpi", *options)
    names = {path.name for path in directory.iterdir()}
    assert {"RSDP.dat", "XSDT.dat", "FACP.dat", "APIC.dat", "DSDT.dat", "SSDT.dat"} <= names
    for name in sorted(names - {"RSDP.dat"}):
        said = ask("iasl", "-d", name, cwd=directory)
        assert not re.search(r"error|warning|incorrect|invalid", said, re.IGNORECASE), f"{name}: {said}"
        assert (directory / name).with_suffix(".dsl").exists()
    said = ask("acpiexec", "-b", "namespace", "DSDT.dat", "SSDT.dat", cwd=directory)
    assert "ACPI: 2 ACPI AML tables successfully acquired and loaded" in said
    assert not re.search(r"ACPI (Error|Warning|Exception)", said)
    assert f"C{options[1] - 1:03X}" in said


def test_dmidecode_reads_the_smbios_tables_in_either_form(dumped):
    directory = dumped("smbios", "--cpus", 2)
    said = ask("dmidecode", "--from-dump", "dmidecode.bin", cwd=directory)
    assert re.search(r"^SMBIOS 3\.\d\.\d present\.$", said, re.MULTILINE)
    assert "Manufacturer: anyvisor" in said
    assert "End Of Table" in said
    assert not re.search(r"bad|wrong|invalid|truncated|broken|out of spec", said, re.IGNORECASE)
    from anyvisor.x86_64.smbios import SmbiosTables

    assert SmbiosTables.from_sysfs(directory) == SmbiosTables.from_dump((directory / "dmidecode.bin").read_bytes())


def test_cpuid_reads_every_vcpu_and_its_topology(dumped):
    directory = dumped("cpuid", "--sockets", 2, "--cores", 4, "--threads", 2)
    said = ask("cpuid", "-f", "cpuid.txt", cwd=directory)
    assert re.findall(r"^CPU (\d+):", said, re.MULTILINE) == [str(number) for number in range(16)]
    assert said.count("(multi-processing synth) = multi-core (c=4), hyper-threaded (t=2)") == 16
    found = re.findall(r"\(APIC synth\): PKG_ID=0 CORE_ID=(\d+) SMT_ID=(\d+)", said)  # it counts packages as cores
    assert [int(core) << 1 | int(thread) for core, thread in found] == list(range(16))


# -- the bytes themselves --------------------------------------------------------------------------------------


def test_the_files_are_the_bytes_in_the_guest_s_memory(tmp_path):
    plan = assemble(MachineConfig(kernel=kernel_for("linux64", tmp_path), tables="both", vcpus=2), generic_facts())
    contents = {blob.content for blob in plan.blobs if isinstance(blob.content, bytes)}
    for kind in ("acpi", "mptable", "bootparams", "gdt"):
        for name, content in dump(plan, kind).items():
            assert content in contents, name
    smbios = dump(plan, "smbios")
    assert {smbios["DMI"], smbios["smbios_entry_point"]} <= contents
    text = dump(plan, "cpuid")["cpuid.txt"].decode()
    assert Cpuid.from_raw_dump(text, 1).apic_id == 1


@pytest.mark.parametrize(
    ("protocol", "name", "size_bytes", "start"),
    [
        ("linux64", "zero_page.bin", 4096, b"\0" * 0x70 + b"\0\0\x0e\0"),
        ("linux32", "zero_page.bin", 4096, b"\0" * 0x70 + b"\0\0\x0e\0"),
        ("pvh", "start_info.bin", 56, b"\x78\xc5\x6e\x33\x01\0\0\0"),
        ("multiboot", "mbi.bin", 116, (1 | 1 << 2 | 1 << 6 | 1 << 9).to_bytes(4, "little")),
    ],
)
def test_boot_parameters_are_those_of_the_protocol(dumped, tmp_path, protocol, name, size_bytes, start):
    directory = dumped("bootparams", kernel_for(protocol, tmp_path), "--protocol", protocol)
    (file,) = directory.iterdir()
    assert (file.name, file.stat().st_size) == (name, size_bytes)
    assert file.read_bytes().startswith(start)


def test_several_ssdts_are_numbered_as_linux_does(tmp_path):
    from anyvisor.memory import Region
    from anyvisor.plan import BootPlan
    from anyvisor.x86_64.acpi.fadt import Fadt
    from anyvisor.x86_64.acpi.table import Table
    from anyvisor.x86_64.acpi.tables import AcpiTables

    tables = AcpiTables((Fadt(), Table("DSDT", b""), Table("SSDT", b""), Table("SSDT", b"\xa3"), Table("../x", b"")))
    placed = tables.at(Region(0xA0000, 0x4000), rsdp=0xE0000)
    files = dump(BootPlan("x86_64", (Region(0, 1 << 20),), blobs=placed.blobs), "acpi")
    assert list(files) == ["RSDP.dat", "XSDT.dat", "FACP.dat", "DSDT.dat", "SSDT1.dat", "SSDT2.dat", "___x.dat"]
    assert files["SSDT2.dat"].endswith(b"\xa3")


# -- manners ---------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_unless_forced(invoke, tmp_path):
    kept = tmp_path / "d" / "SPCR.dat"
    kept.parent.mkdir()
    kept.write_text("mine")
    done = invoke("dump", "acpi", tmp_path / "d")
    assert done.exit_code == 2
    assert "SPCR.dat exists; --force overwrites it" in done.stderr
    assert kept.read_text() == "mine"
    assert list(kept.parent.iterdir()) == [kept]
    assert invoke("dump", "acpi", tmp_path / "d", "--force").exit_code == 0
    assert kept.read_bytes().startswith(b"SPCR")


def test_a_dangling_link_is_not_written_through(invoke, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "RSDP.dat").symlink_to(tmp_path / "elsewhere")
    assert invoke("dump", "acpi", tmp_path / "d").exit_code == 2
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nix",), "there is no 'nix' to dump; there are acpi, mptable, smbios, cpuid, bootparams, gdt"),
        (("mptable", "--tables", "acpi"), "the plan has no MP table; ask for one with --tables mptable, or both"),
        (("acpi", "--tables", "none"), "the plan has no ACPI tables; ask for them with --tables acpi"),
        (("smbios", "--tables", "none"), "the plan has no SMBIOS tables"),
        (("bootparams",), "there is no kernel"),
        (("gdt",), "there is no kernel"),
        (("acpi", "--memory", "12x"), "memory"),
    ],
)
def test_what_cannot_be_dumped_is_said_in_one_line(invoke, tmp_path, arguments, words):
    kind, *options = arguments
    done = invoke("dump", kind, tmp_path / "d", *options)
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
    assert not (tmp_path / "d").exists()


def test_a_directory_that_is_a_file_is_said_to_be_one(invoke, tmp_path):
    (tmp_path / "d").write_text("")
    done = invoke("dump", "acpi", tmp_path / "d")
    assert done.exit_code == 2
    assert "is a file" in done.stderr


def test_a_place_that_cannot_be_written_is_named_first(invoke, tmp_path):
    (tmp_path / "file").write_text("")
    done = invoke("dump", "acpi", tmp_path / "file" / "d")
    assert done.exit_code == 2
    assert done.stderr == f"anyvisor: error: {tmp_path}/file/d: Not a directory\n"


def test_the_help_names_every_kind(invoke):
    shown = invoke("dump", "--help").stdout
    for kind in KINDS:
        assert re.search(rf"\b{kind}\b", shown)
