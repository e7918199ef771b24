"""Evidence of guests that died, made by hand: a few bytes of code in long mode, as a plan starts them."""

import itertools

import attrs

from anyvisor.diagnosis import Evidence, report
from anyvisor.errors import GuestMemoryError
from anyvisor.exits import Shutdown
from anyvisor.flight import NotedExit
from anyvisor.memory import MIB, Region
from anyvisor.plan import Blob, BootPlan, VcpuPlan
from anyvisor.x86_64.control import Rflags
from anyvisor.x86_64.gdt import BOOT_GDT
from anyvisor.x86_64.modes import LONG, enter
from anyvisor.x86_64.paging import PageTables
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import DescriptorTable, Regs, Sregs

RAM = Region(0, 4 * MIB, "RAM")
CODE, STACK, PAGE_TABLES, GDT = 0x100000, 0x8FF0, 0x9000, 0x500
UNMAPPED = 1 << 39
"""A linear address that the page tables do not map."""
# fmt: off
NOP, UD2, INT3 = b"\x90", b"\x0f\x0b", b"\xcc"
PUSH = b"\x50"                              # push rax
STORE = b"\x48\x89\x03"                     # mov [rbx], rax
LOAD_DS = b"\x8e\xd8"                       # mov ds, eax
DIVIDE = b"\xf7\xf1"                        # div ecx
CLEAR_ECX = b"\x31\xc9"                     # xor ecx, ecx
# fmt: on
OUT = NotedExit("out", 0x80, 1, 0, CODE)
RESET = {type(each): each for each in reset_states()}
SREGS = attrs.evolve(
    enter(LONG, RESET[Sregs], page_table=PAGE_TABLES),
    gdt=DescriptorTable(GDT, BOOT_GDT.limit_bytes),
    idt=DescriptorTable(0x5F8, 7),
)
REGS = Regs(rip=CODE, rsp=STACK, rflags=Rflags(fixed=True))


def plan(code, *blobs, regs=REGS, sregs=SREGS, mapped_bytes=RAM.size_bytes):
    """A plan for those bytes at `CODE`, with an identity map."""
    tables = PageTables.identity(mapped_bytes, root=PAGE_TABLES).blob()
    own = (Blob("GDT", GDT, BOOT_GDT.to_bytes()), tables, Blob("code", CODE, code))
    return BootPlan("x86_64", (RAM,), blobs=(*own, *blobs), vcpus=(VcpuPlan(0, (regs, sregs)),))


def reader(made, written=None):
    """The memory of a plan's guest, with bytes `written` over it by address."""
    memory = bytearray(made.read(0, RAM.size_bytes))
    for address, data in (written or {}).items():
        memory[address : address + len(data)] = data

    def read(address, size_bytes):
        if address + size_bytes > len(memory):
            raise GuestMemoryError(f"{address:#x} is outside RAM")
        return bytes(memory[address : address + size_bytes])

    return read


def dead(code, *, exit_=None, planned=None, written=None, regs=None, sregs=None, lost=False, **more):
    """A guest that died in `code`. `regs` and `sregs` are changes to what the plan gave it, since then.

    A `lost` one's vCPU has been reset by its death.
    """
    made = planned or plan(code)
    start_regs, start_sregs = made.vcpus[0].states
    now = {
        Regs: attrs.evolve(start_regs, **(regs or {})),
        Sregs: attrs.evolve(start_sregs, **(sregs or {})),
    }
    return Evidence(
        plan=made,
        vcpu=0,
        read=reader(made, written),
        exit=exit_ or Shutdown(state_is_lost=lost),
        now={Regs: RESET[Regs], Sregs: RESET[Sregs]} if lost else now,
        **more,
    )


def first(evidence):
    """The name of the first cause, of a report without notes."""
    made = report(evidence)
    assert not made.notes
    return made.likely.name


def reads_of(evidence):
    """How often a report reads the guest's memory."""
    count = itertools.count()

    def read(address, size_bytes):
        next(count)
        return evidence.read(address, size_bytes)

    report(attrs.evolve(evidence, read=read))
    return next(count)
