"""Multiboot kernels on the emulated processor: ours, beside what QEMU's loader tells them, and Debian's Xen."""

import gzip
import shutil
import struct

import pytest
from xen_log import COMMAND_LINE as FOR_XEN
from xen_log import DOM0_MISSING, MEMORY_MAP, complaints, shows_handover, text

import anyvisor
from anyvisor.config import MachineConfig
from multiboot_kernels import FORMS, Told, assemble, check_told, elf32, flat, spoken, told_by_qemu

pytestmark = pytest.mark.timeout(120)

MEMORY = 64 << 20
COMMAND_LINE = "one two=3"


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    path = tmp_path_factory.mktemp("module") / "module"
    path.write_bytes(bytes(range(256)) * 20 + b"end")
    return path


@pytest.mark.parametrize("image", [elf32(), flat(), gzip.compress(elf32())], ids=["elf", "flat", "packed"])
def test_a_kernel_made_by_hand_finds_the_magic_number_and_the_structure(image, tmp_path):
    (tmp_path / "kernel").write_bytes(image)
    said = spoken(MachineConfig(kernel=tmp_path / "kernel", memory=MEMORY), "unicorn")
    assert struct.unpack("<5I", said) == (0x2BADB002, 0x6000, 0b1001000101, 632, 63 << 10)


@pytest.mark.parametrize("form", FORMS)
def test_a_kernel_made_by_the_linker_is_told_what_the_specification_promises(form, module, tmp_path):
    kernel = assemble(tmp_path, form)
    config = MachineConfig(kernel=kernel, initrd=module, memory=MEMORY, command_line=COMMAND_LINE)
    told = Told.parse(spoken(config, "unicorn"))
    check_told(told, "anyvisor", f"{kernel.name} {COMMAND_LINE}", module.read_bytes(), MEMORY)


@pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="install QEMU (Debian: qemu-system-x86) to judge")
@pytest.mark.parametrize("form", ["elf32", "kludge"])  # QEMU takes no multiboot kernel of 64 bits
def test_qemu_s_loader_tells_the_same_kernel_the_same(form, module, tmp_path):
    kernel = assemble(tmp_path, form)
    told = told_by_qemu(kernel, tmp_path, COMMAND_LINE, "64M", str(module))
    check_told(told, "qemu", f"{kernel} {COMMAND_LINE}", module.read_bytes(), MEMORY)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
def test_xen_says_who_it_is_and_that_it_has_no_dom0(packed, xen, tmp_path):
    kernel = xen
    if not packed:
        kernel = tmp_path / "xen"
        kernel.write_bytes(gzip.decompress(xen.read_bytes()))
    config = MachineConfig(kernel=kernel, memory="256M", command_line=FOR_XEN)
    with anyvisor.boot(config, backend="unicorn") as machine:
        machine.console.expect(DOM0_MISSING, timeout=60)
        assert shows_handover(machine.console.text, FOR_XEN)
        assert machine.wait(30).reason == "reset"


def test_xen_reads_the_memory_map_and_the_acpi_tables(xen, cloud_kernel):
    config = MachineConfig(xen, cloud_kernel.vmlinuz, command_line=FOR_XEN, memory="768M")
    with anyvisor.boot(config, backend="unicorn") as machine:
        machine.console.expect("Detected ", timeout=60)  # it has found the timer that the tables tell of
        log = machine.console.text
    assert MEMORY_MAP in text(log)
    assert "(XEN) ACPI: RSDP 000E0000" in log
    assert "(XEN) ACPI: PM-Timer IO Port: 0x608" in log
    assert not complaints(log)
