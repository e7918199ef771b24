"""A Debian kernel at its shell's prompt, kept, and read by gdb with nothing but the names that its image carries."""

import json
import subprocess
import time

import pytest

import anyvisor
from anyvisor.config import DEFAULT_COMMAND_LINE, MachineConfig
from anyvisor.death_dump import dump_machine
from anyvisor.symbols import Symbols
from anyvisor.x86_64.state import Regs
from elf_cores import ElfCore, check_by_readelf, gdb, tool

pytestmark = pytest.mark.timeout(240)

LINKED_AT = 0xFFFFFFFF81000000
IDLE = ("default_idle", "native_safe_halt", "default_idle_call")
WANTED = (*IDLE, "do_idle", "linux_banner")
LOOKS = 300
NEAR_BYTES = 1 << 16


def symbol_file(folder, symbols):
    """An ELF file with the names of the kernel that gdb is to find and of all in their neighbourhood, and no code."""
    places = [place for name in WANTED if (place := symbols.address(name))]
    near = {
        name: at for at, name in symbols if name.isidentifier() and any(abs(at - each) < NEAR_BYTES for each in places)
    }
    source = folder / "names.s"
    lines = [
        f".globl {name}\n.type {name}, @function\n.set {name}, base + {at - LINKED_AT}\n" for name, at in near.items()
    ]
    source.write_text('.section .kernel, "ax", @nobits\nbase:\n' + "".join(lines) + ".org 0x2000000\n")
    subprocess.run([tool("as", "binutils"), "-o", folder / "names.o", source], check=True, timeout=60)
    linking = ["ld", f"--section-start=.kernel={LINKED_AT:#x}", "-e", "0", "-o", folder / "names", folder / "names.o"]
    subprocess.run(linking, check=True, timeout=60)
    return folder / "names"


def pause_when_idle(machine, symbols):
    """A timer or a thread of the kernel's own keeps it busy for a moment, now and then."""
    for _ in range(LOOKS):
        time.sleep(0.1)
        machine.pause()
        name, _, _ = (symbols.name(machine.vcpus[0].get(Regs).rip) or "").partition("+")
        if name in IDLE:
            return
        machine.resume()
    pytest.fail("the kernel was never found idle")


def test_gdb_finds_an_idle_kernel_idle_and_reads_its_memory(cloud_kernel, shell_initrd, tmp_path):
    symbols = Symbols.load(cloud_kernel.vmlinuz)
    config = MachineConfig(
        kernel=cloud_kernel.vmlinuz,
        initrd=shell_initrd,
        memory="512M",
        command_line=f"{DEFAULT_COMMAND_LINE} quiet nokaslr 8250.nr_uarts=1",
        unpack=True,
    )
    with anyvisor.boot(config, backend="unicorn") as machine:
        machine.console.expect("guest# ", timeout=60)
        pause_when_idle(machine, symbols)
        began = time.perf_counter()
        made = dump_machine(machine, tmp_path / "dump")
        took = time.perf_counter() - began
    core = made.files["core"]
    disk_bytes = core.stat().st_blocks * 512
    print(f"512M in {took:.2f} s, {disk_bytes >> 20}M of disk")
    assert took < 20  # a tenth of that on a machine that does nothing else
    assert disk_bytes < 128 << 20
    assert "guest# " in made.files["console.log"].read_text()
    assert json.loads(made.files["report.json"].read_text())
    check_by_readelf(core)
    assert f"OSRELEASE={cloud_kernel.version}\n".encode() in ElfCore(core).note("VMCOREINFO")
    names = symbol_file(tmp_path, symbols)
    said = gdb(names, core, commands=["info symbol $rip", "x/s &linux_banner", "bt"])
    assert any(f"{name} + " in said for name in IDLE), said
    assert f'"Linux version {cloud_kernel.version} ' in said, said
    assert " in do_idle ()" in said, said
