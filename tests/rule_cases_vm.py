"""What a VM refuses: order, numbers, memory slots, chips, eventfds."""

import attrs

from anyvisor.memory import MIB, PAGE_BYTES, Region
from anyvisor.x86_64.chips import Clock, Ioapic, Irqchip, Pic, Pit
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.state import Activity, MpState
from rule_cases import accepted, before_618, refused

GSI = 4
NOT_OPEN = 1 << 20
"""A descriptor beyond all that this process has."""
DOORBELL = Region(0xD0000000, 4, "doorbell")


# -- order and numbers -------------------------------------------------------------------------------------------------


@refused("irqchip-before-vcpus")
def chips_after_a_vcpu(bench):
    vm = bench.vm()
    vm.create_vcpu(0)
    vm.put(Irqchip())


@accepted
def chips_before_a_vcpu_and_their_registers_after_it(bench):
    vm = bench.vm(irqchip=True)
    vm.create_vcpu(0)
    chips = vm.get(Irqchip)
    vm.put(attrs.evolve(chips, ioapic=attrs.evolve(chips.ioapic, id=3)))
    return vm.get(Irqchip).ioapic.id


@accepted
def chips_twice_are_their_registers_put(bench):
    vm = bench.vm(irqchip=True)
    vm.put(Irqchip())


@refused("chips-before-their-registers")
def chips_that_were_not_put_are_read(bench):
    bench.vm().get(Irqchip)


@refused("pit-needs-irqchip", differs=before_618)
def timer_without_chips(bench):
    bench.vm().put(Pit())


@accepted
def timer_with_chips_and_again(bench):
    vm = bench.vm(irqchip=True)
    vm.put(Pit())
    vm.put(Pit())
    return len(vm.get(Pit).channels)


@accepted
def timer_after_a_vcpu(bench):
    vm = bench.vm(irqchip=True)
    vm.create_vcpu(0)
    vm.put(Pit())


@refused("pit-before-its-registers")
def timer_that_was_not_put_is_read(bench):
    bench.vm(irqchip=True).get(Pit)


@refused("fields-have-widths")
def an_io_apic_of_23_pins(bench):
    bench.vm(irqchip=True).put(Irqchip(ioapic=Ioapic(redirection=(1 << 16,) * 23)))


@refused("fields-have-widths")
def an_interrupt_mask_of_nine_bits(bench):
    bench.vm(irqchip=True).put(Irqchip(pic_master=Pic(imr=0x100)))


@accepted
def an_interrupt_mask_of_eight_bits(bench):
    vm = bench.vm(irqchip=True)
    vm.put(Irqchip(pic_master=Pic(imr=0xFF)))
    return vm.get(Irqchip).pic_master.imr


@accepted
def a_clock_without_anything(bench):
    vm = bench.vm()
    vm.put(Clock(10**15))
    return vm.get(Clock).nanoseconds // 10**14


@refused("vcpu-ids-are-unique")
def one_number_for_two_vcpus(bench):
    vm = bench.vm()
    vm.create_vcpu(0)
    vm.create_vcpu(0)


@refused("vcpu-ids-are-unique")
def the_number_of_a_vcpu_that_was_closed(bench):
    vm = bench.vm()
    vm.create_vcpu(0).close()
    vm.create_vcpu(0)


@accepted
def two_numbers_for_two_vcpus_in_any_order(bench):
    vm = bench.vm()
    return [vm.create_vcpu(index, hardware_id).index for index, hardware_id in ((0, 1), (1, 0), (2, 7))]


@refused("vcpu-id-limit")
def a_vcpu_number_beyond_the_last(bench):
    bench.vm().create_vcpu(0, 4 * bench.facts.max_vcpus)


@accepted
def the_last_vcpu_number(bench):
    bench.vm().create_vcpu(0, 4 * bench.facts.max_vcpus - 1)


@refused("fields-have-widths")
def a_vcpu_number_of_33_bits(bench):
    bench.vm().create_vcpu(0, 1 << 32)


# -- memory ------------------------------------------------------------------------------------------------------------


@refused("memory-does-not-overlap")
def the_same_memory_twice(bench):
    vm = bench.vm()
    vm.map_memory(bench.ram(MIB))
    vm.map_memory(bench.ram(MIB))


@refused("memory-does-not-overlap")
def memory_that_shares_a_page(bench):
    vm = bench.vm()
    vm.map_memory(bench.ram(MIB, 2 * PAGE_BYTES))
    vm.map_memory(bench.ram(MIB + PAGE_BYTES, 2 * PAGE_BYTES))


@accepted
def memory_that_touches(bench):
    vm = bench.vm()
    vm.map_memory(bench.ram(MIB))
    vm.map_memory(bench.ram(MIB + PAGE_BYTES))
    vm.map_memory(bench.ram(MIB - PAGE_BYTES))


@refused("memory-in-pages")
def memory_that_begins_inside_a_page(bench):
    bench.vm().map_memory(bench.ram(MIB + 0x800))


@refused("memory-in-pages")
def memory_of_half_a_page(bench):
    bench.vm().map_memory(bench.ram(MIB, 0x800))


