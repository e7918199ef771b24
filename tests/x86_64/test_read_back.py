"""Tables are found where the processor and the kernel would find them, whatever the pieces are called."""

import struct

import attrs
import pytest

from anyvisor import MachineConfig, assemble, generic_facts
from anyvisor.errors import PlanError
from anyvisor.memory import GIB, MIB, PAGE_BYTES, Region
from anyvisor.plan import Blob, BootPlan, VcpuPlan
from anyvisor.states import Change
from anyvisor.testing.kernels import tiny_kernel
from anyvisor.x86_64 import read_back
from anyvisor.x86_64.bootparams import BootParams
from anyvisor.x86_64.control import Cr0
from anyvisor.x86_64.firmware_tables import find_mptable
from anyvisor.x86_64.gdt import BOOT_GDT
from anyvisor.x86_64.handed_over import find_handed_over
from anyvisor.x86_64.paging import walk_memory
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import Regs, Sregs

ROOT = 0x10000
PRESENT, WRITABLE, USER, LARGE, NO_EXECUTE = 1, 2, 4, 0x80, 1 << 63
ACCESSED_DIRTY = 0x60


@pytest.fixture
def plan(tmp_path):
    """A plan whose pieces have no names that say anything."""
    made = assemble(MachineConfig(kernel=tiny_kernel(tmp_path / "vmlinux"), tables="both", vcpus=2), generic_facts())
    return attrs.evolve(made, blobs=tuple(attrs.evolve(each, name=f"{i}") for i, each in enumerate(made.blobs)))


def test_every_table_of_a_boot_plan_is_found_and_read(plan):
    assert read_back.read_gdt(plan, read_back.find_gdt(plan)) == BOOT_GDT
    told = find_handed_over(plan)
    assert isinstance(told.structure, BootParams)
    assert told.command_line.startswith("console=ttyS0")
    assert [each.apic_id for each in find_mptable(plan.read).table.processors] == [0, 1]
    runs, tables = read_back.read_page_tables(plan, read_back.find_page_tables(plan))
    assert [(run.start, run.end, run.leads_to, run.pages) for run in runs] == [(0, 4 * GIB, "itself", 2048)]
    assert tables == [0x9000, 0xA000, 0xB000, 0xC000, 0xD000, 0xE000]


def test_nothing_is_found_where_nothing_leads_to_it(plan):
    nothing = BootPlan("x86_64", plan.ram)
    real_mode = attrs.evolve(nothing, vcpus=(VcpuPlan(0, (Regs(), Change(Sregs, cr0=Cr0(0)))),))
    for each in (nothing, real_mode):
        assert read_back.find_gdt(each) is None
        assert read_back.find_page_tables(each) is None
        assert find_handed_over(each) is None
        assert find_mptable(each.read) is None


def test_a_whole_state_counts_as_a_change_does():
    sregs = next(each for each in reset_states() if isinstance(each, Sregs))
    plan = BootPlan("x86_64", (Region(0, MIB),), vcpus=(VcpuPlan(0, (sregs,)),))
    assert read_back.find_gdt(plan) == Region(sregs.gdt.base, sregs.gdt.limit + 1, "GDT")


def mapping(*tables):
    """A plan with those page tables, each a dict of index to entry, one after the other from ROOT on."""
    pages = b"".join(
        b"".join(struct.pack("<Q", table.get(index, 0)) for index in range(512)) for table in tables
    )  # fmt: skip
    ram = Region(0, 64 * MIB)
    return BootPlan("x86_64", (ram,), blobs=(Blob("tables", ROOT, pages),))


def next_table(number, flags=PRESENT | WRITABLE | USER):
    return ROOT + number * PAGE_BYTES | flags


def test_a_run_ends_where_target_size_or_permission_change():
    plan = mapping(
        {0: next_table(1)},
        {0: next_table(2), 1: 5 * GIB | PRESENT | LARGE | WRITABLE},
        {
            0: 0 | PRESENT | LARGE | WRITABLE,
            1: 2 * MIB | PRESENT | LARGE | WRITABLE | ACCESSED_DIRTY,
            2: 8 * MIB | PRESENT | LARGE | WRITABLE,
            3: 10 * MIB | PRESENT | LARGE,
            4: 12 * MIB | PRESENT | LARGE | NO_EXECUTE,
            6: 12 * MIB | LARGE,
        },
    )
    runs, tables = read_back.read_page_tables(plan, ROOT | 0x18)
    assert tables == [ROOT, ROOT + 0x1000, ROOT + 0x2000]
    assert [(run.start, run.end, run.target, run.page_bytes, run.permissions.words()) for run in runs] == [
        (0, 4 * MIB, 0, 2 * MIB, "writable"),
        (4 * MIB, 6 * MIB, 8 * MIB, 2 * MIB, "writable"),
        (6 * MIB, 8 * MIB, 10 * MIB, 2 * MIB, ""),
        (8 * MIB, 10 * MIB, 12 * MIB, 2 * MIB, "no_execute"),
        (GIB, 2 * GIB, 5 * GIB, GIB, "writable"),
    ]
    for run in runs:
        assert walk_memory(plan.read, ROOT, run.start) == (run.target, run.page_bytes)


@pytest.mark.parametrize(
    ("above", "page", "words"),
    [
        (PRESENT | WRITABLE | USER, PRESENT | WRITABLE | USER, "writable|user"),
        (PRESENT | WRITABLE, PRESENT | WRITABLE | USER, "writable"),
        (PRESENT | USER, PRESENT | WRITABLE | USER, "user"),
        (PRESENT | WRITABLE | NO_EXECUTE, PRESENT | WRITABLE, "writable|no_execute"),
    ],
)
def test_a_page_allows_what_every_entry_on_the_way_to_it_allows(above, page, words):
    plan = mapping({0: next_table(1, above)}, {0: page | LARGE})
    (run,) = read_back.read_page_tables(plan, ROOT)[0]
    assert run.permissions.words() == words


def test_tables_that_lead_back_to_themselves_are_refused():
    with pytest.raises(PlanError, match="page table at 0x10000: more than 16 entries lead to it"):
        read_back.read_page_tables(mapping(dict.fromkeys(range(512), next_table(0))), ROOT)


def test_one_table_may_map_memory_at_several_addresses():
    plan = mapping({0: next_table(1), 511: next_table(1)}, {0: PRESENT | LARGE | WRITABLE})
    runs, tables = read_back.read_page_tables(plan, ROOT)
    assert [(run.start, run.target) for run in runs] == [(0, 0), (511 * 512 * GIB, 0)]
    assert tables == [ROOT, ROOT + 0x1000]
