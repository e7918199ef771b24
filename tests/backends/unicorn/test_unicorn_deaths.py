"""How guests die on the emulated processor: what led to a triple fault, and where the engine could not go on."""

import struct

import attrs
import pytest
from emulated_guests import CODE, HALT, IDT, MMIO, RAM_BYTES, STACK, TABLES, Source, assemble
from event_cases import CASES

from anyvisor.exits import GuestException, InternalError, Shutdown
from anyvisor.x86_64.state import DescriptorTable, Regs, Sregs

DE, BP, UD, DF, TS, NP, SS, GP, PF = 0, 3, 6, 8, 10, 11, 12, 13, 14
NOWHERE = 0x5555_0000_0000
"""Beyond the page tables."""
ARITHMETIC, ZF_AND_PF = 0x8D5, 0x44
SET_FLAGS = "xor %eax, %eax; "
"""By arithmetic, so that the engine has them in no register yet."""


def with_idt(made, base=IDT, limit=0):
    made.vcpu.put(attrs.evolve(made.vcpu.get(Sregs), idt=DescriptorTable(base, limit)))
    return made


def codes(shutdown):
    return [(each.vector, each.error_code) for each in shutdown.exceptions]


def reasons(shutdown):
    return [each.reason for each in shutdown.exceptions]


@pytest.mark.parametrize(
    ("before", "instruction", "first"),
    [
        ("", "ud2", GuestException(UD)),
        ("xor %ecx, %ecx", "div %ecx", GuestException(DE)),
        ("mov $1 << 50, %rbx; cmp %rax, %rax", "mov (%rbx), %rax", GuestException(GP, 0)),
        ("mov $0xFFF8, %bx; cmp %ax, %ax", "ltr %bx", GuestException(GP, 0xFFF8)),
        ("", f"movabs {NOWHERE}, %eax", GuestException(PF, 0, NOWHERE)),
        ("", f"movabs %eax, {NOWHERE}", GuestException(PF, 2, NOWHERE)),
        ("", "int $0x20", GuestException(0x20, reason="a software interrupt")),
        ("", "int3", GuestException(BP, reason="a software interrupt")),
    ],
)
def test_a_triple_fault_tells_its_first_exception_and_leaves_the_vcpu_there(any_guest, before, instruction, first):
    rip = CODE + len(assemble(f"{SET_FLAGS}{before}"))
    made = with_idt(any_guest(f"{SET_FLAGS}{before}; {instruction}; hlt"))
    found = made.run()
    assert isinstance(found, Shutdown)
    assert found.exceptions[0] == attrs.evolve(first, rip=rip)
    assert not found.state_is_lost
    regs, sregs = made.vcpu.get(Regs), made.vcpu.get(Sregs)
    assert (regs.rip, regs.rsp, int(regs.rflags) & ARITHMETIC) == (rip, STACK, ZF_AND_PF)
    assert (sregs.cs.selector, sregs.ss.selector, sregs.cr2) == (0x10, 0x18, first.address or 0)


def test_without_an_idt_each_step_to_the_triple_fault_names_the_entry_that_is_missing(any_guest):
    found = with_idt(any_guest("ud2")).run()
    assert codes(found) == [(UD, None), (GP, 0x33), (GP, 0x6B), (DF, 0), (GP, 0x43)]
    assert reasons(found) == [
        "",
        "IDT entry 6 lies beyond the IDT's limit of 0x0",
        "IDT entry 13 lies beyond the IDT's limit of 0x0",
        "exception 13 was met while exception 13 was delivered",
        "IDT entry 8 lies beyond the IDT's limit of 0x0",
    ]
    assert "first exception #UD at 0x1000: IDT entry 6 lies beyond the IDT's limit of 0x0" in found.describe()


def test_an_idt_that_is_not_mapped_is_told_with_the_address_and_cr2_stays_the_first(any_guest):
    made = with_idt(any_guest(f"movabs {NOWHERE}, %eax"), NOWHERE + 0x1000, 0xFFF)
    found = made.run()
    idt = [NOWHERE + 0x1000 + 16 * vector for vector in (PF, DF)]
    assert [(each.vector, each.address) for each in found.exceptions] == [
        (PF, NOWHERE), (PF, idt[0]), (DF, None), (PF, idt[1]),
    ]  # fmt: skip
    assert found.exceptions[1].reason == f"the IDT entry at {idt[0]:#x} cannot be read: {idt[0]:#x} is not mapped"
    assert made.vcpu.get(Sregs).cr2 == NOWHERE


