"""Of a guest whose death destroyed its registers, the code ahead is read from the state before."""

import struct

import attrs
import pytest
from dead_guests import (
    CLEAR_ECX,
    CODE,
    DIVIDE,
    INT3,
    LOAD_DS,
    NOP,
    OUT,
    PAGE_TABLES,
    PUSH,
    REGS,
    RESET,
    SREGS,
    STACK,
    STORE,
    UD2,
    UNMAPPED,
    dead,
    first,
    plan,
    reads_of,
)

from anyvisor.diagnosis import report
from anyvisor.x86_64.modes import PROTECTED, enter
from anyvisor.x86_64.state import DescriptorTable

# fmt: off
LIDT = b"\x0f\x01\x1c\x25\x20\x00\x10\x00"        # lidt [0x100020]
TO_CR3 = b"\x0f\x22\xd8"                         # mov cr3, rax
TO_CR4 = b"\x0f\x22\xe0"                         # mov cr4, rax
FROM_CR4 = b"\x0f\x20\xe0"                       # mov rax, cr4
RECURSE = b"\xe8\xfb\xff\xff\xff"                  # call to itself
RETURN_TO_ZEROS = b"\x68\0\0\x20\0\xc3"           # push 0x200000; ret
FUNCTION = 0x20                                   # how far from the start it lies that says something and returns
CALLS = b"\xe8\x1b\0\0\0" + UD2                  # call it; ud2
SAYS = b"\xee" + b"\x48\xff\xc0\xc3"              # out dx, al; inc rax; ret
# fmt: on


def to_rax(value):
    return b"\x48\xb8" + value.to_bytes(8, "little")


