"""A vCPU is put into each mode, and that mode is what its registers say."""

import attrs
import pytest

from anyvisor.x86_64 import modes
from anyvisor.x86_64.control import Cr4
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import DescriptorTable, Sregs

RESET = next(state for state in reset_states() if isinstance(state, Sregs))


def test_real_mode_has_neither_protection_nor_paging_and_begins_at_zero():
    sregs = modes.enter(modes.REAL, RESET)
    assert int(sregs.cr0) == 0x10
    assert (sregs.cs.base, sregs.cs.selector, sregs.cs.limit, sregs.cs.type) == (0, 0, 0xFFFF, 0xB)
    assert {(each.base, each.limit, each.type) for each in (sregs.ds, sregs.es, sregs.ss)} == {(0, 0xFFFF, 3)}


def test_protected_mode_is_flat_and_32_bits_wide():
    sregs = modes.enter(modes.PROTECTED, RESET)
    assert int(sregs.cr0) == 0x11
    assert (sregs.cs.db, sregs.cs.l, sregs.cs.limit, sregs.ss.db) == (True, False, 0xFFFFFFFF, True)


def test_long_mode_has_paging_pae_and_64_bit_code():
    sregs = modes.enter(modes.LONG, RESET, page_table=0x9000)
    assert (int(sregs.cr0), sregs.cr3, sregs.cr4, int(sregs.efer)) == (0x80000011, 0x9000, Cr4(pae=True), 0x500)
    assert (sregs.cs.db, sregs.cs.l) == (False, True)


def test_what_is_no_part_of_a_mode_stays():
    before = attrs.evolve(RESET, idt=DescriptorTable(0x1234, 7), cr2=5)
    for mode in modes.MODES:
        after = modes.enter(mode, before)
        assert (after.idt, after.cr2, after.apic_base) == (before.idt, 5, before.apic_base)


def test_another_mode_is_refused_with_the_names_of_those_there_are():
    with pytest.raises(ValueError, match="no mode 'unreal'; it has real, protected, long"):
        modes.enter("unreal", RESET)
