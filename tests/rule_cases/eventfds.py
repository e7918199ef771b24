"""What a VM refuses of interrupt lines and eventfds."""

from anyvisor.memory import Region
from rule_cases.case import accepted, refused

GSI = 4
NOT_OPEN = 1 << 20
"""A descriptor beyond all that this process has."""
DOORBELL = Region(0xD0000000, 4, "doorbell")


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
