"""Exceptions, interrupts and system calls of guests: what their handlers see is what KVM's and QEMU's guests see.

The guests' RAM is compared byte for byte: the stacks that frames are pushed on, the tables, the log of the handlers.
"""

import attrs
import pytest
from event_cases import CASES, INT, UD, dying
from event_layout import LONG, PROTECTED, REAL, TASK_GATE, gate
from qemu_judge import need_qemu, run_on_qemu

from anyvisor.errors import HypervisorUnavailable, Unsupported
from anyvisor.exits import Halted
from anyvisor_kvm.hypervisor import open_kvm


@pytest.fixture(scope="module")
def kvm():
    try:
        hypervisor = open_kvm()
    except HypervisorUnavailable as error:
        pytest.skip(f"to have KVM judge: {error}")
    with hypervisor:
        yield hypervisor


def judged_by(judge):
    return pytest.mark.parametrize("one", [each for each in CASES if judge in each.judges], ids=lambda one: one.name)


@pytest.mark.parametrize("from_reset", [False, True], ids=["state put", "from reset"])
@pytest.mark.parametrize("one", CASES, ids=lambda one: one.name)
def test_handlers_see_what_the_manual_says(unicorn, one, from_reset):
    outcome = one.guest.run_on(unicorn, from_reset=from_reset)
    assert (outcome.exit, outcome.events) == (one.exit, one.events)
    for address, data in one.left_behind.items():
        assert outcome.ram[address : address + len(data)] == data


@pytest.mark.kvm
@judged_by("kvm")
def test_ram_is_what_it_is_after_a_run_on_kvm(fast, kvm, one):
    assert_same(one.guest.run_on(fast), one.guest.run_on(kvm))


@judged_by("qemu")
def test_ram_is_what_it_is_after_a_run_on_qemu(fast, one, tmp_path):
    need_qemu()
    assert_same(one.guest.run_on(fast, from_reset=True), run_on_qemu(one.guest, tmp_path))


def assert_same(ours, judges):
    """The log first: it says more than bytes that differ."""
    assert (ours.exit, ours.log) == (judges.exit, judges.log)
    different = [
        f"{at:#x}: {a:#x}, not {b:#x}" for at, (a, b) in enumerate(zip(ours.ram, judges.ram, strict=True)) if a != b
    ]
    assert not different


class Line:
    """An interrupt source with one vector to give."""

    def __init__(self, vector):
        self.vector = vector
        self.pending = True

    def acknowledge(self):
        self.pending = False
        return self.vector


@pytest.mark.parametrize("mode", [REAL, PROTECTED, LONG])
@pytest.mark.parametrize(
    "source", ["nop; sti; hlt; cli", "nop; sti; nop; 1: jmp 1b", "nop; sti; 1: incl 0x700; jmp 1b"]
)
def test_an_interrupt_comes_when_interrupts_are_on(fast, mode, source):
    made = dying(mode, "interrupt", f"xor %eax, %eax; {source}", (INT, 0))
    outcome = made.guest.run_on(fast, source=Line(INT))
    assert (outcome.exit, outcome.events) == (Halted(), [(INT, 0)])
    seen = outcome.log[0]
    assert (seen.flags & 0x200, seen.handler_flags & 0x200) == (0x200, 0)


@pytest.mark.parametrize("mode", [PROTECTED, LONG])
def test_an_interrupt_takes_users_to_the_kernel_whatever_the_gate_forbids_them(fast, mode):
    made = dying(mode, "interrupt", "", (INT, 0), user=True, patches=gate(mode, INT, dpl=0))
    guest = attrs.evolve(made.guest, source=made.guest.source.replace("hlt", "1: jmp 1b"), interrupts=True)
    outcome = guest.run_on(fast, source=Line(INT))
    assert outcome.events == [(INT, 0)]
    assert (outcome.log[0].cs, outcome.log[0].ss, outcome.log[0].flags & 0x200) == (0x2B, 0x23, 0x200)


def test_a_task_gate_is_refused_in_words(fast):
    made = dying(PROTECTED, "task gate", "ud2", (UD, 0), patches=gate(PROTECTED, UD, kind=TASK_GATE))
    with pytest.raises(Unsupported, match=r"event 6 .*task gate.*KVM"):
        made.guest.run_on(fast)
