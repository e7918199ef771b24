"""HLT, interrupts, kicks and signals, as KVM has them."""

import signal
import threading
import time

import attrs
import pytest
from played_guests import INTERRUPTS_ON

from anyvisor.acts import Halt, PortOut, Spin
from anyvisor.errors import HypervisorError
from anyvisor.exits import Halted, Kicked, Shutdown
from anyvisor.memory import Region
from anyvisor.testing.listener import Vectors
from anyvisor.x86_64.state import Activity, MpState, Regs


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


def test_a_loop_is_endless_until_another_script_is_given_also_while_it_runs(made):
    one = made(Spin(), PortOut(0x10, 1, 1))
    one.vcpu.kick()
    assert one.run() == Kicked()
    thread, found = one.start()
    one.vcpu.notify_interrupt()
    thread.join(0.05)
    assert thread.is_alive()
    one.vcpu.play([PortOut(0x10, 1, 2), Shutdown()])
    thread.join(10)
    assert (found, one.ports.values) == ([Shutdown()], [2])


def test_gathered_writes_keep_their_order_when_two_vcpus_deliver_them(made):
    one = made(vcpus=2)
    one.vm.coalesce(Region(0x10, 1), port=True)
    begun, values, write = threading.Event(), [], one.ports.write

    def slow(offset, size_bytes, value):
        if offset == 0:
            begun.set()
            time.sleep(0.05 if value == 1 else 0)
        values.append((offset, value))
        write(offset, size_bytes, value)

    one.bus.write_port = lambda port, size_bytes, value: slow(port - 0x10, size_bytes, value)
    one.vcpus[0].play([PortOut(0x10, 1, 1), PortOut(0x10, 1, 2), Shutdown()])
    one.vcpus[1].play([PortOut(0x12, 1, 3), Shutdown()])
    thread, _ = one.start(0)
    assert begun.wait(10)
    assert one.run(1) == Shutdown()
    thread.join(10)
    assert values == [(0, 1), (0, 2), (2, 3)]


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
