"""What a VM refuses of order and numbers, after its end, and of a second interrupt controller."""

import attrs

from anyvisor.memory import Region
from anyvisor.x86_64.chips import Clock, Ioapic, Irqchip, Pic, Pit
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.state import Activity, MpState
from rule_cases.case import accepted, before_618, refused

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
    bench.vm().create_vcpu(0, bench.facts.hardware_id_limit)


@accepted
def the_last_vcpu_number(bench):
    bench.vm().create_vcpu(0, bench.facts.hardware_id_limit - 1)


@refused("fields-have-widths")
def a_vcpu_number_of_33_bits(bench):
    bench.vm().create_vcpu(0, 1 << 32)


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
