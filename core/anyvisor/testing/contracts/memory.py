"""`Vm.map_memory`: guest and host see the same bytes, and what is no region of RAM is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, closing

import pytest

from anyvisor.errors import AnyvisorError
from anyvisor.exits import Halted
from anyvisor.facts import Capability
from anyvisor.hypervisor import Hypervisor
from anyvisor.memory import PAGE_BYTES, GuestMemory, RamRegion, Region
from anyvisor.testing.bench import DATA, MORE_RAM, RAM, Bench
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.listener import Listener
from anyvisor.testing.requirements import lacking, needs

FAR = 0x100000
MOST_SLOTS_TRIED = 256


def refusal(call: Callable[[], object], what: str) -> AnyvisorError:
    """The typed error of a call that must be refused; the test fails when it is not."""
    __tracebackhide__ = True
    try:
        call()
    except AnyvisorError as error:
        return error
    pytest.fail(f"{what}: accepted, and must be refused with a HypervisorError or another AnyvisorError", pytrace=False)


def map_ram(made: Bench) -> None:
    """Give a bench without memory its RAM."""
    made.memory = GuestMemory([RAM])
    made.vm.map_memory(made.memory.regions[0])


def check_stores_reach(made: Bench) -> None:
    """A guest's store lands in the RAM of the bench."""
    made.ports.answers.append(0x5A)
    made.enter(made.guests.STORE)
    assert made.run() == Halted()
    assert made.memory.read(DATA, 1) == b"\x5a", "the guest's store must be seen in the region that was mapped first"


def check_more_ram(made: Bench, ram: RamRegion) -> None:
    """A guest's loads and stores at the edges of a region at MORE_RAM are those of the host."""
    ram.view[1], ram.view[-2] = 0x33, 0x44
    made.ports.answers.extend([0x11, 0x22])
    made.enter(made.guests.MORE_RAM_EDGES)
    assert made.run() == Halted()
    assert made.bus.unclaimed == {}, f"{MORE_RAM} is RAM, and its accesses came as MMIO"
    assert (ram.view[0], ram.view[-1]) == (0x11, 0x22), "what the guest stored in the first byte and the last"
    assert made.others.values == [0x33, 0x44], "what the host wrote next to them"


