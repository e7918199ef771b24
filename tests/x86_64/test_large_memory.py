"""Machines with RAM far above 4 GiB, planned; tests/backends/kvm/test_kvm_large.py runs them."""

import attrs
import pytest

from anyvisor.assemble import assemble
from anyvisor.config import MachineConfig, NumaNode
from anyvisor.errors import ConfigError
from anyvisor.memory import GIB, KIB, MIB, TIB
from anyvisor.x86_64.acpi.srat import cut
from anyvisor.x86_64.bootparams import BootParams
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.e820 import E820Type
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.layout import ZERO_PAGE
from anyvisor.x86_64.paging import walk_memory
from anyvisor.x86_64.state import Sregs
from elves import tiny_elf

SIZES = pytest.mark.parametrize("size_bytes", [3 * GIB, 3 * GIB + 4 * KIB, 4 * GIB, 64 * GIB, TIB])
BIG_PAGES = attrs.evolve(FACTS, supported=(FACTS.supported_state(Cpuid).with_(Feature.PDPE1GB),))


@pytest.fixture
def plan(tmp_path):
    kernel = tiny_elf(tmp_path / "vmlinux")
    return lambda size_bytes, facts=FACTS: assemble(MachineConfig(kernel=kernel, memory=size_bytes), facts)


@SIZES
def test_the_memory_map_has_all_ram_on_both_sides_of_the_gap(plan, size_bytes):
    made = plan(size_bytes)
    found = BootParams.from_bytes(made.read(ZERO_PAGE, 4096)).e820
    ram = [(each.start, each.end) for each in found if each.type is E820Type.RAM and each.start >= MIB]
    above = [(4 * GIB, size_bytes + GIB)] if size_bytes > 3 * GIB else []
    assert ram == [(MIB, 3 * GIB), *above]
    assert sum(region.size_bytes for region in made.ram) == size_bytes


@SIZES
@pytest.mark.parametrize(("facts", "page_bytes"), [(FACTS, 2 * MIB), (BIG_PAGES, GIB)], ids=["2M", "1G"])
def test_the_page_tables_reach_the_last_byte_and_lie_in_low_ram(plan, size_bytes, facts, page_bytes):
    made = plan(size_bytes, facts)
    last = made.ram[-1].end - 1
    root = made.vcpus[0].state(Sregs).fields["cr3"]
    assert walk_memory(made.read, root, last) == (last, page_bytes)
    assert walk_memory(made.read, root, 0xFEC00000).guest_address == 0xFEC00000
    tables = made.blob("page tables")
    assert made.ram[0].contains(tables.guest_address, tables.size_bytes)
    entries = -(-(last + 1) // page_bytes)
    assert tables.size_bytes <= 8 * entries + 4 * 4096 + 8 * entries // 512


def test_a_tebibyte_needs_1029_pages_of_tables_or_four(plan):
    assert plan(TIB).blob("page tables").size_bytes == (1 + 3 + 1025) * 4096
    assert plan(TIB, BIG_PAGES).blob("page tables").size_bytes == (1 + 3) * 4096


def test_ram_that_the_gap_moves_beyond_the_address_bits_is_refused(tmp_path):
    kernel = tiny_elf(tmp_path / "vmlinux")
    cpuid = FACTS.supported_state(Cpuid)
    narrow = cpuid.replace(cpuid[0x8000_0008].replace(eax=48 << 8 | 40))
    facts = attrs.evolve(FACTS, physical_address_bits=40, supported=(narrow,))
    assert assemble(MachineConfig(kernel=kernel, memory=TIB - GIB), facts)
    with pytest.raises(ConfigError, match="beyond the 40 address bits"):
        assemble(MachineConfig(kernel=kernel, memory=TIB), facts)


def test_numa_nodes_are_cut_across_the_gap(plan):
    nodes = [NumaNode(memory=each) for each in ("2G", "2G", "1T")]
    pieces = cut(plan(TIB + 4 * GIB).ram, [node.memory for node in nodes])
    assert [[(each.start, each.end) for each in node] for node in pieces] == [
        [(0, 2 * GIB)],
        [(2 * GIB, 3 * GIB), (4 * GIB, 5 * GIB)],
        [(5 * GIB, TIB + 5 * GIB)],
    ]
