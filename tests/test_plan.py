import json
from pathlib import Path

import attrs
import pytest

from anyvisor.errors import PlanError
from anyvisor.memory import GIB, MIB, Region
from anyvisor.plan import Blob, BootPlan, DeviceSpec, FileSlice, Step, VcpuPlan
from anyvisor.states import Change
from anyvisor.x86_64.chips import Irqchip, Pit
from anyvisor.x86_64.lapic import boot_lapic
from anyvisor.x86_64.state import Regs, Sregs

RAM = Region(0, 64 * MIB, "RAM")
GAP = Region(3 * GIB, GIB, "MMIO gap")


def plan(*blobs, **more):
    return BootPlan(architecture="x86_64", ram=(RAM,), reserved=(GAP,), blobs=blobs, **more)


def test_overlapping_blobs_are_refused_naming_both():
    with pytest.raises(
        PlanError,
        match=r"mptable 0x9f000-0x9fd2f overlaps ebda 0x9fc00-0x9ffff; move one in anyvisor_memory_layout",
    ):
        plan(Blob("mptable", 0x9F000, bytes(0xD30)), Blob("ebda", 0x9FC00, bytes(0x400)))


def test_a_blob_inside_another_is_found_behind_a_third():
    with pytest.raises(PlanError, match=r"kernel .* overlaps late"):
        plan(
            Blob("kernel", 0x100000, bytes(16), size_bytes=8 * MIB),
            Blob("early", 64, b"x"),
            Blob("late", 0x200000, b"x"),
        )


def test_neighbours_may_touch_and_empty_blobs_lie_anywhere():
    plan(Blob("a", 0x1000, bytes(0x1000)), Blob("b", 0x2000, bytes(0x1000)), Blob("nothing", 0x1800, b""))


@pytest.mark.parametrize("address", [64 * MIB - 1, 64 * MIB, 2 * GIB, (1 << 64) - 1])
def test_pieces_outside_ram_are_refused(address):
    with pytest.raises(PlanError, match=r"initrd .* is outside RAM"):
        plan(Blob("initrd", address, b"xy"))


def test_pieces_over_the_mmio_gap_are_refused_by_its_name():
    with pytest.raises(PlanError, match=r"initrd .* lies over the MMIO gap"):
        plan(Blob("initrd", 3 * GIB - 1, b"xy"))


def test_ram_over_the_gap_is_refused():
    with pytest.raises(PlanError, match=r"RAM .* overlaps MMIO gap"):
        BootPlan(architecture="x86_64", ram=(Region(0, 4 * GIB, "RAM"),), reserved=(GAP,))


def test_content_larger_than_its_piece_is_refused():
    with pytest.raises(PlanError, match="kernel: 4 bytes of content"):
        Blob("kernel", 0, b"abcd", size_bytes=3)


def test_vcpus_are_numbered_from_zero():
    with pytest.raises(PlanError, match="numbered"):
        plan(vcpus=(VcpuPlan(1, ()),))


def test_read_sees_content_from_bytes_and_files_and_zeros_between(tmp_path):
    file = tmp_path / "initrd"
    file.write_bytes(b"0123456789")
    made = plan(Blob("a", 0x1000, b"AB", size_bytes=4), Blob("b", 0x1004, FileSlice(file, 2, 5)))
    assert made.read(0x0FFF, 12) == b"\0AB\0\0" + b"23456" + b"\0\0"


def full_plan(tmp_path):
    file = tmp_path / "kernel"
    file.write_bytes(b"kernel")
    return plan(
        Blob("gdt", 0x500, b"\x01\x02", provided_by="linux"),
        Blob("kernel", 0x100000, FileSlice.whole(file), size_bytes=MIB),
        vm_states_before=(Irqchip(), Pit()),
        vcpus=(
            VcpuPlan(0, (Regs(rip=0x100200, rflags=2), Change(Sregs, cr3=0x9000), boot_lapic(boot_processor=True))),
        ),
        devices=(
            DeviceSpec(
                "serial",
                "serial0",
                ports=(Region(0x3F8, 8, "serial0"),),
                gsi=4,
                settings={"console": "serial0", "n": 1},
            ),
        ),
        steps=(Step("anyvisor_gdt", "linux", ("mine",)),),
    )


def test_json_round_trip_gives_an_equal_plan(tmp_path):
    made = full_plan(tmp_path)
    assert BootPlan.from_json(made.to_json()) == made


def test_file_contents_stay_references_in_json(tmp_path):
    data = json.loads(full_plan(tmp_path).to_json())
    assert data["blobs"][1]["content"] == {"path": str(tmp_path / "kernel"), "offset": 0, "size_bytes": 6}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=99), "format 99"),
        (lambda d: d.pop("format"), "format None"),
        (lambda d: d.pop("ram"), "ram"),
        (lambda d: d.update(surprise=1), "surprise"),
        (lambda d: d["blobs"][0].update(guest_address="0x500"), "blobs"),
        (lambda d: d["blobs"][0].update(content="not base64!"), "base64"),
        (lambda d: d["blobs"][0].update(guest_address=1 << 40), "outside RAM"),
        (lambda d: d["vcpus"][0]["states"][0].update(type="os.system"), "os.system"),
        (lambda d: d["vcpus"][0]["states"][0].update(type="x86_64.Irqchip"), "Irqchip"),
        (lambda d: d["vcpus"][0]["states"][0].update(rip=None), "None"),
        (lambda d: d["vcpus"].append(7), "vcpus"),
    ],
)
def test_a_wrong_plan_file_is_refused_with_the_place(tmp_path, change, message):
    data = json.loads(full_plan(tmp_path).to_json())
    change(data)
    with pytest.raises(PlanError, match=message):
        BootPlan.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["[" * 100_000, "", "{", "[]", "null", "7", '{"format": 1}', b"\xff\xfe"])
