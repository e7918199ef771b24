"""What a VM refuses of RAM."""

from anyvisor.memory import MIB, PAGE_BYTES, Region
from rule_cases.case import accepted, refused

GSI = 4
NOT_OPEN = 1 << 20
"""A descriptor beyond all that this process has."""
DOORBELL = Region(0xD0000000, 4, "doorbell")


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
