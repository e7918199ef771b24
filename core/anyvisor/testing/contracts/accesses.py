"""One access of the guest, port or MMIO, in or out, that does not go smoothly: its device fails, or kicks.

Some facts about `run`'s end. A backend that translates code may do a few instructions more before it returns for a kick
or a device's error; what counts is that each is done once.
"""

from __future__ import annotations

import pytest

from anyvisor.acts import Halt, PortOut
from anyvisor.exits import Halted, Kicked
from anyvisor.facts import Capability
from anyvisor.testing.bench import OTHER_PORTS, Bench
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.listener import Listener
from anyvisor.testing.requirements import needs

ANSWER = 42
"""What is read, and what is written."""
each_access = pytest.mark.parametrize("access", ["READ_PORT", "WRITE_PORT", "READ_MMIO", "WRITE_MMIO"])


class AbortedError(BaseException):
    """An error that is no `Exception`, as KeyboardInterrupt is none."""


class AccessContract(Contract):
    """An access is made once, whatever becomes of it, and the guest goes on behind it."""

    @each_access
    @pytest.mark.parametrize("error", [LookupError, AbortedError], ids=["exception", "base-exception"])
    def test_an_access_whose_device_fails_is_not_made_again(
        self, bench: MakeBench, access: str, error: type[BaseException]
    ) -> None:
        """What a device raises comes out of `run`, whatever it is; the next `run` goes on behind the access."""
        made = bench()
        device = enter(made, access)

        def fail() -> None:
            raise error("the device is broken")

        device.then = fail
        with pytest.raises(error, match="the device is broken"):
            made.run()
        device.then = lambda: None
        assert made.run() == Halted()
        assert times_made(device) == 1, "the access that failed must not be made again"
        assert len(made.others.writes) == 1, "the guest must go on behind the access that failed"

    @needs(Capability.KICK)
    @each_access
    def test_an_access_whose_device_kicks_is_over_when_run_returns(self, bench: MakeBench, access: str) -> None:
        """A kick from a device ends `run` behind the access: the states can be got and put back, and it is not lost."""
        made = bench()
        kick_in_the_access(made, access)
        for kind in made.readable_kinds():
            made.vcpu.put(made.vcpu.get(kind))
        assert made.run() == Halted()
        assert times_made(device_of(made, access)) == 1, "the access that was under way must be made once"
        assert made.others.values == [ANSWER], "AL behind the access"

    @needs(Capability.KICK)
    @each_access
    def test_a_guest_goes_on_in_another_vm_behind_an_access(self, bench: MakeBench, access: str) -> None:
        """States and memory that were got after `Kicked` are the whole guest: put to a fresh VM, it goes on there."""
        old, new = bench(), bench()
        kick_in_the_access(old, access)
        new.take_over(old)
        rest = () if old.others.values else (PortOut(OTHER_PORTS.start, 1, ANSWER),)
        new.play((*rest, Halt()))
        assert new.run() == Halted()
        assert times_made(device_of(new, access)) == 0, "the access is over, and must not be made again in the new VM"
        assert old.others.values + new.others.values == [ANSWER], "AL behind the access, said once, there or here"


def device_of(made: Bench, access: str) -> Listener:
    """The device that is meant by an access."""
    return made.mmio if access.endswith("MMIO") else made.ports


def enter(made: Bench, access: str) -> Listener:
    """Put the guest of that access at its first instruction; the device that it will meet."""
    device = device_of(made, access)
    device.answers.append(ANSWER)
    made.enter(getattr(made.guests_of("access"), access))
    return device


def kick_in_the_access(made: Bench, access: str) -> None:
    """Run the guest until its device kicks."""
    __tracebackhide__ = True
    enter(made, access).then = made.vcpu.kick
    assert made.run() == Kicked(), "a kick from a device that is called ends `run` behind the access"


def times_made(device: Listener) -> int:
    """How often a device was met."""
    return len(device.reads) + len(device.writes)
