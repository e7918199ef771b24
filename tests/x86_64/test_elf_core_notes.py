"""The notes of core files: the registers, compared with what QEMU writes, and what a kernel says of itself."""

import struct
import subprocess

import attrs
import pytest
from made_cores import LONG, NUMBERED, PROTECTED, RESET, maker

from anyvisor.x86_64.elf_core.notes import (
    I386_REGISTERS,
    NT_FPREGSET,
    NT_PRSTATUS,
    NT_PRXFPREG,
    find_vmcoreinfo,
    note,
    qemu_note,
)
from anyvisor.x86_64.msr_index import Msr
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.state import Regs, SegmentRegister, Sregs, Xsave
from elf_cores import ElfCore, tool
from qmp import ask

VMCOREINFO = b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\nKERNELOFFSET=1e000000\n"


@pytest.fixture
def core(tmp_path):
    return maker(tmp_path)


def test_each_processor_has_a_thread_with_its_registers(core):
    segment = SegmentRegister(selector=0x33, base=0x7F0000001000)
    sregs = attrs.evolve(LONG, fs=segment, cs=attrs.evolve(LONG.cs, selector=0x10))
    _, made = core({}, {Regs: NUMBERED, Sregs: sregs}, {Regs: Regs(rip=7), Sregs: LONG})
    first, second = (made.note("CORE", NT_PRSTATUS, index) for index in (0, 1))
    assert len(first) == 336
    assert [struct.unpack_from("<I", each, 32)[0] for each in (first, second)] == [1, 2]
    registers = struct.unpack_from("<27Q", first, 112)
    r15, *_, rdi, orig_rax, rip, cs, flags, rsp, _, fs_base, _, _, _, fs, _ = registers
    assert (r15, rdi, rip, cs, flags, rsp, fs_base, fs) == (
        0x110, 0x106, 0xFFFFFFFF81001234, 0x10, 0x246, 0x107, 0x7F0000001000, 0x33,
    )  # fmt: skip
    assert orig_rax == (1 << 64) - 1
    assert struct.unpack_from("<27Q", second, 112)[16] == 7


def test_the_registers_of_a_32_bit_processor_have_32_bits(core):
    area = bytes(range(256)) * 16
    states = {Regs: attrs.evolve(NUMBERED, rip=0x1C1001234), Sregs: PROTECTED, Xsave: Xsave(area)}
    _, made = core({}, states, {Regs: Regs(rip=7), Sregs: PROTECTED})
    first, second = (made.note("CORE", NT_PRSTATUS, index) for index in (0, 1))
    assert [struct.unpack_from("<I", each, 24)[0] for each in (first, second)] == [1, 2]
    ebx, ecx, *_, eax, ds, es, fs, gs, orig_eax, eip, cs, eflags, esp, ss = struct.unpack_from("<17I", first, 72)
    assert (ebx, ecx, eax, ds, es, fs, gs, orig_eax, eip, cs, eflags, esp, ss) == (
        0x102, 0x103, 0x101, 0, 0, 0, 0, 0xFFFFFFFF, 0xC1001234, 0xF000, 0x246, 0x107, 0,
    )  # fmt: skip
    assert struct.unpack_from("<17I", second, 72)[12] == 7
    assert made.note("LINUX", NT_PRXFPREG) == area[:512]
    assert [struct.unpack_from("<i", each, 140)[0] for each in (first, second)] == [1, 0]


def test_floating_point_registers_are_there_if_they_are_known(core):
    area = bytes(range(256)) * 16
    _, made = core({}, {Regs: NUMBERED, Sregs: LONG, Xsave: Xsave(area)}, {Regs: NUMBERED, Sregs: LONG})
    assert made.note("CORE", NT_FPREGSET) == area[:512]
    assert [struct.unpack_from("<i", made.note("CORE", NT_PRSTATUS, index), 328)[0] for index in (0, 1)] == [1, 0]
    assert sum(kind == NT_FPREGSET for _, kind, _ in made.notes) == 1


