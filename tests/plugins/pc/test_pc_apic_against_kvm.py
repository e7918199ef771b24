"""Our APICs against KVM's in-kernel ones: the registers a guest reads after the same writes.

No interrupt is taken in these scripts: a KVM that interprets its guests may forget what is in service. The timer's
deadline mode is left out, and so are the read-only bits 12 and 14 of local vectors, which KVM lets a guest write.
"""

import os

import pytest
from apic_bench import ENABLE, LOCAL, ApicBench
from apic_judges import KvmGuest

from anyvisor.errors import HypervisorUnavailable
from anyvisor_kvm.hypervisor import open_kvm

pytestmark = pytest.mark.kvm

LOCAL_VECTORS = range(0x320, 0x380, 0x10)
BITMAPS = range(0x100, 0x280, 0x10)
DISABLE = ("write", LOCAL + 0xF0, 0xFF)


@pytest.fixture
def agree():
    """Runs a script on both, and gives what both answered."""

    def run(script):
        theirs, ours = KvmGuest(kvm, script).run(), ApicBench().run(script)
        assert [hex(each) for each in theirs] == [hex(each) for each in ours]
        return ours

    try:
        hypervisor = open_kvm()
    except HypervisorUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have KVM: {error}")
        pytest.skip(f"to run this: {error}")
    with hypervisor as kvm:
        yield run


def lapic(offset, value):
    return "write", LOCAL + offset, value


def see(*offsets):
    return [("read", LOCAL + offset) for offset in offsets]


def test_registers_after_reset_are_kvms_but_for_lint1(agree):
    """LINT0 passes ExtINT here as there; LINT1 is NMI here, which KVM leaves to firmware."""
    agree(see(0x20, 0x30, 0x80, 0x90, 0xA0, 0xD0, 0xE0, 0xF0, 0x280, 0x300, 0x310, *BITMAPS))
    agree(see(0x320, 0x330, 0x340, 0x350, 0x370, 0x380, 0x390, 0x3E0))


@pytest.mark.parametrize("enabled", [True, False])
def test_registers_keep_the_bits_that_kvms_keep(agree, enabled):
    offsets = [0x80, 0xD0, 0xE0, 0x310, 0x3E0, *LOCAL_VECTORS]
    not_shared = {**dict.fromkeys(LOCAL_VECTORS, 0x5000), 0x320: 0x41000}
    for value in (0xFFFFFFFF, 0xFFFEFFFF, 0x00000041, 0):
        writes = [lapic(offset, value & ~not_shared.get(offset, 0)) for offset in offsets]
        agree([*([ENABLE] if enabled else []), *writes, *see(*offsets)])


def test_spurious_vector_keeps_what_kvms_keeps(agree):
    agree([step for value in (0x1FF, 0x2FF, 0x3AB, 0) for step in (lapic(0xF0, value), *see(0xF0))])


def test_being_disabled_masks_local_vectors_for_good(agree):
    writes = [lapic(offset, 0x41) for offset in LOCAL_VECTORS]
    results = agree(
        [ENABLE, *writes, *see(*LOCAL_VECTORS), DISABLE, *see(*LOCAL_VECTORS), ENABLE, *see(*LOCAL_VECTORS)]
    )
    assert results == [0x41] * 6 + [0x10041] * 12


def test_interrupts_are_accepted_while_enabled_only(agree):
    script = [lapic(0x300, 0x40021), ENABLE, lapic(0x300, 0x40022), DISABLE, lapic(0x300, 0x40023)]
    assert agree([*script, *see(0x210)]) == [1 << 2]


@pytest.mark.parametrize("model", [0xFFFFFFFF, 0x0FFFFFFF])
@pytest.mark.parametrize("mine", [0x01, 0x80, 0x12])
def test_logical_destinations(agree, model, mine):
    script = [ENABLE, lapic(0xE0, model), lapic(0xD0, mine << 24)]
    for index, destination in enumerate((0x01, 0x80, 0x11, 0x12, 0x13, 0x22, 0xF2, 0xFF)):
        script += [lapic(0x310, destination << 24), lapic(0x300, 0x800 | 0x20 + index)]
    agree([*script, *see(0x210)])


def test_processor_priority_follows_the_task_priority(agree):
    agree([ENABLE, *(step for value in (0x4F, 0x40, 0x0F, 0) for step in (lapic(0x80, value), *see(0x80, 0xA0)))])


@pytest.mark.parametrize("low", [0x41, 0x20041])
def test_a_timer_that_has_run_down_requests_its_interrupt(agree, low):
    script = [ENABLE, lapic(0x320, low), lapic(0x3E0, 0xB), lapic(0x380, 1_000_000), *see(0x220, 0x380), ("pause",)]
    assert agree([*script, *see(0x220)]) == [0, 1_000_000, 2]


def test_a_one_shot_timer_stops_at_zero_and_the_count_0_stops_any(agree):
    script = [ENABLE, lapic(0x3E0, 0xB), lapic(0x320, 0x41), lapic(0x380, 1_000), ("pause",), *see(0x390, 0x380)]
    script += [lapic(0x320, 0x20041), lapic(0x380, 1_000_000_000), lapic(0x380, 0), *see(0x390, 0x380)]
    assert agree(script) == [0, 1_000, 0, 0]


def test_level_interrupts_are_known_by_their_trigger_mode(agree):
    def line(pin, low):
        register = 0x10 + 2 * pin
        select, window = LOCAL - 0x200000, LOCAL - 0x200000 + 0x10
        steps = [("write", select, register + 1), ("write", window, 0), ("write", select, register)]
        return [*steps, ("write", window, low), ("line", pin, 1), ("read", window)]

    agree([ENABLE, *line(4, 0x31), *line(5, 0x8032), *line(23, 0x18033), *see(0x190, 0x210)])