@refused("memory-has-addresses")
def memory_beyond_52_bits(bench):
    bench.vm().map_memory(bench.ram(1 << 52))


@refused("memory-has-addresses")
def memory_at_the_end_of_64_bits(bench):
    bench.vm().map_memory(bench.ram((1 << 64) - PAGE_BYTES))


@refused("memory-slot-limit")
def one_region_of_memory_too_many(bench):
    vm = bench.vm()
    vm._memory += [bench.ram(0)] * bench.facts.max_memory_slots  # as if they were mapped; it would take a while
    vm.map_memory(bench.ram(PAGE_BYTES))


@accepted
def the_last_region_of_memory(bench):
    vm = bench.vm()
    vm._memory += [bench.ram(0)] * (bench.facts.max_memory_slots - 1)
    vm.map_memory(bench.ram(PAGE_BYTES))


@accepted
def memory_after_a_vcpu(bench):
    vm = bench.vm()
    vm.create_vcpu(0)
    vm.map_memory(bench.ram(0))


@accepted
def memory_that_cannot_be_written(bench):
    bench.vm().map_memory(bench.ram(0), readonly=True)


# -- interrupt lines and eventfds --------------------------------------------------------------------------------------


@refused("lines-need-irqchip")
def a_line_without_chips(bench):
    bench.vm().set_irq(GSI, True)


@accepted
def a_line_with_chips(bench):
    vm = bench.vm(irqchip=True)
    for level in (True, True, False, False):
        vm.set_irq(GSI, level)


@accepted
def a_line_that_leads_nowhere(bench):
    bench.vm(irqchip=True).set_irq(1000, True)


@refused("irqfd-needs-irqchip")
def an_irqfd_without_chips(bench):
    bench.vm().add_irqfd(bench.eventfd(), GSI)


@accepted
def an_irqfd_with_chips_there_and_back(bench):
    vm, fd = bench.vm(irqchip=True), bench.eventfd()
    vm.add_irqfd(fd, GSI)
    vm.remove_irqfd(fd, GSI)
    vm.add_irqfd(fd, GSI)


@refused("irqfd-once")
def one_eventfd_for_two_lines(bench):
    vm, fd = bench.vm(irqchip=True), bench.eventfd()
    vm.add_irqfd(fd, GSI)
    vm.add_irqfd(fd, GSI + 1)


@accepted
def two_eventfds_for_one_line(bench):
    vm = bench.vm(irqchip=True)
    vm.add_irqfd(bench.eventfd(), GSI)
    vm.add_irqfd(bench.eventfd(), GSI)


@accepted
def an_irqfd_that_is_not_there_is_removed(bench):
    bench.vm(irqchip=True).remove_irqfd(bench.eventfd(), GSI)


@refused("fd-is-an-eventfd")
def an_irqfd_that_is_a_pipe(bench):
    bench.vm(irqchip=True).add_irqfd(bench.pipe(), GSI)


@refused("fields-have-widths")
def an_irqfd_with_a_negative_number(bench):
    bench.vm(irqchip=True).add_irqfd(-1, GSI)


@refused("fd-is-open")
def an_irqfd_that_is_closed(bench):
    bench.vm(irqchip=True).add_irqfd(NOT_OPEN, GSI)


@accepted
def an_irqfd_for_a_line_that_leads_nowhere(bench):
    bench.vm(irqchip=True).add_irqfd(bench.eventfd(), 4096)


@accepted
def an_irqfd_with_its_end_of_interrupt(bench):
    bench.vm(irqchip=True).add_irqfd(bench.eventfd(), GSI, bench.eventfd())


@refused("ioeventfd-once")
def an_ioeventfd_twice(bench):
    vm, fd = bench.vm(), bench.eventfd()
    vm.add_ioeventfd(fd, DOORBELL)
    vm.add_ioeventfd(fd, DOORBELL)


@refused("ioeventfd-once")
def two_eventfds_at_one_address(bench):
    vm = bench.vm()
    vm.add_ioeventfd(bench.eventfd(), DOORBELL)
    vm.add_ioeventfd(bench.eventfd(), DOORBELL)


@refused("ioeventfd-once")
def one_value_beside_all_values(bench):
    vm = bench.vm()
    vm.add_ioeventfd(bench.eventfd(), DOORBELL)
    vm.add_ioeventfd(bench.eventfd(), DOORBELL, match=1)


@refused("ioeventfd-once")
def one_value_twice(bench):
    vm = bench.vm()
    vm.add_ioeventfd(bench.eventfd(), DOORBELL, match=1)
    vm.add_ioeventfd(bench.eventfd(), DOORBELL, match=1)


@accepted
def two_values_at_one_address(bench):
    vm, fd = bench.vm(), bench.eventfd()
    vm.add_ioeventfd(fd, DOORBELL, match=1)
    vm.add_ioeventfd(fd, DOORBELL, match=2)


@accepted
def one_address_in_two_sizes_and_two_spaces(bench):
    vm, fd = bench.vm(), bench.eventfd()
    vm.add_ioeventfd(fd, Region(0x100, 4))
    vm.add_ioeventfd(fd, Region(0x100, 2))
    vm.add_ioeventfd(fd, Region(0x100, 4), port=True)


