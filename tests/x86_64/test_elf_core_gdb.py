"""A kernel stopped where it is known to be, on an emulated processor and on this host's KVM, as gdb sees it."""

import contextlib
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

import anyvisor
from anyvisor.config import MachineConfig
from anyvisor.death_dump import dump_machine
from anyvisor.memory import GIB, Region
from anyvisor.x86_64.elf_core import write_core
from anyvisor.x86_64.state import Regs, Sregs, Xsave
from elf_cores import ElfCore, check_by_readelf, gdb, tool
from needed_kvm import need_kvm

TESTS = Path(__file__).parents[1]
FLAGS = ["-g", "-O0", "-static", "-nostdlib", "-no-pie", "-fno-pic", "-ffreestanding", "-fcf-protection=none"]
FLAGS += ["-fno-stack-protector"]


class Kind(NamedTuple):
    """A kind of kernel: what it is compiled with, where it is linked; where its core has physical memory."""

    flags: tuple[str, ...]
    linked_at: int
    window: str


KINDS = {
    "x86_64": Kind(("-mcmodel=kernel", "-mno-red-zone"), 0xFFFFFFFF81000000, "0x4000000000000000"),
    "i386": Kind(("-m32",), 0xC1000000, "0xffffffffULL"),
}


def spinning_kernel(kind, folder):
    """Builds it."""
    linking = ["--build-id=none", "-z,max-page-size=4096", "--no-warn-rwx-segments"]
    linking += [f"--defsym=linked_at={kind.linked_at}", f"-T,{TESTS / 'spinning_kernel.lds'}"]
    sources = ["-Wl," + ",".join(linking), TESTS / "spinning_kernel.c"]
    subprocess.run(
        [tool("gcc", "gcc"), *FLAGS, *kind.flags, "-o", folder / "vmlinux", *sources], check=True, timeout=60
    )
    return folder / "vmlinux"


@contextlib.contextmanager
def stopped(kernel, backend):
    """A machine with the kernel in its loop."""
    with anyvisor.boot(MachineConfig(kernel=kernel, memory="64M"), backend=backend) as machine:
        machine.console.expect("spinning\n", timeout=30)
        machine.pause()
        yield machine


def check_by_gdb(kernel, core, kind):
    """It shows where the guest is, how it got there, and what it has."""
    check_by_readelf(core)
    physical = f"x/s {kind.window} + ((unsigned long)&banner & 0x7ffffff)"
    commands = ["bt", "info registers pc", "p banner", "p turns > 0", "frame function inner", "info locals", physical]
    said = gdb(kernel, core, commands=commands)
    frames = [line.split(" at ")[-1] for line in said.splitlines() if line.startswith("#")]
    order = [said.index(f"{name} (") for name in ("spin_here", "inner", "outer")]
    assert order == sorted(order), said
    assert all("spinning_kernel.c:" in frame for frame in frames[:4]), said
    assert "<spin_here+" in said
    assert "number = 42}" in said
    assert '= "a kernel that spins, version 1"' in said and ':\t"a kernel that spins' in said
    assert "error" not in said.lower() and "Cannot access" not in said, said
    return said


@pytest.mark.parametrize(
    ("kind", "backend"),
    [("x86_64", "unicorn"), pytest.param("x86_64", "kvm", marks=pytest.mark.kvm), ("i386", "unicorn")],
)
def test_gdb_shows_where_the_guest_is_and_how_it_got_there(kind, backend, tmp_path):
    """Software KVM has no paging but that of long mode."""
    if backend == "kvm":
        need_kvm()
    kind = KINDS[kind]
    kernel = spinning_kernel(kind, tmp_path)
    with stopped(kernel, backend) as machine:
        core = dump_machine(machine, tmp_path / "dump").files["core"]
    assert "warning" not in check_by_gdb(kernel, core, kind).lower()


def test_gdb_reads_a_32_bit_guest_with_more_memory_than_32_bits_can_count(tmp_path):
    kernel = spinning_kernel(KINDS["i386"], tmp_path)
    xmm0 = Xsave(bytes(160) + bytes(range(1, 17)) + bytes(4096 - 176))
    above = Region(4 * GIB, 4096), memoryview(b"above".ljust(4096, b"\0"))
    with stopped(kernel, "unicorn") as machine:
        states = {Xsave: xmm0, **{kind: machine.vcpus[0].get(kind) for kind in (Regs, Sregs)}}
        write_core(tmp_path / "core", [*((each.region, each.view) for each in machine.memory), above], [states])
    check_by_gdb(kernel, tmp_path / "core", KINDS["i386"])
    assert ElfCore(tmp_path / "core").read_physical(4 * GIB, 5) == b"above"
    said = gdb(kernel, tmp_path / "core", commands=["x/s 0xffffffffULL + 0x100000000", "p/x $xmm0.uint128"])
    assert '"above"' in said and "0x100f0e0d0c0b0a090807060504030201" in said, said
