"""What the mock plays: acts against RAM, devices and doorbells; HLT, interrupts, kicks and signals as KVM has them."""

import os
import signal
import threading
import time

import attrs
import pytest

from anyvisor.acts import Halt, Load, MmioRead, MmioWrite, PortIn, PortOut, Spin, Store
from anyvisor.bus import Bus
from anyvisor.errors import ConfigError, HypervisorError, Unsupported
from anyvisor.exits import Halted, Kicked, Shutdown
from anyvisor.facts import Capability
from anyvisor.memory import PAGE_BYTES, GuestMemory, Region
from anyvisor.testing.listener import Listener, Vectors
from anyvisor.x86_64.chips import Irqchip
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.state import Activity, Fpu, MpState, Regs, Sregs
from anyvisor_mock import MockHypervisor
from anyvisor_mock.hypervisor import default_facts

INTERRUPTS_ON = Regs(rflags=0x202)
MMIO = 0xD0000000


class Made:
    """The mock with two pages of RAM, listeners at ports 0x10 and from MMIO up, and one vCPU."""

    def __init__(self, script=(), *, irqchip=False, source=None, readonly=False, facts=None, vcpus=1):
        self.mock = MockHypervisor(facts, script)
        self.vm = self.mock.create_vm()
        self.memory = GuestMemory([Region(0, 2 * PAGE_BYTES, "RAM")])
        for ram in self.memory:
            self.vm.map_memory(ram, readonly=readonly)
        if irqchip:
            self.vm.put(Irqchip())
        self.vcpus = [self.vm.create_vcpu(index) for index in range(vcpus)]
        self.vcpu = self.vcpus[0]
        if source is not None:
            self.vcpu.take_interrupts_from(source)
        self.bus, self.ports, self.mmio = Bus(), Listener(), Listener()
        self.bus.add_ports(Region(0x10, 8, "ports"), self.ports)
        self.bus.add_mmio(Region(MMIO, 0x1000, "mmio"), self.mmio)
        self.bus.add_mmio(Region(2 * PAGE_BYTES, 0x1000, "behind RAM"), self.mmio, offset=0x100)

    def run(self, vcpu=0):
        return self.vcpus[vcpu].run(self.bus)

    def start(self, vcpu=0):
        found = []
        thread = threading.Thread(target=lambda: found.append(self.run(vcpu)))
        thread.start()
        return thread, found


@pytest.fixture
def made():
    everything = []

    def make(*script, **options):
        everything.append(Made(list(script), **options))
        return everything[-1]

    yield make
    for each in everything:
        each.mock.close()
        each.memory.close()


# -- acts --------------------------------------------------------------------------------------------------------------


def test_accesses_are_answered_by_the_bus_and_run_returns_for_hlt_alone(made):
    one = made(PortOut(0x10, 1, 0x141), PortIn(0x12, 2), PortOut(0x14, 4), MmioWrite(MMIO + 8, 8, -1), Halt())
    one.ports.answers.append(0xFFF1234)
    assert one.run() == Halted()
    assert one.ports.writes == [(0, 1, 0x41), (4, 4, 0x1234)]  # cut to size, both ways
    assert one.ports.reads == [(2, 2)]
    assert one.mmio.writes == [(8, 8, (1 << 64) - 1)]


def test_a_write_without_a_value_writes_what_was_read_last_wherever_that_was(made):
    one = made(MmioRead(MMIO, 4), Store(0x100, 4), Load(0x102, 2), PortOut(0x10, 2), Halt())
    one.mmio.answers.append(0xAABBCCDD)
    one.run()
    assert one.memory.read(0x100, 4) == bytes.fromhex("ddccbbaa")
    assert one.ports.writes == [(0, 2, 0xAABB)]


def test_the_value_of_a_read_in_a_script_is_not_the_answer(made):
    one = made(PortIn(0x10, 1, 0x55), PortOut(0x11, 1), Halt())
    one.ports.answers.append(0x66)
    one.run()
    assert one.ports.writes == [(1, 1, 0x66)]