LOST = {
    "undefined-opcode": (b"\xfa" + UD2, {}),                        # cli; ud2
    "breakpoint": (b"\xeb\x00" + INT3, {}),                         # jmp over; int3
    "page-fault": (b"\x48\xbb" + UNMAPPED.to_bytes(8, "little") + STORE, {}),  # mov rbx, ...
    "selector-beyond-gdt": (b"\xb8\x58\0\0\0" + LOAD_DS, {}),       # mov eax, 0x58
    "divide-error": (CLEAR_ECX + DIVIDE, {"planned": plan(CLEAR_ECX + DIVIDE, regs=attrs.evolve(REGS, rcx=1))}),
    "code-not-mapped": (b"\x48\xb8" + UNMAPPED.to_bytes(8, "little") + b"\xff\xe0", {}),  # mov rax, ...; jmp rax
    "stack-not-mapped": (b"\x48\xbc" + UNMAPPED.to_bytes(8, "little") + PUSH, {}),  # mov rsp, ...
    "stack-not-mapped behind a subtraction": (b"\x48\x81\xec\0\0\1\0" + PUSH, {}),  # sub rsp, 0x10000
    "code-not-mapped by a new CR3": (to_rax(0x300000) + TO_CR3 + NOP, {}),
    "cr4-reserved": (FROM_CR4 + b"\x0d\0\0\0\x80" + TO_CR4, {}),  # or eax, 1 << 31
    "efer-reserved": (b"\xb9\x80\0\0\xc0\xb8\0\5\0\0\xba\1\0\0\0\x0f\x30", {}),  # mov ecx, eax, edx; wrmsr
    "idt-bad": (LIDT + INT3 + bytes(0x17) + b"\xff\x0f" + UNMAPPED.to_bytes(8, "little"), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", LOST)
def test_of_a_state_that_is_lost_the_code_ahead_is_read(name):
    code, more = LOST[name]
    made = report(dead(code, lost=True, **more))
    assert made.likely.name == name.partition(" ")[0]
    assert (
        made.likely.summary.startswith("the guest's ") if name == "idt-bad" else "on leads to a" in made.likely.summary
    )
    assert "the first instruction" in made.summary
    assert "the hypervisor has reset the vCPU" in made.section("Registers").text


def test_a_state_that_is_not_the_plans_is_of_the_last_entry():
    before = {type(REGS): attrs.evolve(REGS, rip=CODE + 1), type(SREGS): SREGS}
    assert "at the last entry it was at RIP 0x100001" in report(dead(NOP + UD2, lost=True, before=before)).summary
    same = {type(REGS): REGS, type(SREGS): SREGS}
    assert "at the first instruction it was at RIP 0x100000" in report(dead(UD2, lost=True, before=same)).summary


def test_the_state_at_the_last_exit_is_nearer_than_the_first_instruction():
    before = {type(REGS): attrs.evolve(REGS, rip=CODE + 0x40), type(SREGS): SREGS}
    made = report(dead(DIVIDE.ljust(0x40, NOP) + UD2, lost=True, before=before, last_exits=(OUT,)))
    assert made.likely.name == "undefined-opcode"
    assert f"{CODE + 0x40:#x}" in made.summary
    assert "the last exit before" in made.summary


@pytest.mark.parametrize(
    "code",
    [
        b"\xec\x0f\xb6\xd8" + STORE,  # in al, dx; movzx ebx, al: nobody knows what it is then
        b"\x74\x00" + UD2,  # jz: it may be taken or not
        b"\xf4" + UD2,  # hlt
    ],
)
def test_a_way_that_is_not_plain_is_not_followed(code):
    assert first(dead(code, lost=True, regs={"rbx": UNMAPPED})) == "unknown-exception"


GATES, HANDLER = 0x20000, CODE + 0x100
GATE = struct.pack("<HHHHQ", HANDLER & 0xFFFF, 0x10, 0x8E00, HANDLER >> 16, 0)


@pytest.mark.parametrize(("gate", "first_cause"), [(GATE, "unknown-exception"), (bytes(16), "breakpoint")])
def test_an_exception_that_has_a_handler_is_no_death(gate, first_cause):
    code = (INT3 + UD2).ljust(0x100, NOP) + b"\x48\xcf"  # iretq
    made = plan(code, sregs=attrs.evolve(SREGS, idt=DescriptorTable(GATES, 0xFFF)))
    assert first(dead(code, planned=made, lost=True, written={GATES: gate * 256})) == first_cause


SWITCH = (
    b"\x0f\x20\xe0\x83\xc8\x20" + TO_CR4  # mov eax, cr4; or eax, 0x20
    + b"\xb8" + PAGE_TABLES.to_bytes(4, "little") + TO_CR3
    + b"\xb9\x80\0\0\xc0\x0f\x32\x0d\0\1\0\0\x0f\x30"  # mov ecx, EFER; rdmsr; or eax, LME; wrmsr
    + b"\x0f\x20\xc0\x0d\0\0\0\x80\x0f\x22\xc0"  # mov eax, cr0; or eax, PG; mov cr0, eax
)  # fmt: skip


def test_the_way_into_long_mode_is_followed():
    sregs = attrs.evolve(enter(PROTECTED, RESET[type(SREGS)]), gdt=SREGS.gdt, idt=SREGS.idt)
    found = report(dead(SWITCH + UD2, planned=plan(SWITCH + UD2, sregs=sregs), lost=True)).causes
    assert "undefined-opcode" in [each.name for each in found]
    assert "pdptes-are-valid" not in [each.name for each in found]


def test_where_the_base_of_a_segment_is_not_known_the_way_ends():
    code = b"\xe4\x99\x8e\xe0" + NOP + UD2  # in al, 0x99; mov fs, eax
    assert first(dead(code, lost=True)) == "unknown-exception"


# -- the stack ---------------------------------------------------------------------------------------------------------


def test_a_return_to_what_was_pushed_on_the_way_is_followed():
    found = report(dead(RETURN_TO_ZEROS, lost=True)).likely
    assert found.name == "executing-zeros"
    assert "leads to 0x200000, where only zeros are" in found.summary
    assert "its registers are lost" in " ".join(found.because)


def returning(code, return_address):
    """A guest that died when it had written to a port, in a function whose return address is in memory."""
    within = attrs.evolve(REGS, rip=CODE + FUNCTION + 1, rsp=STACK - 8)
    written = {STACK - 8: return_address.to_bytes(8, "little")}
    return dead(
        code.ljust(FUNCTION, NOP) + SAYS,
        lost=True,
        before={type(REGS): within, type(SREGS): SREGS},
        last_exits=(OUT,),
        written=written,
    )


def test_a_return_address_in_memory_is_believed_if_the_call_before_it_leads_to_the_function():
    made = report(returning(CALLS, CODE + 5))
    assert made.likely.name == "undefined-opcode"
    assert f"at {CODE + 5:#x}" in made.likely.summary


@pytest.mark.parametrize(
    ("code", "offset"),
    [
        (b"\xe8\x3b\0\0\0" + UD2, 5),  # the call leads elsewhere: the stack has been used again since
        (b"\x90\x90\x90\xff\xd0" + UD2, 5),  # call rax: nobody knows where it led
        (NOP * 5 + UD2, 5),  # that is no return address
    ],
)
def test_another_one_is_not(code, offset):
    assert first(returning(code, CODE + offset)) == "unknown-exception"


ROW = (CODE + 5).to_bytes(8, "little")
EMPTY = bytes(8)


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("frame", [ROW, ROW + EMPTY * 5], ids=["bare", "with variables"])
def test_a_stack_that_is_full_of_one_return_address_is_a_recursion(frame, lost):
    count = (STACK - 8) // len(frame)
    registers = {} if lost else {"regs": {"rsp": 0}}
    found = report(dead(RECURSE, lost=lost, written={0: frame * count}, **registers)).likely
    assert found.name == "endless-recursion"
    assert f"the call at {CODE:#x} (code) was made over and over" in found.summary
    assert f"{len(frame)} bytes apart" in found.because[0]


@pytest.mark.parametrize(
    "written",
    [
        {0x4000: ROW * 0x900},  # there is room below
        {0: EMPTY * 0x1100},  # zeros are no return address
        {0: (CODE + 6).to_bytes(8, "little") * 0x1100},  # nor is what has no call before it
        {0: ROW * 8 + EMPTY * 0x1000},  # a few calls are none without end
    ],
)
def test_another_row_on_the_stack_is_none(written):
    assert first(dead(RECURSE, lost=True, written=written)) == "unknown-exception"


@pytest.mark.parametrize("lost", [True, False])
def test_a_stack_that_was_full_once_is_not_what_a_guest_dies_of_later(lost):
    code = RECURSE + UD2
    now = {"rip": CODE + 5, "rsp": 0x800}
    before = {type(REGS): attrs.evolve(REGS, **now), type(SREGS): SREGS}
    more = {"before": before, "last_exits": (OUT,)} if lost else {"regs": now}
    assert first(dead(code, lost=lost, written={0: ROW * 0x1100}, **more)) == "undefined-opcode"


def test_a_guest_that_returns_over_and_over_is_not_followed_for_long():
    """Each return is to behind a call of one function, which leads to all of the returns."""
    calls, function = 200, 0x8000
    code = b"".join(b"\xe8" + struct.pack("<i", function - at - 5) + b"\xc3" for at in range(0, 6 * calls, 6))
    branches = range(function, function + 6 * calls, 6)
    code = code.ljust(function, NOP) + b"".join(b"\x0f\x84" + struct.pack("<i", 5 - function - 6) for _ in branches)
    stack = b"".join((CODE + 6 * (at % calls) + 5).to_bytes(8, "little") for at in range(1, 1500))
    before = {type(REGS): attrs.evolve(REGS, rip=CODE + 5, rsp=0x200000), type(SREGS): SREGS}
    guest = dead(code, lost=True, before=before, last_exits=(OUT,), written={0x200000: stack})
    assert reads_of(guest) < 100_000