def test_a_stack_that_is_not_mapped_is_told_with_its_address(any_guest):
    handlers = dict.fromkeys((UD, DF, PF), HALT)
    made = any_guest(f"mov ${NOWHERE}, %rsp; ud2", handlers=handlers)
    found = made.run()
    assert codes(found) == [(UD, None), (PF, 2), (PF, 2), (DF, 0), (PF, 2)]
    assert found.exceptions[1].address == NOWHERE - 8
    assert found.exceptions[1].reason.startswith("the stack at")
    assert made.vcpu.get(Regs).rsp == NOWHERE


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (struct.pack("<HHBBHQ", 0, 0x10, 0, 0x0E, 0, 0), "IDT entry 6 is not present"),
        (struct.pack("<HHBBHQ", 0, 0x10, 0, 0x8C, 0, 0), "IDT entry 6 is no gate for a handler (type 0xc)"),
        (bytes(16), "IDT entry 6 is no gate for a handler (type 0x0)"),
        (struct.pack("<HHBBHQ", 0, 0x00, 0, 0x8E, 0, 0), "the handler's code segment is the null selector"),
        (struct.pack("<HHBBHQ", 0, 0x18, 0, 0x8E, 0, 0), "selector 0x18 is no 64-bit code segment for a handler"),
        (struct.pack("<HHBBHQ", 0, 0x50, 0, 0x8E, 0, 0), "selector 0x50 lies beyond the GDT's limit of 0x1f"),
        (struct.pack("<HHBBHQ", 0, 0x10, 0, 0x8E, 0, 1 << 30), "which is not canonical"),
        (struct.pack("<HHBBHQ", 0, 0x10, 7, 0x8E, 0, 0), "the TSS, with a limit of 0x10, has no stack at 0x54"),
    ],
)
def test_what_is_wrong_with_an_idt_entry_is_told(any_guest, entry, reason):
    made = any_guest("ud2")
    made.memory.write(IDT + UD * 16, entry)
    sregs = made.vcpu.get(Sregs)
    made.vcpu.put(attrs.evolve(sregs, tr=attrs.evolve(sregs.tr, limit=0x10)))
    found = made.run()
    assert found.exceptions[1].vector in (GP, NP, TS)
    assert reason in found.exceptions[1].reason


def test_an_interrupt_from_outside_that_cannot_be_delivered_is_told_as_one(any_guest):
    source = Source(0x40)
    made = with_idt(any_guest("nop; jmp .", interrupts=source))
    made.vcpu.put(attrs.evolve(made.vcpu.get(Regs), rflags=0x202))
    found = made.run()
    assert found.exceptions[0] == GuestException(0x40, rip=CODE, reason="an interrupt from outside")
    assert codes(found)[1] == (GP, 0x40 * 8 | 2 | 1)


@pytest.mark.parametrize("one", [each for each in CASES if each.exit == Shutdown()], ids=lambda one: one.name)
def test_in_every_mode_a_triple_fault_ends_with_what_the_double_fault_met(fast, one):
    told = one.guest.run_on(fast).told
    assert [each.vector for each in told][-2] == DF
    assert told[0].rip is not None
    assert all(each.reason and each.rip is None for each in told[1:])
    faults = {each.vector for each in told[1:]}
    assert faults <= {DF, TS, NP, SS, GP, PF}


# -- the engine gives up -----------------------------------------------------------------------------------------------


def test_code_that_is_in_no_ram_ends_the_run_in_words_with_its_address(any_guest):
    made = any_guest(f"mov ${MMIO + 0x200000}, %rax; jmp *%rax")
    found = made.run()
    assert isinstance(found, InternalError)
    assert (found.instruction, dict(found.details)["rip"]) == (b"", MMIO + 0x200000)
    assert found.cause.endswith(f"there is no code in RAM at {MMIO + 0x200000:#x}")
    assert "UC_ERR_FETCH" in found.describe()
    assert made.vcpu.get(Regs).rip == MMIO + 0x200000


def test_an_instruction_that_runs_out_of_ram_is_told_as_far_as_it_goes(any_guest):
    made = any_guest(f"movb $0x48, {RAM_BYTES - 1}; mov ${RAM_BYTES - 1}, %eax; jmp *%rax")
    found = made.run()
    assert isinstance(found, InternalError)
    assert found.instruction == b"\x48"
    assert "instruction 48, rip 0xfffff" in found.describe()


def test_looking_for_the_code_of_a_failure_needs_page_tables_that_hold(any_guest):
    """The tables may be what is broken: nothing is told of the code then, and nothing is raised."""
    made = any_guest(f"mov ${MMIO + 0x200000}, %rax; movq $0, {TABLES}; jmp *%rax")
    found = made.run()
    assert isinstance(found, InternalError | Shutdown)
