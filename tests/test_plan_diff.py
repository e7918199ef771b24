"""What two plans do not have in common: nothing is left out, nothing is invented, and it reads well."""

from pathlib import Path

import attrs
import pytest

from anyvisor.codec import named
from anyvisor.memory import GIB, KIB, MIB, Region
from anyvisor.plan import Blob, DeviceSpec, FileSlice, Step, VcpuPlan
from anyvisor.states import Change, VcpuState
from anyvisor.x86_64.chips import Irqchip, Pit
from anyvisor.x86_64.control import Cr0
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.state import MpState, Regs, SegmentRegister, Sregs, Xsave
from planned import Strange, plan, vcpus

SERIAL = DeviceSpec("serial", "serial0", ports=(Region(0x3F8, 8),), gsi=4, settings={"console": "serial0"})


def told(before, after):
    """The changes a line each, after checking that the other way there are changes, too."""
    assert before.diff(after) and after.diff(before)
    return [str(change) for change in before.diff(after)]


def test_equal_plans_have_no_difference():
    same = plan(Blob("a", 0x1000, b"x")).diff(plan(Blob("a", 0x1000, b"x")))
    assert not same and len(same) == 0 and list(same) == [] and same.to_data() == []
    assert str(same) == "no difference"


# -- steps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (Step("h", "linux"), Step("h", "mine"), "h: provided by linux -> mine"),
        (Step("h", "linux"), Step("h", "linux", ("mine",)), "h: adjusted by nobody -> mine"),
        (Step("h", "linux", ("a", "b")), Step("h", "linux", ("b", "a")), "h: adjusted by a, b -> b, a"),
        (Step("h", "linux"), Step("h", "linux", ("mine",), dropped=True), "h: dropped by mine"),
        (Step("h", "linux", ("x",), dropped=True), Step("h", "mine"), "h: taken, provided by mine"),
        (None, Step("h", "mine", ("b",)), "h: taken, provided by mine, adjusted by b"),
        (Step("h", "linux"), None, "h: dropped"),
    ],
)
def test_a_step_tells_who_provides_adjusts_and_drops_it(before, after, line):
    steps = [(each,) if each else () for each in (before, after)]
    assert told(plan(steps=steps[0]), plan(steps=steps[1])) == [line]


def test_the_hooks_of_a_difference_are_those_of_its_steps():
    before = plan(Blob("a", 0, b"x"), steps=(Step("a", "linux"), Step("b", "linux")))
    after = plan(Blob("a", 0, b"y"), steps=(Step("a", "linux"), Step("b", "mine"), Step("c", "mine")))
    assert before.diff(after).hooks == {"b", "c"}


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (None, Blob("a", 0x1000, b"xyz", provided_by="mine"), ["a: added by mine: 3 bytes at 0x1000-0x1002"]),
        (Blob("a", 0x1000, b"xyz"), None, ["a: removed: 3 bytes at 0x1000-0x1002"]),
        (Blob("a", 0x1000, b"xyz"), Blob("a", 0x2000, b"xyz"), ["a: moved 0x1000 -> 0x2000"]),
        (Blob("a", 0, b"x", 8), Blob("a", 0, b"x", 16), ["a: resized 8 -> 16 bytes"]),
        (Blob("a", 0, b"abcdef"), Blob("a", 0, b"abXdeY"), ["a: 2 bytes changed, the first at offset 0x2"]),
        (Blob("a", 0, b"ab", 8), Blob("a", 0, b"abc", 8), ["a: 1 byte changed, the first at offset 0x2"]),
        (Blob("a", 0, b"x"), Blob("a", 4, b"yy"), ["a: moved 0x0 -> 0x4", "a: resized 1 -> 2 bytes",
                                                   "a: 2 bytes changed, the first at offset 0x0"]),
        (Blob("a", 0, b"x", provided_by="linux"), Blob("a", 0, b"x", provided_by="mine"),
         ["a: provided by linux -> mine"]),
        (Blob("a", 0, b"x"), Blob("b", 0, b"x"), ["a: removed: 1 bytes at 0x0-0x0", "b: added: 1 bytes at 0x0-0x0"]),
        (Blob("k", 0, FileSlice(Path("/one"), 0, 4)), Blob("k", 0, FileSlice(Path("/two"), 8, 4)),
         ["k: content 4 bytes at offset 0x0 of /one -> 4 bytes at offset 0x8 of /two"]),
        (Blob("k", 0, FileSlice(Path("/one"), 0, 1)), Blob("k", 0, b"x"),
         ["k: content 1 bytes at offset 0x0 of /one -> 1 bytes"]),
    ],
)  # fmt: skip
def test_a_piece_of_memory_tells_what_became_of_it(before, after, lines):
    assert told(plan(*filter(None, [before])), plan(*filter(None, [after]))) == lines