def test_loads_and_stores_outside_ram_are_mmio_and_mmio_acts_inside_are_ram(made):
    one = made(
        Store(MMIO, 2, 7), Load(MMIO + 4, 8), MmioWrite(0x80, 2, 0x0201), MmioRead(0x80, 1), PortOut(0x10, 1), Halt()
    )
    one.run()
    assert (one.mmio.writes, one.mmio.reads) == ([(0, 2, 7)], [(4, 8)])
    assert one.ports.writes == [(0, 1, 1)]


def test_an_access_over_the_end_of_ram_is_split_there_into_parts_that_devices_know(made):
    one = made(Store(2 * PAGE_BYTES - 1, 8, 0x8877665544332211), Load(2 * PAGE_BYTES - 1, 8), Store(0, 8), Halt())
    one.mmio.answers.extend([0x05040302, 0x0706, 0x08])
    one.run()
    assert one.mmio.writes == [(0x100, 4, 0x55443322), (0x104, 2, 0x7766), (0x106, 1, 0x88)]
    assert one.memory.read(0, 8) == bytes([0x11, 2, 3, 4, 5, 6, 7, 8])


def test_an_access_over_a_page_inside_ram_is_one_to_the_guest(made):
    one = made(Store(PAGE_BYTES - 3, 8, 0x0807060504030201), Load(PAGE_BYTES - 3, 8), Store(0, 8), Halt())
    one.run()
    assert one.memory.read(PAGE_BYTES - 3, 8) == one.memory.read(0, 8) == bytes(range(1, 9))


def test_a_store_to_readonly_ram_is_mmio_and_a_load_is_not(made):
    one = made(Store(0x10, 1, 9), Load(0x10, 1), PortOut(0x10, 1), Halt(), readonly=True)
    one.memory.write(0x10, b"\x05")
    one.run()
    assert one.bus.unclaimed == {("mmio", 0x10): 1}
    assert one.ports.writes == [(0, 1, 5)]


def test_a_doorbell_is_signalled_by_its_writes_and_the_bus_does_not_see_them(made):
    one = made(PortOut(0x10, 2, 5), PortOut(0x10, 2, 6), PortOut(0x10, 1, 5), MmioWrite(MMIO, 4, 1), Halt())
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        one.vm.add_ioeventfd(fd, Region(0x10, 2), port=True, match=5)
        one.vm.add_ioeventfd(fd, Region(MMIO, 0))
        one.run()
        assert os.eventfd_read(fd) == 2
    finally:
        os.close(fd)
    assert one.ports.writes == [(0, 2, 6), (0, 1, 5)]
    assert one.mmio.writes == []


def test_gathered_writes_come_in_order_before_what_the_bus_sees_next_and_at_the_end(made):
    one = made(MmioWrite(MMIO, 4, 1), PortOut(0x10, 1, 2), PortIn(0x11, 1), MmioWrite(MMIO, 4, 3), Halt())
    seen = []
    one.mmio.then = lambda: seen.append(("mmio", one.mmio.values[-1]))
    one.ports.then = lambda: seen.append("ports")
    one.vm.coalesce(Region(MMIO, 4))
    one.vm.coalesce(Region(0x10, 1), port=True)
    one.run()
    assert seen == [("mmio", 1), "ports", "ports", ("mmio", 3)]
    assert one.ports.writes == [(0, 1, 2)]


def test_a_port_write_comes_behind_the_writes_that_were_gathered_before_it(made):
    one = made(MmioWrite(MMIO, 4, 1), PortOut(0x10, 1, 2), Halt())
    one.vm.coalesce(Region(MMIO, 4))
    one.ports.then = lambda: one.mmio.values == [1] or pytest.fail("the port write came first")
    one.run()