def test_text_that_is_no_plan_is_refused(text):
    with pytest.raises(PlanError):
        BootPlan.from_json(text)


def test_describe_lists_everything_in_address_order_with_providers(tmp_path):
    lines = full_plan(tmp_path).describe().splitlines()
    assert [line.split("  ", 1)[1].strip() for line in lines] == [
        "RAM (64M)",
        "gdt  [linux]",
        "kernel",
        "MMIO gap",
    ]
    assert [int(line.split()[0], 16) for line in lines] == [0, 0x500, 0x100000, 3 * GIB]


def test_a_plan_is_frozen():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        plan().ram = ()


def test_a_change_names_the_fields_there_are():
    with pytest.raises(PlanError, match="Sregs has no field cr33; it has apic_base"):
        Change(Sregs, cr33=0)


def test_a_missing_blob_is_told_with_those_there_are():
    with pytest.raises(PlanError, match="no piece 'idt'; it has gdt"):
        plan(Blob("gdt", 0x500, b"x")).blob("idt")


@pytest.mark.parametrize(
    "region",
    [Region(-4096, 8192, "RAM"), Region(4096, -4096, "RAM"), Region(0, 0, "RAM"), Region(1 << 64, 4096, "RAM")],
)
def test_ram_that_cannot_be_is_refused(region):
    with pytest.raises(PlanError, match=r"RAM: .* is empty or not within"):
        BootPlan(architecture="x86_64", ram=(region,))


def device(name, *, ports=(), mmio=()):
    return DeviceSpec("any", name, ports=ports, mmio=mmio)


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ((device("a", ports=(Region(0x3F8, 8),)), device("b", ports=(Region(0x3FF, 1),))), "a 0x3f8-0x3ff overlaps b"),
        ((device("a", ports=(Region(0xFFFF, 2),)),), "a: 2 bytes at 0xffff is empty or not within 0-0xffff"),
        ((device("a", mmio=(Region(0xD000_0000, 0),)),), "a: 0 bytes"),
        (
            (device("a", mmio=(Region(0xD000_0000, 16),)), device("b", mmio=(Region(0xD000_0008, 16),))),
            "a .* overlaps b",
        ),
        ((device("a", mmio=(Region(0x1000, 16),)),), "RAM .* overlaps a 0x1000-0x100f; move one in anyvisor_devices"),
    ],
)
def test_devices_that_do_not_fit_are_refused(devices, message):
    with pytest.raises(PlanError, match=message):
        plan(devices=devices)


@pytest.mark.parametrize("hardware_id", [-1, 1 << 32, 1 << 64])
def test_hardware_ids_have_32_bits(hardware_id):
    with pytest.raises(PlanError, match="does not fit in 32 bits"):
        VcpuPlan(0, (), hardware_id=hardware_id)


def test_two_vcpus_of_one_hardware_id_are_refused():
    with pytest.raises(PlanError, match="share a hardware id"):
        plan(vcpus=(VcpuPlan(0, ()), VcpuPlan(1, (), hardware_id=0)))


@pytest.mark.parametrize(("path", "offset", "size"), [("k", 1 << 70, 1), ("k", -1, 1), ("k", 0, -1), ("a\0b", 0, 1)])
def test_parts_of_files_that_cannot_be_are_refused(path, offset, size):
    with pytest.raises(PlanError, match="no file has"):
        FileSlice(Path(path), offset, size)


@pytest.mark.parametrize("fields", [{"cs": 5}, {"cr3": "x"}, {"cr0": None}])
def test_a_change_to_a_value_of_another_kind_is_refused(fields):
    with pytest.raises(PlanError, match=r"is a (SegmentRegister|int|Cr0), and"):
        Change(Sregs, **fields)


def test_a_step_that_was_dropped_says_so_and_survives_json(tmp_path):
    made = attrs.evolve(full_plan(tmp_path), steps=(Step("anyvisor_mptable", "linux", ("mine",), dropped=True),))
    assert BootPlan.from_json(made.to_json()) == made


def test_reading_behind_the_end_of_a_file_that_shrank_gives_zeros(tmp_path):
    file = tmp_path / "initrd"
    file.write_bytes(b"0123456789")
    made = plan(Blob("initrd", 0x1000, FileSlice.whole(file)))
    file.write_bytes(b"0123")
    assert made.read(0x1000, 12) == b"0123" + bytes(8)


def test_the_pieces_of_a_plan_can_be_had_from_both_modules():
    from anyvisor import pieces, plan

    names = {"Blob", "DeviceSpec", "FileSlice", "FirmwareTables", "Kernel", "Step", "VcpuPlan"}
    assert all(getattr(plan, name) is getattr(pieces, name) for name in names)
    assert names < set(plan.__all__)
