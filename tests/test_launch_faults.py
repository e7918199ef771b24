"""Every call that a boot makes to its hypervisor fails once: one typed error that names it, and nothing left open.

On the mock, with the interrupt chips in the hypervisor and with the machine's own. `pytest -s` shows the counts.
"""

import errno
import itertools
import time
from collections import Counter

import attrs
import pytest

from anyvisor import MachineConfig, assemble
from anyvisor.acts import Load, PortIn, PortOut, Spin, Store
from anyvisor.errors import AnyvisorError, GuestError, HypervisorError
from anyvisor.exits import FailEntry, Kicked
from anyvisor.facts import Capability
from anyvisor.launch import launch
from anyvisor.testing.watch import Held
from anyvisor_mock import FailCall, InterruptStorm, MockHypervisor, VcpuDies
from anyvisor_mock.hypervisor import default_facts
from elves import tiny_elf

DATA, INTERRUPTS_ENABLED, MODEM_CONTROL = 0x3F8, 0x3F9, 0x3FC
PIT_COMMAND, PIT_CHANNEL_0, MASTER_COMMAND, MASTER_DATA = 0x43, 0x40, 0x20, 0x21
RESET = PortOut(0x64, 1, 0xFE)
MOST_CALLS = 200

WITH_CHIPS = default_facts()
WITHOUT_CHIPS = attrs.evolve(
    WITH_CHIPS, capabilities=WITH_CHIPS.capabilities - {Capability.IRQCHIP, Capability.PIT, Capability.IRQFD}
)


def greet():
    """What a driver of the serial port does: interrupts on, then a byte; the line rises and falls."""
    yield PortOut(MODEM_CONTROL, 1, 8)
    yield PortOut(INTERRUPTS_ENABLED, 1, 2)
    yield PortOut(DATA, 1, ord("!"))
    yield PortIn(0x3FA, 1)
    yield PortOut(INTERRUPTS_ENABLED, 1, 0)


def tick():
    """Open line 0 of the 8259 pair, and let the 8254 count to 1000 (0.8 ms), once."""
    for port, value in [(MASTER_COMMAND, 0x11), *((MASTER_DATA, each) for each in (0x20, 4, 1, 0xFE))]:
        yield PortOut(port, 1, value)
    for port, value in ((PIT_COMMAND, 0x30), (PIT_CHANNEL_0, 0xE8), (PIT_CHANNEL_0, 3)):
        yield PortOut(port, 1, value)


class Life:
    """A machine's whole life on the mock: what it raised, and what the mock was asked."""

    def __init__(self, plan, facts, *faults):
        self.mock = MockHypervisor(facts, {0: self.boot_processor, 1: [Spin()]}, faults)
        self.errors = []
        self.attempt(lambda: self.run(plan))
        self.attempt(self.mock.close)

    def attempt(self, call):
        try:
            call()
        except AnyvisorError as error:
            if error not in self.errors:
                self.errors.append(error)

    def run(self, plan):
        with launch(plan, self.mock) as machine:
            machine.start()
            self.attempt(lambda: machine.wait(10))
            self.attempt(machine.stop)
        if machine.outcome.error:  # the clock's thread may tell it after the end
            raise machine.outcome.error

    def boot_processor(self, bus):
        """Boot, as far as the hypervisor notices."""
        self.await_calls("run", 2)
        yield from greet()
        if not self.mock.facts.has(Capability.IRQCHIP):
            yield from tick()
            self.await_calls("notify_interrupt", 1)
        yield Store(0x1000, 8, 1)
        yield Load(0x1000, 8)
        yield RESET

    def await_calls(self, kind, count):
        """Until there were so many calls; failed ones count, so that nobody waits for ever."""
        deadline = time.monotonic() + 10
        while len(self.mock.calls.of(kind)) < count and time.monotonic() < deadline:
            time.sleep(0.0002)


@pytest.fixture(params=[WITH_CHIPS, WITHOUT_CHIPS], ids=["chips in the hypervisor", "chips of the machine's own"])
def facts(request):
    return request.param


@pytest.fixture
def plan(tmp_path, facts):
    kernel = tiny_elf(tmp_path / "vmlinux", code=b"\xf4")
    return assemble(MachineConfig(kernel=kernel, memory=64 << 20, vcpus=2), facts)


def test_a_whole_life_makes_every_kind_of_call(plan, facts):
    life = Life(plan, facts)
    assert life.errors == []
    kinds = {call.method for call in life.mock.calls}
    both = {"create_vm", "map_memory", "create_vcpu", "get", "put", "run", "kick", "close"}
    assert kinds == both | ({"set_irq"} if facts is WITH_CHIPS else {"take_interrupts_from", "notify_interrupt"})


def test_whichever_call_fails_there_is_one_error_that_names_it_and_nothing_leaks(plan, facts, capsys):
    Life(plan, facts)  # what is loaded once stays
    before, failed, leaks = Held.now(), Counter(), []
    for number in itertools.count(1):
        life = Life(plan, facts, FailCall(nth=number, errno=errno.EIO))
        told = [call for call in life.mock.calls.failed if getattr(call.error, "operation", "") == call.kind]
        if not told:
            break
        (error,) = life.errors
        assert told[0].kind in str(error), f"call {number}, {told[0]}: {error}"
        assert isinstance(error, HypervisorError) and error.errno == errno.EIO, f"call {number}: {error!r}"
        failed[told[0].kind] += 1
        leaks += [*Held.now().gained_since(before), *life.mock.open_things]
        assert not leaks, f"call {number}, {told[0]}: {leaks}"
    with capsys.disabled():
        print(f"\n{sum(failed.values())} calls failed ({dict(failed)}), {len(leaks)} leaks found")
    assert {"run", "kick", "close", "create_vm", "put Sregs"} <= failed.keys()


def test_a_machine_gets_through_a_storm_of_signals(plan, facts):
    life = Life(plan, facts, InterruptStorm(vcpu=0, runs=5), InterruptStorm(vcpu=1, runs=5))
    assert life.errors == []
    results = [call.result for call in life.mock.calls.of("run").on("vm 0 / vcpu 0")]
    assert results[:5] == [Kicked()] * 5 and len(results) == 6


@pytest.mark.parametrize("vcpu", [0, 1])
def test_a_vcpu_that_dies_ends_its_machine(plan, facts, vcpu):
    life = Life(plan, facts, VcpuDies(vcpu=vcpu, after=0, exit=FailEntry(0x80000021)))
    (error,) = life.errors
    assert isinstance(error, GuestError)
    assert (error.vcpu, error.exit) == (vcpu, FailEntry(0x80000021))
    assert life.mock.open_things == []
