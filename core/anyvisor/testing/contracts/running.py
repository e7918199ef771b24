"""`Vcpu.run`: it answers the guest's accesses on the way, and comes back with what somebody must decide on."""

from __future__ import annotations

import errno
from functools import partial

import pytest

from anyvisor.bus import Bus
from anyvisor.errors import HypervisorError
from anyvisor.exits import Exit, Halted, Kicked, Shutdown
from anyvisor.facts import Capability
from anyvisor.testing.bench import CODE, DATA, PORTS
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.listener import Listener
from anyvisor.testing.requirements import needs
from anyvisor.testing.watch import Underway, until

OTHER_CODE = CODE + 0x800


class RunningContract(Contract):
    """What `run` returns, and what it does not return for."""

    def test_a_port_write_reaches_the_bus_and_run_does_not_return_for_it(self, bench: MakeBench) -> None:
        """OUT is answered inside `run`: the device sees it once, and what comes back is the HLT behind it."""
        made = bench()
        made.enter(made.guests.OUT_42)
        assert made.run() == Halted()
        assert made.ports.writes == [(0, 1, 42)]

    def test_a_port_read_gets_what_the_device_answers(self, bench: MakeBench) -> None:
        """IN is answered inside `run`: the guest has the device's value, and shows it to another device."""
        made = bench()
        made.ports.answers.append(0x5A)
        made.enter(made.guests.ECHO)
        assert made.run() == Halted()
        assert (made.ports.reads, made.others.writes) == ([(0, 1)], [(0, 1, 0x5A)])

    def test_each_halt_makes_run_return_once_and_the_next_run_goes_on_behind_it(self, bench: MakeBench) -> None:
        """A guest that halts five times makes five `Halted`: none is swallowed, and none comes twice."""
        made = bench()
        made.enter(made.guests_of("running").FIVE_HALTS)
        for number in range(1, 6):
            assert made.run() == Halted(), f"HLT number {number}"
            assert made.ports.values == list(range(1, number + 1)), f"what the guest did before HLT number {number}"

    def test_a_processor_that_shuts_down_says_so(self, bench: MakeBench) -> None:
        """An exception whose delivery fails, and that of the double fault too, ends `run` with `Shutdown`."""
        made = bench()
        made.enter(made.guests_of("running").TRIPLE_FAULT)
        assert isinstance(made.run(), Shutdown)

    def test_what_a_device_raises_comes_out_of_run(self, bench: MakeBench) -> None:
        """A device that fails ends `run` with its own error, and the vCPU can be run again."""
        made = bench()

        def fail() -> None:
            raise LookupError("the device is broken")

        made.ports.then = fail
        made.enter(made.guests.OUT_42)
        with pytest.raises(LookupError, match="the device is broken"):
            made.run()
        assert made.run() == Halted()
        assert made.ports.writes == [(0, 1, 42)], "the access that failed must not be made again"

    def test_each_run_speaks_to_its_own_bus(self, bench: MakeBench) -> None:
        """The bus is what this `run` is given, not what the one before had."""
        made = bench()
        made.enter(made.guests_of("running").FIVE_HALTS)
        made.run()
        made.bus, later = Bus(), Listener()
        made.bus.add_ports(PORTS, later)
        made.run()
        assert (made.ports.values, later.values) == ([1], [2])

    def test_a_device_that_is_added_between_two_runs_is_heard(self, bench: MakeBench) -> None:
        """Whom to call at a port is remembered for one `run` at most: the next one asks the bus again."""
        made, later = bench(), Listener()
        made.bus = Bus()
        made.enter(made.guests_of("running").FIVE_HALTS)
        made.run()
        made.bus.add_ports(PORTS, later)
        made.run()
        assert later.values == [2], "the device that was added to the bus after the first `run`"

    def test_a_device_may_use_the_vm_while_it_answers(self, bench: MakeBench) -> None:
        """A device that is called by `run` may look at the clock and write to memory; nothing is locked against it."""
        made = bench()
        seen: list[int] = []

        def look() -> None:
            seen.append(made.vm.clock.now())
            made.memory.write(DATA, b"seen")

        made.ports.then = look
        made.enter(made.guests.OUT_42)
        assert made.run() == Halted()
        assert len(seen) == 1
        assert made.memory.read(DATA, 4) == b"seen"

    @needs(Capability.KICK)
    def test_a_second_thread_in_run_is_refused(self, bench: MakeBench) -> None:
        """One thread at a time: a second one in `run` gets HypervisorError (EBUSY), and the first one goes on."""
        made = bench()
        made.enter(made.guests.OUT_42_THEN_SPIN)
        first = made.start()
        first.until(lambda: made.ports.writes, "the guest's first OUT")
        second = made.start()
        with pytest.raises(HypervisorError) as refused:
            second.result()
        assert refused.value.errno == errno.EBUSY
        assert not first.is_over(0), "the first thread's run ended when a second one tried"
        made.vcpu.kick()
        assert first.result() == Kicked()


