"""`anyvisor decode`: what tables of any make say, and one line for what is broken."""

import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from anyvisor.cli import cli
from anyvisor.x86_64.decode import KINDS
from qemu_memory import memory_of

LINUX = Path("/sys/firmware/acpi/tables")
ZERO_PAGE = Path("/sys/kernel/boot_params/data")


@pytest.fixture
def directory(invoke, tmp_path, kernel):
    """A directory with everything that can be dumped of a machine."""
    for kind in ("acpi", "mptable", "smbios", "cpuid"):
        assert invoke("dump", kind, tmp_path / "d", "--cpus", 3, "--tables", "both").exit_code == 0
    for kind in ("bootparams", "gdt"):
        assert invoke("dump", kind, tmp_path / "d", kernel).exit_code == 0
    return tmp_path / "d"


def test_everything_that_is_dumped_is_decoded_with_its_name_before_it(invoke, directory):
    files = sorted(directory.iterdir())
    done = invoke("decode", *files)
    assert done.exit_code == 0, done.stderr
    titles = [line for line in done.stdout.splitlines() if line and not line.startswith(" ")]
    assert [title.partition(": ")[0] for title in titles] == [str(file) for file in files]
    assert "    processors 0-2: APIC ids 0-2, enabled" in done.stdout.splitlines()
    assert "Device C000-C002: _HID ACPI0007, _UID 0-2" in done.stdout
    assert "Device C001: _HID ACPI0007, _UID 1" in invoke("decode", "--full", directory / "SSDT.dat").stdout


def test_json_has_the_values_by_name(invoke, directory):
    done = invoke("decode", "--json", directory / "APIC.dat", directory / "gdt.bin", directory / "DMI")
    madt, gdt, dmi = json.loads(done.stdout)
    assert (madt["kind"], gdt["kind"], dmi["kind"]) == ("acpi", "gdt", "smbios")
    assert [each["apic_id"] for each in madt["value"][0]["entries"] if each["is"] == "Lapic"] == [0, 1, 2]
    assert madt["file"] == str(directory / "APIC.dat")
    assert any("code64" in line for line in gdt["text"])
    assert {"BiosInformation", "SystemInformation"} <= {each["is"] for each in dmi["value"]["structures"]}


def test_standard_input_is_a_file_called_minus(directory):
    data = (directory / "APIC.dat").read_bytes()
    done = CliRunner().invoke(cli, ["decode", "-"], input=data)
    assert done.exit_code == 0
    assert done.stdout.startswith("-: ACPI tables\n  MADT (APIC): ")


def test_a_broken_file_is_one_line_and_the_others_are_shown(invoke, directory):
    broken = directory / "broken.dat"
    content = bytearray((directory / "APIC.dat").read_bytes())
    content[50] ^= 0x10
    broken.write_bytes(content)
    done = invoke("decode", broken, directory / "absent", directory, directory / "FACP.dat")
    assert done.exit_code == 2
    assert re.fullmatch(
        rf"anyvisor: error: {broken}: MADT: checksum at offset 0x9 is 0x\w\w, not 0x\w\w\n"
        rf"anyvisor: error: {directory}/absent: No such file or directory\n"
        rf"anyvisor: error: {directory}: Is a directory\n",
        done.stderr,
    )
    assert "FADT (FACP)" in done.stdout
    told = json.loads(invoke("decode", "--json", broken, directory / "FACP.dat").stdout)
    assert told[0]["error"].startswith("MADT: checksum at offset 0x9")
    assert told[1]["kind"] == "acpi"


def test_what_has_no_mark_needs_its_kind(invoke, directory):
    renamed = (directory / "gdt.bin").rename(directory / "table")
    done = invoke("decode", renamed)
    assert done.exit_code == 2
    assert "no table is known that looks like this, it begins with 00 00 00 00 00 00 00 00" in done.stderr
    assert "say what it is with --kind" in done.stderr
    assert "code64" in invoke("decode", renamed, "--kind", "gdt").stdout


def test_a_kind_can_be_forced_and_is_checked(invoke, directory):
    done = invoke("decode", "--kind", "smbios", directory / "APIC.dat")
    assert (done.exit_code, done.stdout) == (2, "")
    done = invoke("decode", "--kind", "nix", directory / "APIC.dat")
    assert done.exit_code == 2
    assert "there is no kind 'nix'; there are acpi, mptable, zero-page" in done.output


def test_an_empty_file_is_said_to_be_empty(invoke, tmp_path):
    (tmp_path / "nothing").write_bytes(b"")
    assert "it is empty" in invoke("decode", tmp_path / "nothing").stderr


