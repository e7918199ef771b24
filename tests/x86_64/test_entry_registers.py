"""The registers at a first instruction by protocol: as each wants them, and as a processor takes them."""

import attrs
import pytest

from anyvisor.config import MachineConfig, Raw
from anyvisor.errors import PlanError
from anyvisor.memory import MIB
from anyvisor.plan import Blob, Kernel
from anyvisor.x86_64.gdt import BOOT_GDT, FLAT32_GDT
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.modes import enter
from anyvisor.x86_64.raw import code_segment, offset, raw_registers
from anyvisor.x86_64.registers import linux32_registers, pvh_registers
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import Fpu, Regs, Sregs

LAYOUT = Layout.for_memory(64 * MIB)
RESET = next(each for each in reset_states() if isinstance(each, Sregs))


def kernel(protocol, mode="protected", entry=0x1000000):
    return Kernel(protocol, entry, (Blob("kernel", entry, b"x"),), 0, 0, mode=mode)


def states(made):
    regs, sregs, fpu = made
    assert isinstance(regs, Regs) and fpu == Fpu()
    return regs, sregs.apply(RESET)


@pytest.mark.parametrize(
    ("make", "protocol", "expected"),
    [
        (linux32_registers, "linux32", {"rip": 0x1000000, "rsi": 0x7000, "rsp": 0x8FF0}),
        (pvh_registers, "pvh", {"rip": 0x1000000, "rbx": 0x6000}),
    ],
)
def test_a_32_bit_protocol_starts_in_flat_protected_mode(make, protocol, expected):
    regs, sregs = states(make(kernel(protocol), LAYOUT, FLAT32_GDT, boot_processor=True))
    found = {name: value for name, value in attrs.asdict(regs).items() if value and name != "rflags"}
    assert (found, int(regs.rflags)) == (expected, 2)
    assert (int(sregs.cr0), int(sregs.cr4), int(sregs.efer), sregs.cr3) == (0x11, 0, 0, 0)
    segments = [getattr(sregs, name) for name in ("cs", "ds", "es", "fs", "gs", "ss")]
    assert [each.selector for each in segments] == [0x10] + [0x18] * 5
    assert {(each.base, each.limit, each.db, each.l, each.g, each.present) for each in segments} == {
        (0, 0xFFFFFFFF, True, False, True, True)
    }
    assert [each.type for each in segments] == [0xB] + [3] * 5
    assert (sregs.tr.selector, sregs.tr.base, sregs.tr.limit, sregs.tr.type, sregs.tr.s) == (0x20, 0, 0x67, 0xB, False)
    assert (sregs.gdt.base, sregs.gdt.limit) == (LAYOUT.gdt, 39)


@pytest.mark.parametrize("make", [linux32_registers, pvh_registers])
def test_other_processors_wait(make):
    assert make(kernel("pvh"), LAYOUT, FLAT32_GDT, boot_processor=False) == ()


@pytest.mark.parametrize("mode", ["real", "protected", "long"])
def test_a_flat_binary_starts_in_its_mode_as_other_flat_machines_do(mode):
    gdt = {"real": None, "protected": FLAT32_GDT, "long": BOOT_GDT}[mode]
    made = raw_registers(kernel("raw", mode, 0x7C00), LAYOUT, gdt, 0x9000, boot_processor=True)
    regs, sregs = states(made)
    assert (regs.rip, regs.rsp, int(regs.rflags)) == (0x7C00, 0x8FF0, 2)
    table = {} if mode == "real" else {"gdt": sregs.gdt}
    page_table = 0x9000 if mode == "long" else 0
    expected = attrs.evolve(enter(mode, RESET, page_table=page_table), idt=sregs.idt, **table)
    assert sregs == expected
    assert raw_registers(kernel("raw", mode, 0x7C00), LAYOUT, gdt, 0x9000, boot_processor=False) == ()


def test_protected_mode_needs_a_gdt():
    with pytest.raises(PlanError, match="needs a GDT; provide anyvisor_gdt"):
        raw_registers(kernel("raw"), LAYOUT, None, 0, boot_processor=True)


@pytest.mark.parametrize(
    ("entry", "selector", "ip"),
    [(0, 0, 0), (0x7C00, 0, 0x7C00), (0xFFFF, 0, 0xFFFF), (0x10000, 0x1000, 0), (0x1234F, 0x1234, 0xF),
     (0xFFFF0, 0xFFFF, 0), (0xFFFFF, 0xFFFF, 0xF)],
)  # fmt: skip
def test_cs_and_ip_lead_to_the_entry(entry, selector, ip):
    cs = code_segment(entry)
    assert (cs.selector, cs.base, offset(entry)) == (selector, selector << 4, ip)
    assert cs.base + offset(entry) == entry


def test_a_configuration_s_entry_is_its_address_unless_it_says_otherwise():
    assert MachineConfig(protocol="raw", raw=Raw(address=0x7C00)).raw.entry == 0x7C00