@refused("ioeventfd-sizes")
def an_ioeventfd_of_three_bytes(bench):
    bench.vm().add_ioeventfd(bench.eventfd(), Region(0xD0000000, 3))


@accepted
def an_ioeventfd_of_any_size(bench):
    bench.vm().add_ioeventfd(bench.eventfd(), Region(0xD0000000, 0))


@refused("ioeventfd-sizes")
def one_value_of_any_size(bench):
    bench.vm().add_ioeventfd(bench.eventfd(), Region(0xD0000000, 0), match=1)


@refused("fd-is-an-eventfd")
def an_ioeventfd_that_is_a_pipe(bench):
    bench.vm().add_ioeventfd(bench.pipe(), DOORBELL)


@refused("fd-is-open")
def an_ioeventfd_that_is_closed(bench):
    bench.vm().add_ioeventfd(NOT_OPEN, DOORBELL)


@refused("ioeventfd-is-there")
def an_ioeventfd_that_is_not_there_is_removed(bench):
    bench.vm().remove_ioeventfd(bench.eventfd(), DOORBELL)


@refused("ioeventfd-is-there")
def an_ioeventfd_is_removed_by_another_fd(bench):
    vm = bench.vm()
    vm.add_ioeventfd(bench.eventfd(), DOORBELL)
    vm.remove_ioeventfd(bench.eventfd(), DOORBELL)


@refused("ioeventfd-is-there")
def an_ioeventfd_is_removed_by_another_value(bench):
    vm, fd = bench.vm(), bench.eventfd()
    vm.add_ioeventfd(fd, DOORBELL, match=1)
    vm.remove_ioeventfd(fd, DOORBELL, match=2)


@accepted
def an_ioeventfd_there_and_back(bench):
    vm, fd = bench.vm(), bench.eventfd()
    vm.add_ioeventfd(fd, DOORBELL, match=1)
    vm.remove_ioeventfd(fd, DOORBELL, match=1)
    vm.add_ioeventfd(fd, DOORBELL, match=1)


@accepted
def writes_are_gathered_twice(bench):
    vm = bench.vm()
    vm.coalesce(DOORBELL)
    vm.coalesce(DOORBELL)
    vm.coalesce(Region(0x70, 2), port=True)


# -- what is closed ----------------------------------------------------------------------------------------------------


@refused("closed")
def a_closed_vm_is_given_a_vcpu(bench):
    vm = bench.vm()
    vm.close()
    vm.close()
    vm.create_vcpu(0)


@refused("closed")
def a_closed_vm_is_given_memory(bench):
    vm = bench.vm()
    vm.close()
    vm.map_memory(bench.ram(0))


@refused("closed")
def a_closed_vm_is_given_a_clock(bench):
    vm = bench.vm()
    vm.close()
    vm.put(Clock())


@refused("closed")
def a_closed_vm_is_given_a_line(bench):
    vm = bench.vm(irqchip=True)
    vm.close()
    vm.set_irq(GSI, True)


@refused("closed")
def a_closed_vcpu_is_read(bench):
    vcpu = bench.vcpu()
    vcpu.close()
    vcpu.close()
    vcpu.get(MpState)


@refused("closed")
def a_closed_vcpu_is_written(bench):
    vcpu = bench.vcpu()
    vcpu.close()
    vcpu.put(MpState())


@refused("closed")
def a_closed_vcpu_is_run(bench):
    vcpu = bench.vcpu()
    vcpu.close()
    vcpu.run(bench.bus)


@refused("closed")
def a_vcpu_of_a_closed_vm_is_read(bench):
    vm = bench.vm()
    vcpu = vm.create_vcpu(0)
    vm.close()
    vcpu.get(MpState)


@accepted
def a_closed_vcpu_is_kicked_and_notified(bench):
    vcpu = bench.vcpu()
    vcpu.close()
    vcpu.kick()
    vcpu.notify_interrupt()


# -- where the interrupt controllers are -------------------------------------------------------------------------------


@refused("lapic-needs-irqchip")
def a_local_apic_is_read_without_chips(bench):
    bench.vcpu(irqchip=False).get(Lapic)


@refused("lapic-needs-irqchip")
def a_local_apic_is_written_without_chips(bench):
    bench.vcpu(irqchip=False).put(Lapic())


@accepted
def a_local_apic_with_chips(bench):
    vcpu = bench.vcpu()
    vcpu.put(attrs.evolve(vcpu.get(Lapic), spurious_vector=0x1FF))
    return vcpu.get(Lapic)


@refused("one-interrupt-controller")
def a_source_beside_the_chips(bench):
    bench.vcpu().take_interrupts_from(object())


@accepted
def a_source_in_place_of_the_chips(bench):
    vcpu = bench.vcpu(irqchip=False)
    vcpu.take_interrupts_from(object())
    vcpu.put(MpState(Activity.HALTED))
    return vcpu.get(MpState)


@refused("deterministic-is-a-capability")
def a_deterministic_vm(bench):
    bench.hypervisor.create_vm(deterministic=True)