def test_files_that_are_gone_do_not_matter(tmp_path):
    gone = Blob("kernel", 0x8000, FileSlice(tmp_path / "gone", 0, 64 * KIB))
    regs = VcpuPlan(0, (Regs(rsi=0x8000), Change(Sregs, cr3=0x8000, cr0=Cr0(pe=True, pg=True))))
    changes = told(plan(gone, Blob("a", 0, b"x"), vcpus=(regs,)), plan(gone, Blob("a", 0, b"y"), vcpus=(regs,)))
    assert changes == ["a: 1 byte changed, the first at offset 0x0"]


def test_pieces_of_one_name_are_told_apart():
    before = plan(Blob("kernel", 0x1000, b"x"), Blob("kernel", 0x2000, b"y"))
    after = plan(Blob("kernel", 0x1000, b"x"), Blob("kernel", 0x3000, b"y"))
    assert told(before, after) == ["kernel #2: moved 0x2000 -> 0x3000"]


def test_ram_and_what_must_stay_free_of_it_is_told_with_its_size():
    before = plan(reserved=(Region(3 * GIB, GIB, "MMIO gap"),))
    after = plan(ram=(Region(0, 128 * MIB, "RAM"), Region(4 * GIB, GIB, "high RAM")))
    assert told(before, after) == [
        "RAM: 0x0-0x3ffffff (64M) -> 0x0-0x7ffffff (128M)",
        "high RAM: none -> 0x100000000-0x13fffffff (1G)",
        "MMIO gap (kept free): 0xc0000000-0xffffffff (1G) -> none",
    ]


# -- states ------------------------------------------------------------------------------------------------------------


def test_states_are_compared_field_by_field():
    before = Change(Sregs, cs=SegmentRegister(limit=0xFFFFFFFF, present=True), cr0=Cr0(pe=True))
    after = Change(Sregs, cs=SegmentRegister(limit=0xFFFFF), cr0=Cr0(pe=True, pg=True), cr3=0x9000)
    assert told(vcpus([before]), vcpus([after])) == [
        "vCPU 0 Sregs.cs.limit 0xffffffff -> 0xfffff",
        "vCPU 0 Sregs.cs.present yes -> no",
        "vCPU 0 Sregs.cr0 0x1 pe -> 0x80000001 pe|pg",
        "vCPU 0 Sregs.cr3 (as it was) -> 0x9000",
    ]


def test_what_is_the_same_for_every_vcpu_is_said_once():
    before = vcpus(*([Regs(), MpState()] for _ in range(5)))
    after = vcpus([Regs(rip=1, rax=7)], [Regs(rip=1), MpState()], *([Regs(rip=1, rbx=2), MpState()] for _ in range(3)))
    assert told(before, after) == [
        "vCPU 0 Regs.rax 0x0 -> 0x7",
        "every vCPU Regs.rip 0x0 -> 0x1",
        "vCPU 0 MpState removed",
        "vCPUs 2-4 Regs.rbx 0x0 -> 0x2",
    ]
    assert told(vcpus([Regs()], [Regs()], [Regs()]), vcpus([Regs(rax=1)], [Regs()], [Regs(rax=1)])) == [
        "vCPUs 0, 2 Regs.rax 0x0 -> 0x1"
    ]


def test_one_vcpu_alone_is_not_called_every_vcpu():
    assert told(vcpus([Regs()]), vcpus([Regs(rax=1)])) == ["vCPU 0 Regs.rax 0x0 -> 0x1"]