@pytest.mark.parametrize("act", [PortOut(0x10, 8, 1), PortIn(0x10, 3), Load(0, 3), MmioWrite(MMIO, 16, 1)])
def test_an_access_of_a_size_that_there_is_not_is_refused(made, act):
    with pytest.raises(HypervisorError, match="accesses of"):
        made(act).run()


@pytest.mark.parametrize("item", [None, 7, "out"])
def test_what_is_no_act_is_refused(made, item):
    with pytest.raises(ConfigError, match="no act, no exit and no function"):
        made(item).run()


# -- scripts -----------------------------------------------------------------------------------------------------------


def test_exits_come_out_and_the_next_run_goes_on_behind_them(made):
    one = made(Shutdown(), PortOut(0x10, 1, 1), Halt(), PortOut(0x10, 1, 2), Halt())
    assert [one.run(), one.run(), one.run()] == [Shutdown(), Halted(), Halted()]
    assert one.ports.values == [1, 2]


def test_a_function_is_called_with_the_bus_and_acts_that_it_gives_are_played_next(made):
    def counting(bus):
        for number in range(2):
            yield PortOut(0x10, 1, number)

    one = made(lambda bus: bus.write_port(0x10, 1, 9), counting, lambda bus: [Store(0, 1, 4)], Halt())
    assert one.run() == Halted()
    assert one.ports.values == [9, 0, 1]
    assert one.memory.read(0, 1) == b"\x04"


def test_a_generator_can_read_and_think(made):
    one = made()

    def double(bus):
        yield PortOut(0x10, 1, 2 * bus.read_port(0x12, 1))
        yield Halt()

    one.ports.answers.append(21)
    one.vcpu.play(double)
    assert one.run() == Halted()
    assert one.ports.values == [42]


def test_a_script_is_for_vcpu_0_or_one_for_each():
    for script in ({1: [Shutdown()]}, [(), [Shutdown()]]):
        with MockHypervisor(script=script) as mock:
            vm = mock.create_vm()
            vcpus = [vm.create_vcpu(index) for index in range(3)]
            assert vcpus[1].run(Bus()) == Shutdown()
            for each in (vcpus[0], vcpus[2]):
                each.kick()
                assert each.run(Bus()) == Kicked()


def test_every_vm_plays_the_script_from_its_beginning():
    with MockHypervisor(script=[Shutdown()]) as mock:
        assert [mock.create_vm().create_vcpu(0).run(Bus()) for _ in range(2)] == [Shutdown(), Shutdown()]


def test_what_a_device_raises_comes_out_and_the_vcpu_stays_usable(made):
    one = made(PortOut(0x10, 1, 1), PortOut(0x10, 1, 2), Halt())
    one.ports.then = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        one.run()
    one.ports.then = lambda: None
    assert one.run() == Halted()
    assert one.ports.values == [1, 2]


def wait_for_halt(vcpu, thread):
    """Until the vCPU waits in HLT, or has come back."""
    deadline = time.monotonic() + 10
    while thread.is_alive() and not vcpu._processor.halted and time.monotonic() < deadline:
        time.sleep(0.001)


# -- HLT and interrupts ------------------------------------------------------------------------------------------------


def test_hlt_without_anything_that_could_end_it_is_halted(made):
    assert made(Halt()).run() == Halted()
    assert made(Halt(), source=Vectors(0x30)).run() == Halted()  # interrupts are off


def test_hlt_takes_the_vector_of_a_pending_source_and_goes_on(made):
    source = Vectors(0x30, 0x31)
    one = made(Halt(), PortOut(0x10, 1, 1), Halt(), PortOut(0x10, 1, 2), Shutdown(), source=source)
    one.vcpu.put(INTERRUPTS_ON)
    assert one.run() == Shutdown()
    assert (one.vcpu.interrupts, source.taken, one.ports.values) == ([0x30, 0x31], [0x30, 0x31], [1, 2])


