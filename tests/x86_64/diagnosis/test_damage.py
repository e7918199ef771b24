"""Code that is not what was loaded is told, and what a guest has changed itself is not."""

import attrs
import pytest
from dead_guests import CODE, NOP, OUT, RESET, SREGS, UD2, dead, first, plan, reads_of

from anyvisor.diagnosis import report
from anyvisor.x86_64.modes import PROTECTED, enter
from anyvisor.x86_64.state import Sregs

JUMP = b"\xeb\x06" + NOP * 6  # jmp over six bytes
SET_JUMP = b"\xc6\x05\1\0\0\0\x7f" + JUMP  # mov byte [rip + 1], 0x7f: the distance of the jump behind it
ZEROS = CODE + 0x1000


def test_a_changed_byte_at_rip_is_told_with_what_was_loaded():
    found = report(dead(NOP * 64, written={CODE + 8: b"\x06"}, regs={"rip": CODE + 8})).likely
    assert found.name == "code-damaged"
    assert found.because == ("loaded: 90 90 90 90 90 90 90 90", "found:  06 90 90 90 90 90 90 90")


def test_code_that_the_guest_has_overwritten_altogether_is_no_damage():
    assert first(dead(NOP * 64, written={CODE: UD2 * 32})) == "undefined-opcode"


def test_a_guest_that_has_run_for_a_while_may_have_changed_its_own_code():
    evidence = dead(NOP * 9 + UD2 + NOP * 64, written={CODE: b"\x92"}, regs={"rip": CODE + 9}, last_exits=(OUT,))
    names = [each.name for each in report(evidence).causes]
    assert names == ["undefined-opcode", "code-damaged"]


@pytest.mark.parametrize(("loaded", "first_cause"), [(NOP * 64, "code-damaged"), (b"\x06" * 64, "undefined-opcode")])
def test_an_instruction_that_has_changed_and_now_raises_an_exception_is_why_however_late(loaded, first_cause):
    assert first(dead(loaded, written={CODE: UD2}, last_exits=(OUT,))) == first_cause


def test_a_changed_byte_anywhere_in_a_young_guests_code_is_told_behind_what_it_died_of():
    code = UD2 + bytes(range(1, 255)) * 40
    died_of, found = report(dead(code, written={CODE + 0x1234: b"\0"})).causes
    assert died_of.name == "undefined-opcode"
    assert found.name == "code-damaged"
    assert f"{CODE + 0x1234:#x} (code+0x1234)" in found.summary


@pytest.mark.parametrize("offset", [3, 40])
def test_a_variable_beside_the_code_that_a_young_guest_has_written_is_not_what_it_died_of(offset):
    code = NOP + UD2 + NOP * 80
    found = dead(code, written={CODE + offset: b"\x05"}, regs={"rip": CODE + 1})
    assert first(found) == "undefined-opcode"


def test_a_changed_byte_on_the_way_from_the_entry_is_what_led_elsewhere():
    code = NOP * 80 + b"\xeb\x7f" + NOP * 0x80
    found = report(dead(code + UD2, written={CODE + 70: b"\x06"}, regs={"rip": CODE + len(code)})).likely
    assert found.name == "code-damaged"
    assert f"{CODE + 70:#x} (code+0x46)" in found.summary


def test_a_variable_that_a_young_guest_has_written_is_no_damage():
    assert first(dead(UD2 + bytes(0x4000), written={CODE + 0x1234: b"\x05"})) == "undefined-opcode"


# -- jumps -------------------------------------------------------------------------------------------------------------


def ran_through_zeros(code, written, rip=ZEROS, **more):
    """A guest that has said something, and died among zeros."""
    return dead(code, written=written, regs={"rip": rip}, last_exits=(OUT,), **more)


def test_a_changed_jump_that_leads_to_where_the_guest_died_is_why_however_late():
    found = report(ran_through_zeros(NOP * 4 + JUMP + UD2, {CODE + 5: b"\x7f"})).likely
    assert found.name == "code-damaged"
    assert found.because[-1] == f"the jump leads to {CODE + 0x85:#x} now, where no code is, and there the guest went"
    assert "little else" not in found.remedy


def test_it_may_lead_to_what_is_not_mapped():
    far = b"\xe9" + bytes(4) + UD2  # jmp to what is behind it
    distance = 0x3FFFFFF0
    evidence = ran_through_zeros(far, {CODE + 1: distance.to_bytes(4, "little")}, CODE + 5 + distance)
    assert first(evidence) == "code-damaged"


@pytest.mark.parametrize(
    ("code", "written", "rip"),
    [
        (JUMP + UD2, {CODE + 1: b"\x05"}, ZEROS),  # it leads to code
        (JUMP + NOP * 8, {CODE + 1: b"\x08"}, ZEROS),  # which runs into zeros by itself
        (JUMP + UD2, {CODE + 1: b"\x7f"}, CODE - 0x1000),  # the guest was before where it leads to
        (JUMP + UD2 + b"\xeb\x06", {CODE + 11: b"\x7f"}, ZEROS),  # no code leads to that jump
    ],
)
def test_another_changed_jump_is_not(code, written, rip):
    assert first(ran_through_zeros(code, written, rip)) == "executing-zeros"


@pytest.mark.parametrize("exits", [(), (OUT,)], ids=["early", "late"])
def test_what_the_code_itself_says_that_it_writes_is_no_damage(exits):
    guest = dead(SET_JUMP + UD2, written={CODE + 8: b"\x02"}, regs={"rip": CODE + 15}, last_exits=exits)
    assert first(guest) == "undefined-opcode"
    assert "code-damaged" not in [each.name for each in report(guest).causes]


def test_a_jump_that_the_code_itself_changes_is_no_damage_even_if_it_misleads():
    guest = ran_through_zeros(SET_JUMP + UD2, {CODE + 8: b"\x7f"})
    assert first(guest) == "executing-zeros"
    assert "code-damaged" not in [each.name for each in report(guest).causes]


@pytest.mark.parametrize("store", [b"\xfe\x05", b"\xa2"], ids=["inc", "mov"])
def test_32_bit_code_says_by_an_address_what_it_writes(store):
    sregs = attrs.evolve(enter(PROTECTED, RESET[Sregs]), gdt=SREGS.gdt, idt=SREGS.idt)
    variable = CODE + len(store) + 4 + len(UD2)
    code = store + variable.to_bytes(4, "little") + UD2 + b"\1" + NOP * 80
    guest = dead(code, planned=plan(code, sregs=sregs), written={variable: b"\2"}, regs={"rip": variable - len(UD2)})
    assert "code-damaged" not in [each.name for each in report(guest).causes]


def test_of_many_changed_jumps_only_some_are_followed():
    """Each leads to as much of what is no code as is looked at."""
    branch = b"\x74\0\xe9\xf9\0\0\0".ljust(256, NOP)  # jz to the jmp to the next
    code = branch * 1024
    written = {CODE + at: b"\x07" for at in range(1, len(code), 256)}
    assert reads_of(ran_through_zeros(code, written, rip=CODE + len(code))) < 50_000


def test_a_changed_byte_in_a_function_that_the_entry_calls_is_on_the_way():
    code = b"\xe8\xfb\1\0\0" + UD2.ljust(0x1FB, NOP) + NOP * 8 + b"\xc3"  # call 0x200
    found = report(dead(code, written={CODE + 0x204: b"\xf8"}, regs={"rip": CODE + 5})).likely
    assert found.name == "code-damaged"
    assert f"{CODE + 0x204:#x} (code+0x204)" in found.summary
