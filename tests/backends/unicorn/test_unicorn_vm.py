"""VMs: what they have and have not, and that closing them leaves nothing behind."""

import contextlib
import errno
import threading

import pytest
from emulated_guests import DATA, HALT, Guest, held, spinning

from anyvisor.errors import HypervisorError, Unsupported
from anyvisor.exits import Halted, Kicked
from anyvisor.memory import MIB, GuestMemory, RamRegion, Region
from anyvisor.x86_64.chips import Irqchip
from anyvisor_unicorn.hypervisor import open_unicorn


def test_a_vm_has_one_vcpu(unicorn):
    vm = unicorn.create_vm()
    vm.create_vcpu(0)
    with pytest.raises(HypervisorError, match=r"vCPU 1: a VM has one here.*EEXIST"):
        vm.create_vcpu(1)
    vm.close()
    with pytest.raises(HypervisorError, match="EBADF"):
        vm.create_vcpu(0)


def test_memory_comes_before_the_vcpu_and_is_writable(unicorn):
    with GuestMemory([Region(0, MIB)]) as memory:
        (ram,) = memory
        vm = unicorn.create_vm()
        with pytest.raises(Unsupported, match="read-only"):
            vm.map_memory(ram, readonly=True)
        vm.map_memory(ram)
        vm.create_vcpu(0)
        with pytest.raises(HypervisorError, match=r"memory comes before the vCPU.*EBUSY"):
            vm.map_memory(ram)
        vm.close()
        with pytest.raises(HypervisorError, match="EBADF"):
            vm.map_memory(ram)


def test_memory_that_lies_too_high_is_refused_and_nothing_is_left(fast):
    before = held()
    with GuestMemory([Region(0, MIB)]) as low, GuestMemory([Region(1 << 40, MIB)]) as high:
        vm = fast.create_vm()
        for ram in (*low, *high):
            vm.map_memory(ram)
        with pytest.raises(HypervisorError):
            vm.create_vcpu(0)
        vm.close()
    assert held()[:2] == before[:2]


@pytest.mark.parametrize(
    ("region", "error", "text"),
    [
        (Region(MIB // 2, MIB), errno.EEXIST, "overlaps 0x0-0xfffff"),
        (Region(MIB + 0x800, 0x1000), errno.EINVAL, "no whole number of 4096-byte pages"),
        (Region(MIB, 0x800), errno.EINVAL, "no whole number of 4096-byte pages"),
    ],
)
def test_memory_that_cannot_be_mapped_is_refused_at_once(fast, region, error, text):
    with GuestMemory([Region(0, MIB)]) as low, contextlib.closing(RamRegion(region)) as other:
        vm = fast.create_vm()
        vm.map_memory(*low)
        with pytest.raises(HypervisorError, match=text) as refused:
            vm.map_memory(other)
        assert refused.value.errno == error
        vm.create_vcpu(0)
        vm.close()


def test_what_it_has_not_is_unsupported_and_says_what_to_use_instead(unicorn):
    vm = unicorn.create_vm()
    region = Region(0x1000, 8)
    for use in (
        lambda: vm.set_irq(4, True),
        lambda: vm.put(Irqchip()),
        lambda: vm.get(Irqchip),
        lambda: vm.add_irqfd(0, 4),
        lambda: vm.remove_irqfd(0, 4),
        lambda: vm.add_ioeventfd(0, region),
        lambda: vm.remove_ioeventfd(0, region),
        lambda: vm.coalesce(region),
    ):
        with pytest.raises(Unsupported, match="unicorn"):
            use()


def test_a_hypervisor_closes_its_vms_and_itself_twice(fast):
    opened = open_unicorn("fast")
    made = Guest(opened, HALT)
    opened.close()
    opened.close()
    with pytest.raises(HypervisorError, match="EBADF"):
        made.run()
    with pytest.raises(HypervisorError, match="EBADF"):
        opened.create_vm()
    made.close()


def test_a_hypervisor_with_a_running_vcpu_cannot_be_closed_and_can_be_later():
    opened = open_unicorn("fast")
    made, runner = spinning(lambda source: Guest(opened, source))
    with pytest.raises(HypervisorError, match="EBUSY"):
        opened.close()
    made.vcpu.kick()
    assert runner.result() == Kicked()
    opened.close()
    made.close()


def test_vms_may_be_closed_before_the_hypervisor_in_any_order(fast):
    made = [Guest(fast, f"incq DATA; {HALT}") for _ in range(3)]
    made[1].close()
    assert made[0].run() == made[2].run() == Halted()
    made[2].close()
    made[0].close()


def test_a_vm_that_was_closed_is_not_kept(fast):
    import gc
    import weakref

    opened = open_unicorn("fast")
    made = Guest(opened, HALT)
    vm = weakref.ref(made.vm)
    made.close()
    del made
    opened.create_vm()
    gc.collect()
    assert vm() is None
    opened.close()


@pytest.mark.parametrize("mode", ["fast", "counted", "deterministic"])
def test_a_hundred_vms_leave_nothing_behind(mode):
    with open_unicorn("counted" if mode == "counted" else "fast") as opened:

        def live():
            made = Guest(
                opened, f"incq DATA; in $PORT, %al; mov MMIO, %eax; {HALT}", deterministic=mode == "deterministic"
            )
            timer = made.vm.clock.timer(lambda: None)
            timer.set(0)
            assert made.run() == Halted()
            assert made.word(DATA) == 1
            made.close()

        for _ in range(20):
            live()
        before = held()
        for _ in range(100):
            live()
        after = held()
    assert after[:2] == before[:2]
    assert after[2] <= before[2] + 5, "mappings"


def test_vms_run_side_by_side_in_threads(fast):
    made = [Guest(fast, f"mov $2000000, %ecx; 1: addq $1, DATA; dec %ecx; jnz 1b; {HALT}") for _ in range(4)]
    found = []

    def run(guest):
        found.append((guest.run(), guest.word()))

    threads = [threading.Thread(target=run, args=(each,)) for each in made]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert found == [(Halted(), 2_000_000)] * 4
    for each in made:
        each.close()