def test_hlt_waits_for_a_notification_and_a_kick_does_not_end_it(made):
    source = Vectors()
    one = made(Halt(), Shutdown(), source=source)
    one.vcpu.put(INTERRUPTS_ON)
    thread, found = one.start()
    one.vcpu.notify_interrupt()  # nothing is pending: it goes on waiting
    one.vcpu.kick()
    thread.join(10)
    assert found == [Kicked()]
    assert one.vcpu.get(MpState) == MpState(Activity.HALTED)
    thread, found = one.start()
    source.waiting.append(0x40)
    one.vcpu.notify_interrupt()
    thread.join(10)
    assert (found, one.vcpu.interrupts) == ([Shutdown()], [0x40])


def test_with_chips_hlt_waits_and_a_line_that_rises_ends_it_if_interrupts_are_on(made):
    one = made(Halt(), Shutdown(), irqchip=True)
    thread, found = one.start()
    one.vm.set_irq(4, True)
    one.vcpu.kick()
    thread.join(10)
    assert found == [Kicked()]  # interrupts are off: it still waits
    one.vcpu.put(INTERRUPTS_ON)
    assert one.run() == Shutdown()
    one.vcpu.play([Halt(), Shutdown()])
    one.vm.set_irq(4, True)  # it is up already: no edge
    thread, found = one.start()
    wait_for_halt(one.vcpu, thread)
    one.vcpu.kick()
    thread.join(10)
    assert found == [Kicked()]


def test_an_application_processor_waits_to_be_started(made):
    one = made(irqchip=True, vcpus=2)
    second = one.vcpus[1]
    second.play([Shutdown()])
    thread, found = one.start(1)
    second.kick()
    thread.join(10)
    assert found == [Kicked()]
    second.put(MpState(Activity.RUNNABLE))
    assert one.run(1) == Shutdown()


def test_a_start_up_interrupt_puts_a_processor_where_its_vector_says(made):
    one = made(irqchip=True, vcpus=2)
    second = one.vcpus[1]
    second.play([Shutdown()])
    second.put(MpState(Activity.SIPI_RECEIVED))
    second.put(attrs.evolve(second.get(type(second.get(MpState))), activity=Activity.SIPI_RECEIVED))
    assert one.run(1) == Shutdown()
    assert (second.get(Regs).rip, second.get(MpState).activity) == (0, Activity.RUNNABLE)


# -- threads -----------------------------------------------------------------------------------------------------------


def test_the_end_of_a_script_is_a_loop_that_only_a_kick_ends(made):
    one = made()
    thread, found = one.start()
    assert thread.is_alive()
    one.vcpu.kick()
    thread.join(10)
    assert found == [Kicked()]


def test_a_kick_before_a_run_ends_that_run_and_no_other(made):
    one = made(PortOut(0x10, 1, 1), Shutdown())
    one.vcpu.kick()
    one.vcpu.kick()
    assert one.run() == Kicked()
    assert one.ports.writes == []
    assert one.run() == Shutdown()


def test_a_kick_by_a_device_ends_the_run_behind_its_access(made):
    one = made(PortOut(0x10, 1, 1), PortOut(0x10, 1, 2), Shutdown())
    one.ports.then = one.vcpu.kick
    assert [one.run(), one.run()] == [Kicked(), Kicked()]
    assert one.ports.values == [1, 2]
    assert one.run() == Shutdown()


@pytest.mark.parametrize("act", [Spin(), Halt()])
def test_a_signal_ends_the_run_of_the_main_thread(made, act):
    source = Vectors()
    one = made(act, source=source)
    one.vcpu.put(INTERRUPTS_ON)
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert one.run() == Kicked()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_vcpu_in_run_belongs_to_its_thread(made):
    one = made()
    entered = threading.Event()
    one.vcpu.play([lambda bus: entered.set()])
    thread, found = one.start()
    assert entered.wait(10)
    for call in (
        one.run,
        lambda: one.vcpu.get(Regs),
        lambda: one.vcpu.put(Regs()),
        one.vcpu.close,
        one.vm.close,
        one.mock.close,
    ):
        with pytest.raises(HypervisorError, match=r"rule one-thread.*EBUSY"):
            call()
    one.vcpu.kick()
    thread.join(10)
    assert found == [Kicked()]
    one.vm.close()