def test_a_processor_after_reset_is_described_as_qemu_describes_its_own(tmp_path):
    path = tmp_path / "theirs"
    command = ["timeout", "50", tool("qemu-system-x86_64", "qemu-system-x86"), "-S", "-accel", "tcg", "-m", "2"]
    command += ["-nodefaults", "-display", "none", "-qmp", "stdio"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as qemu:
        try:
            ask(qemu, "qmp_capabilities")
            ask(qemu, "dump-guest-memory", paging=False, protocol=f"file:{path}")
        finally:
            qemu.terminate()
    theirs = ElfCore(path)
    state, status = theirs.note("QEMU"), theirs.note("CORE", NT_PRSTATUS)
    signature = struct.unpack_from("<Q", state, 8 + 3 * 8)[0]  # of the processor, in RDX
    states = {**RESET, Regs: attrs.evolve(RESET[Regs], rdx=signature)}
    assert qemu_note(states) == note(b"QEMU", 0, state)
    assert theirs.machine == 3
    status = status[: 72 + 11 * 4] + b"\xff" * 4 + status[72 + 12 * 4 :]  # QEMU says that it is in system call 0
    ours = {kind: state for kind, state in states.items() if kind is not Xsave}
    assert I386_REGISTERS.notes(0, ours) == note(b"CORE", NT_PRSTATUS, status)


def test_the_control_registers_and_the_kernels_gs_base_are_in_qemus_note():
    sregs = attrs.evolve(LONG, cr2=0x222, cr3=0x333)
    content = qemu_note({Sregs: sregs, Msrs: Msrs.of({Msr.KERNEL_GS_BASE: 0xFFFF888000000000})})[20:]
    assert struct.unpack_from("<6Q", content, len(content) - 48) == (
        int(LONG.cr0), 0, 0x222, 0x333, int(LONG.cr4), 0xFFFF888000000000,
    )  # fmt: skip


def test_what_linux_says_of_itself_is_found_and_told(core, tmp_path):
    linux = note(b"VMCOREINFO", 0, VMCOREINFO)
    written, made = core({0x1FF000: b"VMCOREINFO", 0x5000: linux}, {Regs: Regs(), Sregs: LONG})
    assert made.note("VMCOREINFO") == VMCOREINFO
    assert written.vmcoreinfo["OSRELEASE"] == "6.1.0-test"
    assert written.kernel_offset == 0x1E000000
    command = "gdb -ex 'symbol-file vmlinux -o 0x1e000000' -c '/a b/core'"
    assert written.debugger("/a b/core") == command
    assert core({}, {Regs: Regs(), Sregs: LONG})[0].debugger("/a/core") == "gdb vmlinux /a/core"


@pytest.mark.parametrize(
    "content",
    [
        note(b"VMCOREINFO", 1, VMCOREINFO),
        note(b"VMCOREINFO", 0, b"SOMETHING=ELSE\n"),
        note(b"VMCOREINFO", 0, VMCOREINFO + bytes(8)),
        note(b"VMCOREINFO", 0, VMCOREINFO)[:4] + b"\xff" * 4 + note(b"VMCOREINFO", 0, VMCOREINFO)[8:],
        note(b"VMCOREINFO", 0, VMCOREINFO)[:23],
        note(b"VMCOREINFO", 0, VMCOREINFO)[:40],
    ],
    ids=["other type", "other text", "zeros", "too long", "cut in its name", "cut in its text"],
)
def test_what_only_looks_like_it_is_not_taken_for_it(content):
    assert find_vmcoreinfo([memoryview(content)]) == b""


def test_what_is_left_out_is_in_the_file_as_well(core):
    written, made = core({}, {}, left_out=["something is lost"])
    unknown = "Regs and Sregs of vCPU 0 are not known: its registers of those are 0"
    assert written.left_out == ("something is lost", unknown)
    assert [made.note("ANYVISOR", index=index).decode() for index in (0, 1)] == list(written.left_out)