def test_vcpus_may_come_go_and_change_their_number():
    two = plan(vcpus=(VcpuPlan(0, ()), VcpuPlan(1, ())))
    assert told(vcpus([]), two) == ["vCPU 1 added"]
    assert told(two, vcpus([])) == ["vCPU 1 removed"]
    assert told(two, plan(vcpus=(VcpuPlan(0, ()), VcpuPlan(1, (), 8)))) == ["vCPU 1 hardware id 1 -> 8"]


def test_the_order_of_states_is_told():
    assert told(vcpus([Regs(), MpState()]), vcpus([MpState(), Regs()])) == [
        "vCPU 0 states in another order Regs, MpState -> MpState, Regs"
    ]


def test_a_state_that_becomes_a_change_is_told():
    assert told(vcpus([Lapic()]), vcpus([Change(Lapic, id=1)]))[0] == "vCPU 0 Lapic given whole -> some fields changed"


def test_long_bytes_are_told_apart():
    lines = told(vcpus([Xsave(bytes(4096))]), vcpus([Xsave(bytes(4095) + b"x")]))
    assert len(lines) == 1 and lines[0].startswith("vCPU 0 Xsave.area 4096 bytes of CRC-32 0x")


def test_states_that_nobody_knows_are_told_by_their_fields():
    before, after = Strange({"a": 1.5}, (None, "x")), Strange({"a": 2.5}, (None, MpState()))
    assert told(vcpus([before]), vcpus([after])) == [
        "vCPU 0 Strange.thing.a 1.5 -> 2.5",
        "vCPU 0 Strange.more (none, x) -> (as it was)",
        "vCPU 0 Strange.more[0] (as it was) -> none",
        "vCPU 0 Strange.more[1].activity (as it was) -> 0x0",
    ]


def test_states_of_the_vm_are_told_with_their_place():
    before, after = plan(vm_states_before=(Irqchip(),)), plan(vm_states_before=(Irqchip(), Pit(flags=1)))
    assert told(before, after) == ["before the vCPUs: Pit added"]
    assert told(after, plan(vm_states_before=(Irqchip(), Pit()))) == ["before the vCPUs: Pit.flags 0x1 -> 0x0"]
    assert told(before, plan(vm_states_after=(Irqchip(),))) == [
        "before the vCPUs: Irqchip removed",
        "after the vCPUs: Irqchip added",
    ]


def test_a_state_with_a_portable_name_is_told_by_its_type():
    @named("test_plan_diff.Named")
    @attrs.frozen
    class Named(VcpuState):
        level: int = 0

    assert told(vcpus([Named()]), vcpus([Named(2)])) == ["vCPU 0 Named.level 0x0 -> 0x2"]


# -- devices and machine -----------------------------------------------------------------------------------------------


def test_devices_are_compared_by_name():
    moved = attrs.evolve(SERIAL, ports=(Region(0x2F8, 8),), gsi=None, settings={"console": "x", "fast": True})
    assert told(plan(), plan(devices=(SERIAL,))) == [
        "serial0: added: serial, ports 0x3f8-0x3ff, interrupt 4, setting console serial0"
    ]
    assert told(plan(devices=(SERIAL,)), plan(devices=(moved,))) == [
        "serial0: ports 0x3f8-0x3ff -> 0x2f8-0x2ff",
        "serial0: interrupt 4 -> none",
        "serial0: setting console serial0 -> x",
        "serial0: setting fast none -> yes",
    ]


def test_the_machine_itself_is_compared():
    assert told(plan(), plan(architecture="aarch64", deterministic=True)) == [
        "architecture: x86_64 -> aarch64",
        "deterministic: no -> yes",
    ]


def test_plans_of_an_architecture_that_is_not_here_are_compared_byte_by_byte():
    plans = [plan(Blob("fdt", 0, each), architecture="vax") for each in (b"a", b"b")]
    assert told(*plans) == ["fdt: 1 byte changed, the first at offset 0x0"]


def test_things_in_another_order_are_a_difference():
    one, two = Step("a", "linux"), Step("b", "linux")
    assert told(plan(steps=(one, two)), plan(steps=(two, one))) == ["the plans: the same things, in another order"]
