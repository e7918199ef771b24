"""Flat binaries as plans: where their bytes go, what is left out for them, and what they cannot be."""

import pytest

from anyvisor import assemble, generic_facts
from anyvisor.config import MachineConfig, Raw
from anyvisor.errors import ConfigError, KernelImageError, PlanError
from anyvisor.memory import MIB
from anyvisor.plan import FileSlice
from anyvisor.x86_64.entry_checks import check_plan
from anyvisor.x86_64.raw import load_raw
from anyvisor.x86_64.state import Regs, Sregs


@pytest.fixture
def image(tmp_path):
    def write(size_bytes=512):
        path = tmp_path / "image"
        path.write_bytes(b"\xf4" * size_bytes)
        return path

    return write


def planned(path, raw, **more):
    config = MachineConfig(kernel=path, protocol="raw", raw=raw, **{"memory": "16M", "tables": "none", **more})
    return assemble(config, generic_facts())


def test_all_bytes_go_to_the_address(image):
    kernel = load_raw(image(), Raw(address=0x7C00, mode="real"))
    assert (kernel.protocol, kernel.mode, kernel.entry) == ("raw", "real", 0x7C00)
    (blob,) = kernel.blobs
    assert (blob.name, blob.guest_address, blob.content) == ("raw image", 0x7C00, FileSlice(image(), 0, 512))


@pytest.mark.parametrize(
    ("mode", "pieces"),
    [
        ("real", []),
        ("protected", ["GDT", "IDT"]),
        ("long", ["GDT", "IDT", "page tables"]),
    ],
)
def test_only_what_the_mode_needs_is_placed(mode, pieces, image):
    plan = planned(image(), Raw(address=0x7C00, mode=mode))
    firmware = {"BIOS data area", "EBDA size", "reset vector"}
    assert {blob.name for blob in plan.blobs} - firmware == {"raw image", *pieces}
    assert plan.blob("raw image").provided_by == "raw"
    assert [step.hook for step in plan.steps if step.hook in {"anyvisor_gdt", "anyvisor_page_tables"}] == [
        f"anyvisor_{name}" for name in ("gdt", "page_tables") if name.replace("_", " ").replace("gdt", "GDT") in pieces
    ]
    assert check_plan(plan) == []
    assert plan.vcpus[0].state(Regs).rip == 0x7C00
    assert plan.vcpus[0].state(Sregs).fields["cr0"].pe == (mode != "real")


def test_a_plan_of_each_mode_survives_json(image):
    for mode in ("real", "protected", "long"):
        plan = planned(image(), Raw(address=0x7C00, mode=mode))
        assert type(plan).from_json(plan.to_json()) == plan


def test_firmware_s_tables_are_there_if_they_are_wanted(image):
    assert planned(image(), Raw(), tables="mptable").blob("mp pointer")


@pytest.mark.parametrize(
    ("raw", "size_bytes", "words"),
    [
        (Raw(address=0x400, mode="real"), 512, "BIOS data area 0x40e-.* overlaps raw image|raw image .* overlaps"),
        (Raw(address=0x500, mode="protected"), 512, "GDT 0x500-"),
        (Raw(address=0x8000, mode="long"), 0x2000, "page tables 0x9000-"),
        (Raw(address=0x9FC00, mode="real"), 512, "EBDA size"),
        (Raw(address=16 * MIB), 512, "outside RAM .*more memory"),
        (Raw(address=16 * MIB - 511), 512, "outside RAM"),
        (Raw(address=4 << 30), 512, "outside RAM"),
        (Raw(address=3 << 30), 512, "lies over the MMIO gap"),
    ],
)
def test_an_image_in_the_way_of_something_is_refused_by_name(raw, size_bytes, words, image):
    with pytest.raises(PlanError, match=words):
        planned(image(size_bytes), raw)


def test_where_the_page_tables_are_in_the_way_of_a_mode_others_have_none(image):
    for mode in ("real", "protected"):
        assert planned(image(0x2000), Raw(address=0x8000, mode=mode)).blob("raw image").size_bytes == 0x2000


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (Raw(address=0x7C00, entry=0x7BFF), r"entry 0x7bff is not in the image, raw image 0x7c00-0x7dff"),
        (Raw(address=0x7C00, entry=0x7E00), "entry 0x7e00 is not in the image"),
        (Raw(address=1 << 20, mode="real"), "real mode reaches addresses below 0x100000, and the entry is 0x100000"),
        (Raw(address=(1 << 32) - 1, entry=1 << 32, mode="protected"), "protected mode reaches addresses below"),
    ],
)
def test_an_entry_that_cannot_be_is_a_mistake_in_the_configuration(raw, words, image):
    with pytest.raises(ConfigError, match=words):
        load_raw(image(), raw)


def test_in_real_mode_only_the_entry_must_be_below_1_mib(image):
    raw = Raw(address=0xFFFF9, entry=0xFFFFF, mode="real")
    assert planned(image(0x1000), raw).blob("raw image").region.end == 0x100FF9


def test_nobody_tells_a_flat_binary_anything(image, tmp_path):
    (tmp_path / "initrd").write_bytes(b"x")
    with pytest.raises(ConfigError, match="initrd: a raw image is told of none"):
        planned(image(), Raw(), initrd=tmp_path / "initrd")
    with pytest.raises(ConfigError, match="command_line: a raw image is told of none"):
        planned(image(), Raw(), command_line="quiet")
    assert planned(image(), Raw(), command_line="")


def test_a_file_that_is_not_there_or_empty_is_refused(tmp_path):
    with pytest.raises(KernelImageError, match="cannot open the kernel"):
        planned(tmp_path / "none", Raw())
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(KernelImageError, match="is empty"):
        planned(tmp_path / "empty", Raw())


def test_only_the_first_vcpu_starts(image):
    plan = planned(image(), Raw(mode="protected"), vcpus=3)
    assert [vcpu.state(Regs) is not None for vcpu in plan.vcpus] == [True, False, False]
