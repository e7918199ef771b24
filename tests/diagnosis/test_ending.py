"""How a machine ended, with the last words of its guest's kernel: only where they were the last."""

from pathlib import Path

import pytest

from anyvisor.console import Console
from anyvisor.errors import ExpectError, GuestError
from anyvisor.exits import Halted, Shutdown, SystemEvent
from anyvisor.launch import launch
from anyvisor.memory import MIB, Region
from anyvisor.plan import BootPlan, VcpuPlan
from anyvisor_mock import MockHypervisor

PANICS = Path(__file__).parents[1] / "panics"
NO_INITRD = (PANICS / "no-initrd.txt").read_bytes()
SURVIVED = (PANICS / "survived-oops.txt").read_bytes()
OOPS = SURVIVED.partition(b"Killed")[0]


def ended(printed, *exits):
    """A machine whose guest prints that and ends so; without an exit, it is stopped."""
    plan = BootPlan("x86_64", (Region(0, 2 * MIB, "RAM"),), vcpus=(VcpuPlan(0, ()),))
    machine = launch(plan, MockHypervisor(script=([lambda bus: machine.consoles["com1"].output(printed), *exits],)))
    machine.consoles["com1"] = Console("com1")
    with machine:
        machine.start()
        if exits:
            machine._crew.wait(5)
        else:
            machine.console.expect(printed, timeout=5)
            machine.stop()
    return machine


@pytest.mark.parametrize("end", [SystemEvent("reset"), SystemEvent("shutdown"), Halted(), Shutdown()])
def test_a_panic_that_a_machine_ends_by_is_in_its_outcome(end):
    panic = ended(NO_INITRD, end).outcome.panic
    assert panic.reason == "VFS: Unable to mount root fs on unknown-block(0,0)"


def test_a_machine_that_is_stopped_after_a_panic_has_panicked():
    assert ended(NO_INITRD).outcome.panic.is_last


def test_what_was_printed_behind_a_panic_says_that_it_was_not_the_end():
    assert ended(NO_INITRD + b"guest# ", SystemEvent("reset")).outcome.panic is None


@pytest.mark.parametrize(("end", "counts"), [([SystemEvent("reset")], False), ([Shutdown()], True), ([], True)])
def test_an_oops_counts_only_where_the_guest_did_not_end_the_machine_itself(end, counts):
    assert bool(ended(OOPS, *end).outcome.panic) is counts


def test_who_waits_for_output_is_told_of_the_panic():
    machine = ended(NO_INITRD, SystemEvent("reset"))
    with pytest.raises(ExpectError, match="the machine stopped: reset: the guest's kernel panicked: VFS: Unable"):
        machine.console.expect("login:")


def test_a_death_is_told_before_a_panic():
    machine = ended(NO_INITRD, Shutdown())
    assert isinstance(machine.outcome.error, GuestError)
    assert machine.outcome.cause.startswith("vCPU 0 died: triple fault")


def test_how_a_machine_halted_is_noted():
    assert ended(b"bye", Halted()).outcome.note == "vCPU 0 halted with interrupts off, before rip 0xfff0"
    assert ended(b"bye", SystemEvent("reset")).outcome.note == ""


def test_a_console_without_end_is_looked_at_from_its_last_lines_only():
    outcome = ended(b"x" * 3 * MIB + b"\r\n" + NO_INITRD, SystemEvent("reset")).outcome
    assert outcome.panic.is_last