def test_a_device_may_ask_the_vcpu_that_it_works_for(made):
    one = made(PortOut(0x10, 1, 1), Shutdown())
    seen = []
    one.ports.then = lambda: seen.append(one.vcpu.get(Regs).rip)
    assert one.run() == Shutdown()
    assert seen == [0xFFF0]


# -- facts -------------------------------------------------------------------------------------------------------------


def test_without_arguments_it_is_a_modern_host_that_executes_nothing():
    with MockHypervisor() as mock:
        assert (mock.facts.backend, mock.facts.modes, mock.facts.architecture) == ("mock", (), "x86_64")
        assert mock.facts.supported_state(Cpuid).vendor
        assert not mock.facts.has(Capability.NATIVE)


def test_what_the_facts_lack_the_mock_has_not(made):
    bare = attrs.evolve(default_facts(), capabilities=frozenset(), states=("x86_64.Regs", "x86_64.Sregs"))
    one = Made(facts=bare)
    fd = os.eventfd(0)
    calls = [
        lambda: one.vm.set_irq(1, True), lambda: one.vm.add_irqfd(fd, 1), lambda: one.vm.remove_irqfd(fd, 1),
        lambda: one.vm.add_ioeventfd(fd, Region(0, 1)), lambda: one.vm.remove_ioeventfd(fd, Region(0, 1)),
        lambda: one.vm.coalesce(Region(0, 1)),
        lambda: one.vm.map_memory(GuestMemory([Region(0x10000, 0x1000)]).regions[0], readonly=True),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(Unsupported, match="rule capabilities"):
            call()
    for call in (
        lambda: one.vcpu.get(Fpu),
        lambda: one.vcpu.put(Fpu()),
        lambda: one.vm.put(Irqchip()),
        lambda: one.vm.get(Irqchip),
    ):
        with pytest.raises(Unsupported, match="rule known-states"):
            call()
    assert one.vcpu.get(Sregs)
    os.close(fd)
    one.mock.close()
    one.memory.close()


def test_no_more_vcpus_than_the_facts_say():
    with MockHypervisor(attrs.evolve(FACTS, max_vcpus=2)) as mock:
        vm = mock.create_vm()
        vm.create_vcpu(0)
        vm.create_vcpu(1)
        with pytest.raises(HypervisorError, match="rule vcpu-limit"):
            vm.create_vcpu(2)


def test_an_architecture_without_rules_is_unsupported():
    mock = MockHypervisor(attrs.evolve(FACTS, architecture="aarch64"))
    with pytest.raises(Unsupported, match="x86_64, not those of aarch64"):
        mock.create_vm()


def test_a_deterministic_vm_counts_its_acts_and_skips_its_halts():
    def life():
        with MockHypervisor(FACTS) as mock:
            vm = mock.create_vm(deterministic=True)
            vcpu, source, seen = vm.create_vcpu(0), Vectors(), []
            vcpu.take_interrupts_from(source)
            vcpu.put(INTERRUPTS_ON)
            timer = vm.clock.timer(lambda: (seen.append(vm.clock.now()), source.waiting.append(0x20)))
            timer.set(3600 * 10**9)
            vcpu.play([*[Store(0, 1, 1)] * 5, Halt(), Shutdown()])
            assert vcpu.run(Bus()) == Shutdown()
            return seen, vm.clock.now(), vm.clock.wall_seconds()

    began = time.monotonic()
    assert life() == life()
    assert life()[0][0] > 3600 * 10**9
    assert time.monotonic() - began < 10