class RunningTogetherContract(Contract):
    """Several vCPUs of one VM, each in a thread of its own."""

    @needs(vcpus=2)
    def test_every_vcpu_runs_its_own_guest(self, bench: MakeBench) -> None:
        """Without interrupt controllers in the hypervisor, each vCPU runs as soon as somebody runs it."""
        made = bench(vcpus=2)
        guests = made.guests_of("running")
        made.enter(guests.STORE_1, vcpu=0)
        made.enter(guests.STORE_2, vcpu=1, code=OTHER_CODE)
        first, second = made.start(0), made.start(1)
        assert (first.result(), second.result()) == (Halted(), Halted())
        assert made.memory.read(DATA, 2) == bytes([1, 2])

    @needs(vcpus=2)
    def test_two_vcpus_run_at_the_same_time(self, bench: MakeBench) -> None:
        """Each of two guests waits in a loop for what the other one stores: both must be running to end."""
        made = bench(vcpus=2)
        guests = made.guests_of("running")
        made.enter(guests.MEET_AS_FIRST, vcpu=0)
        made.enter(guests.MEET_AS_SECOND, vcpu=1, code=OTHER_CODE)
        runs = [made.start(0), made.start(1)]
        until(lambda: all(each.is_over(0) for each in runs), "two vCPUs that wait for each other's store")
        assert [each.result() for each in runs] == [Halted(), Halted()]
        assert made.memory.read(DATA, 2) == bytes([1, 1])

    def test_vms_run_at_the_same_time_and_share_nothing(self, bench: MakeBench) -> None:
        """Two VMs of one hypervisor have memory, vCPUs and devices of their own."""
        first, second = bench(), bench()
        for made in (first, second):
            made.enter(made.guests_of("running").ECHO_FOREVER)
        ends: list[Underway[Exit]] = []
        for made, value in ((first, 1), (second, 2)):
            made.ports.answers.extend([value] * 50)
            made.ports.then = partial(_stop_at, made.ports, 51)
            ends.append(made.start())
        for each in ends:
            with pytest.raises(LookupError, match="enough"):
                each.result()
        assert (set(first.others.values[:50]), set(second.others.values[:50])) == ({1}, {2})

    @needs(Capability.KICK)
    def test_vms_run_in_turns_and_share_nothing(self, bench: MakeBench) -> None:
        """A guest that was left in the middle finds its registers as they were, whatever another VM has done since."""
        first, second = bench(), bench()
        first.ports.answers.append(1)
        second.ports.answers.append(2)
        for made in (first, second):
            made.ports.then = made.vcpu.kick
            made.enter(made.guests.ECHO)
            assert made.run() == Kicked()
        for made in (first, second):
            assert made.run() == Halted()
        assert (first.others.values, second.others.values) == ([1], [2]), "the value of each guest's IN"


def _stop_at(listener: Listener, count: int) -> None:
    """End `run` from a device, without a kick."""
    if len(listener.reads) == count:
        raise LookupError("enough")
