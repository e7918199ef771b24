"""What the mock plays: acts against RAM, devices and doorbells."""

import os

import pytest
from played_guests import MMIO

from anyvisor.acts import Halt, Load, MmioRead, MmioWrite, PortIn, PortOut, Store
from anyvisor.bus import Bus
from anyvisor.errors import ConfigError, HypervisorError
from anyvisor.exits import Halted, Kicked, Shutdown
from anyvisor.memory import PAGE_BYTES, Region
from anyvisor_mock import MockHypervisor

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


def test_a_sequence_with_a_sequence_in_it_is_a_script_for_each_vcpu(made):
    """Functions alone are steps of one guest; beside a list, a function is a guest."""

    def second(bus):
        yield PortOut(0x10, 1, 2)
        yield Shutdown()

    one = made([PortOut(0x10, 1, 1), Shutdown()], second, vcpus=2)
    assert [one.run(0), one.run(1), one.ports.values] == [Shutdown(), Shutdown(), [1, 2]]