def test_strange_file_names_stay_on_one_line(invoke, tmp_path):
    path = tmp_path / "a\nb\x1b[31m"
    path.write_bytes(b"x")
    assert len(invoke("decode", path).stderr.splitlines()) == 1


def test_the_help_names_every_kind(invoke):
    shown = " ".join(invoke("decode", "--help").stdout.split())
    for kind in KINDS:
        assert re.search(rf"\b{kind}\b", shown), kind


def test_hostile_bytes_never_end_in_a_traceback(directory, tmp_path):
    """Whole runs of the command line over damaged files; the library's own fuzzing is in test_decode_tables."""
    chance = random.Random(5)
    originals = [path.read_bytes() for path in sorted(directory.iterdir())]
    files = []
    for number in range(150):
        data = bytearray(chance.choice(originals))
        for _ in range(chance.choice([1, 3, 30])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        files.append(tmp_path / f"{number}")
        files[-1].write_bytes(data[: chance.choice([len(data), chance.randrange(1, len(data) + 1)])])
    for options in ([], ["--json"], *(["--kind", kind] for kind in KINDS)):
        done = CliRunner().invoke(cli, ["decode", *options, *map(str, files)])
        assert done.exit_code in {0, 2}
        assert done.exception is None or isinstance(done.exception, SystemExit)
        assert all(line.startswith("anyvisor: error: ") for line in done.stderr.splitlines())


# -- tables that nobody here made ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pc(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pc")
    return memory_of("pc", folder / "pc.memory", 32, "-smp", "3,sockets=3", until=(b"RSD PTR ", b"_MP_", b"_SM_"))


def test_the_memory_of_qemu_s_pc_is_read(invoke, pc):
    done = invoke("decode", pc)
    assert done.exit_code == 0, done.stderr
    assert "cannot be read" not in done.stdout
    for line in (
        "RSDP: revision 0, 20 bytes, OEM BOCHS, at 0xf",
        "processors 0-2: APIC ids 0-2, enabled",
        "Device LNKA: _HID PNP0C0F",
        "HPET: revision 1",
        "MP table of BOCHSCPU 0.1, revision 1.4, local APICs at 0xfee00000",
        "product: Standard PC (i440FX + PIIX, 1996)",
    ):
        assert line in done.stdout


def test_qemu_s_tables_are_written_again_to_the_byte(pc):
    from anyvisor.x86_64.decode import decode

    memory = pc.read_bytes()
    found = decode(memory, "memory").value
    for placed in found.acpi.all_placed:
        content = placed.table.to_bytes()
        assert memory[placed.address : placed.address + len(content)] == content, placed.table.name
    assert memory[found.mptable.address :].startswith(found.mptable.table.to_bytes())
    entry = found.smbios.tables.entry
    assert memory[entry.table_address :].startswith(found.smbios.tables.to_bytes())


def test_qemu_s_microvm_is_read_and_what_it_lacks_is_said(invoke, tmp_path):
    shown = invoke("decode", memory_of("microvm", tmp_path / "microvm.memory", 32)).stdout
    assert "XSDT at 0x" in shown
    assert "hardware-reduced" in shown
    assert "MP table of QBOOT" in shown
    assert re.search(r"^  SMBIOS tables\n    none$", shown, re.MULTILINE)


def test_what_this_machine_shows_of_its_own_is_read_as_well(invoke, pc):
    """ACPI tables and a zero page, as far as there are some and this user may read them."""
    shown = [*(LINUX.iterdir() if LINUX.is_dir() else ()), ZERO_PAGE]
    files = [path for path in sorted(shown) if path.is_file() and os.access(path, os.R_OK)]
    done = invoke("decode", pc, *files)
    assert done.exit_code == 0, done.stderr
    assert len(re.findall(r"^\S.*: (ACPI tables|Zero page|Tables in memory)$", done.stdout, re.MULTILINE)) == 1 + len(
        files
    )


def test_what_the_tool_cpuid_says_of_this_machine_is_read():
    if not shutil.which("cpuid"):
        assert os.environ.get("CI") != "true", "no cpuid"
        pytest.skip("apt-get install cpuid")
    text = subprocess.run(["cpuid", "-r"], capture_output=True, timeout=60, check=True).stdout
    done = CliRunner().invoke(cli, ["decode", "-"], input=io.BytesIO(text))
    assert done.exit_code == 0, done.stderr
    assert re.search(r"^  \w+, family \d+, model \d+", done.stdout, re.MULTILINE)


def test_it_is_a_command_like_any_other(directory):
    command = [sys.executable, "-m", "anyvisor", "decode", str(directory / "RSDP.dat")]
    assert b"RSDP: revision 2" in subprocess.check_output(command, timeout=60)