class MemoryContract(Contract):
    """RAM as host and guest see it, and what `map_memory` refuses."""

    def test_the_host_sees_what_the_guest_stores(self, bench: MakeBench) -> None:
        """A store of the guest is in the region's host mapping when `run` returns."""
        check_stores_reach(bench())

    def test_the_guest_sees_what_the_host_has_written(self, bench: MakeBench) -> None:
        """Bytes that the host writes before a run, and between two, are what the guest loads."""
        made = bench()
        for value in (0x11, 0x22):
            made.memory.write(DATA, bytes([value]))
            made.enter(made.guests.LOAD)
            assert made.run() == Halted()
        assert made.ports.values == [0x11, 0x22]

    def test_the_guest_sees_what_a_device_writes_to_memory(self, bench: MakeBench) -> None:
        """A device may write to RAM while it answers an access; the guest's next load sees it."""
        made = bench()
        made.ports.then = lambda: made.memory.write(DATA, b"\x77")
        made.enter(made.guests.LOAD_AFTER_IN)
        assert made.run() == Halted()
        assert made.others.values == [0x77]

    def test_the_guest_runs_the_code_that_the_host_has_written_last(self, bench: MakeBench) -> None:
        """Code that was replaced between two runs is not run again: a backend that translates code must notice."""
        made = bench()
        for guest in (made.guests.OUT_42, made.guests.HALT, made.guests.ECHO):
            made.enter(guest)
            assert made.run() == Halted()
        assert (made.ports.values, made.ports.reads) == ([42], [(0, 1)])

    def test_the_guest_runs_the_code_that_it_has_stored_itself(self, bench: MakeBench) -> None:
        """An instruction that the guest changes is run as it then is, also when it was run before."""
        made = bench()
        made.ports.answers.extend([0x11, 0x22, 0x33])
        made.enter(made.guests_of("running").CHANGE_OWN_CODE)
        for _ in range(3):
            assert made.run() == Halted()
        assert made.others.values == [0x11, 0x22, 0x33], "the operand that the guest has stored in its next instruction"

    @needs(memory_slots=2)
    def test_two_regions_are_seen_each_in_its_place(self, bench: MakeBench) -> None:
        """A second region is RAM from its first byte to its last, and the first one still is."""
        made = bench(ram=(RAM, MORE_RAM))
        check_more_ram(made, made.memory.regions[1])
        check_stores_reach(made)

    @needs(memory_slots=2)
    @pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create, which Linux has")
    def test_memory_that_other_processes_may_share_serves_as_well(self, bench: MakeBench) -> None:
        """A region made with `shared=True` is mapped like any other."""
        with closing(RamRegion(MORE_RAM, shared=True)) as ram, closing(bench(vcpus=0)) as made:
            made.vm.map_memory(ram)
            made.vcpus.append(made.vm.create_vcpu(0))
            check_more_ram(made, ram)

    @pytest.mark.parametrize(
        "region",
        [
            pytest.param(RAM, id="the-same"),
            pytest.param(Region(RAM.end - PAGE_BYTES, 2 * PAGE_BYTES, "over the end"), id="over-the-end"),
            pytest.param(Region(DATA, PAGE_BYTES, "inside"), id="inside"),
            pytest.param(Region(0, 2 * RAM.size_bytes, "around"), id="around"),
        ],
    )
    def test_an_overlapping_region_is_refused(self, bench: MakeBench, region: Region) -> None:
        """Two regions must not share an address: the second is refused at once, and the first stays what it is."""
        with closing(RamRegion(region)) as ram, closing(bench(vcpus=0)) as made:
            refusal(lambda: made.vm.map_memory(ram), f"map_memory of {region}, which overlaps {RAM}")
            made.vcpus.append(made.vm.create_vcpu(0))
            check_stores_reach(made)

    @pytest.mark.parametrize(
        "region",
        [
            pytest.param(Region(FAR + PAGE_BYTES // 2, PAGE_BYTES, "unaligned"), id="start"),
            pytest.param(Region(0, PAGE_BYTES + PAGE_BYTES // 2, "unaligned"), id="size"),
        ],
    )
    def test_a_region_of_no_whole_pages_is_refused(self, bench: MakeBench, region: Region) -> None:
        """A region begins and ends at a page's end, or is refused at once, also the first; another can be mapped."""
        with closing(RamRegion(region)) as ram, closing(bench(ram=(), vcpus=0)) as made:
            refusal(lambda: made.vm.map_memory(ram), f"map_memory of {region}, which is no whole number of pages")
            map_ram(made)
            made.vcpus.append(made.vm.create_vcpu(0))
            check_stores_reach(made)

    @needs(memory_slots=2)
    def test_memory_that_comes_after_the_vcpu_is_seen_or_refused(self, bench: MakeBench) -> None:
        """A backend may want all memory before the vCPU; then it says so with a typed error, and goes on as before."""
        with closing(RamRegion(MORE_RAM)) as ram, closing(bench()) as made:
            try:
                made.vm.map_memory(ram)
            except AnyvisorError:
                check_stores_reach(made)
            else:
                check_more_ram(made, ram)

    def test_the_first_memory_may_come_after_the_vcpu_or_is_refused(self, bench: MakeBench) -> None:
        """So it is with the first region: where it is not refused, the vCPU that was there before sees it."""
        made = bench(ram=())
        try:
            map_ram(made)
        except AnyvisorError:
            return
        check_stores_reach(made)

    def test_there_are_as_many_regions_as_the_facts_say(self, bench: MakeBench, hypervisor: Hypervisor) -> None:
        """`facts.max_memory_slots` regions can be mapped, and one more is refused."""
        most = hypervisor.facts.max_memory_slots
        if most > MOST_SLOTS_TRIED:
            lacking(hypervisor.facts, f"max_memory_slots of {MOST_SLOTS_TRIED} at most, to use them up")
        with ExitStack() as stack, closing(bench(vcpus=0)) as made:
            pages = (Region(FAR + 2 * PAGE_BYTES * index, PAGE_BYTES) for index in range(most))
            *rams, one_more = [stack.enter_context(closing(RamRegion(page))) for page in pages]
            for ram in rams:
                made.vm.map_memory(ram)
            refusal(lambda: made.vm.map_memory(one_more), f"map_memory of a region more than max_memory_slots ({most})")
            made.vcpus.append(made.vm.create_vcpu(0))
            check_stores_reach(made)

    @needs(Capability.READONLY_MEMORY, memory_slots=2)
    def test_the_guest_reads_readonly_memory_and_its_writes_are_mmio(self, bench: MakeBench) -> None:
        """Of a region that is `readonly` loads are RAM's, stores go to the bus, and its bytes stay as they are."""
        with closing(RamRegion(MORE_RAM)) as rom, closing(bench(vcpus=0)) as made:
            behind = Listener()
            made.bus.add_mmio(MORE_RAM, behind)
            rom.view[1], rom.view[-2] = 0x33, 0x44
            made.vm.map_memory(rom, readonly=True)
            made.vcpus.append(made.vm.create_vcpu(0))
            made.ports.answers.extend([0x11, 0x22])
            made.enter(made.guests.MORE_RAM_EDGES)
            assert made.run() == Halted()
            assert made.others.values == [0x33, 0x44], "what the guest reads of it"
            assert behind.writes == [(0, 1, 0x11), (MORE_RAM.size_bytes - 1, 1, 0x22)], "stores to it, on the bus"
            assert (rom.view[0], rom.view[-1], behind.reads) == (0, 0, []), "its bytes must not change"
