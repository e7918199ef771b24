"""The picture of a plan's memory: everything is in it, nothing lies over anything else, and no name breaks it."""

import itertools
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from svg_judge import rendered_size, spacing_problems, texts, titles

from anyvisor import MachineConfig, assemble, generic_facts
from anyvisor.memory import GIB, KIB, MIB, TIB, Region
from anyvisor.picture import Landmarks, picture
from anyvisor.picture.draw import size_words
from anyvisor.pieces import Blob, DeviceSpec
from anyvisor.plan import BootPlan
from anyvisor.testing.kernels import tiny_kernel
from anyvisor.x86_64.describe import landmarks


@pytest.fixture
def planned(tmp_path):
    def planned(**config):
        kernel = tiny_kernel(tmp_path / "vmlinux")
        return assemble(MachineConfig(kernel=kernel, overcommit=True, **config), generic_facts())

    return planned


def virtio(count):
    regions = (Region(0xD0000000 + 0x1000 * number, 0x1000) for number in range(count))
    return tuple(DeviceSpec("virtio-mmio", f"virtio{n}", mmio=(each,)) for n, each in enumerate(regions))


@pytest.mark.parametrize("memory", [MIB, 64 * MIB, 3 * GIB, 4 * GIB, TIB])
@pytest.mark.parametrize("tables", ["none", "both"])
def test_every_piece_is_named_with_its_address_size_and_provider(planned, memory, tables):
    plan = planned(memory=max(memory, 32 * MIB), tables=tables, vcpus=4)
    svg = picture(plan, landmarks(plan))
    assert not spacing_problems(svg)
    shown = [text for text, *_ in texts(svg)]
    for blob in plan.blobs:
        assert blob.name in shown
        assert f"{blob.guest_address:#x}" in shown
        assert size_words(blob.size_bytes) in shown
        assert any(each.startswith(f"{blob.name}: {blob.guest_address:#x} to ") for each in titles(svg))
    assert shown.count("linux") == len(plan.blobs)
    assert f"{plan.ram[-1].end:#x}" in shown


def test_ram_gaps_holes_reserved_ram_and_devices_are_told_apart(planned):
    plan = attrs.evolve(planned(memory=5 * GIB, tables="both"), devices=virtio(2))
    shown = [text for text, *_ in texts(picture(plan, landmarks(plan)))]
    for text in ("RAM", "high RAM", "MMIO gap", "I/O APIC", "local APICs", "virtio0", "virtio1"):
        assert text in shown
    assert {"free RAM", "reserved RAM", "kept free of RAM", "device", "placed by linux"} <= set(shown)
    low = [text for text, *_ in texts(picture(planned(memory=GIB)))]
    assert "nothing" in low
    assert "reserved RAM" not in low  # without landmarks


def test_many_devices_of_a_kind_are_one_band():
    plan = BootPlan("x86_64", (Region(0, GIB, "RAM"),), devices=virtio(32))
    svg = picture(plan)
    shown = [text for text, *_ in texts(svg)]
    assert "virtio0 to virtio31" in shown
    assert "32 x 4 KiB" in shown
    assert "0xd0020000" in shown
    assert "virtio7" not in shown


def test_addresses_go_up_as_one_reads_down(planned):
    svg = picture(planned(memory=5 * GIB, tables="both"))
    addresses = [(y, int(text, 16)) for text, x, y, style, anchor in texts(svg) if style == "address"]
    assert [each for _, each in addresses] == sorted(each for _, each in addresses)
    assert [y for y, _ in addresses] == sorted(y for y, _ in addresses)
    assert len({each for _, each in addresses}) == len(addresses)


HOSTILE = "<script>alert(1)</script>&\"'\x00\x1b[31m\u202egnp.\ud800\uffff\n" + "w" * 300


def test_hostile_names_do_no_harm():
    blobs = (Blob(HOSTILE, 0x1000, b"x" * 100, provided_by=HOSTILE),)
    device = DeviceSpec(HOSTILE, HOSTILE, mmio=(Region(0xD0000000, 0x1000),))
    plan = BootPlan(HOSTILE, (Region(0, MIB, HOSTILE),), (Region(GIB, MIB, HOSTILE),), blobs, devices=(device,))
    svg = picture(plan)
    svg.encode("utf-8")
    root = ET.fromstring(svg)
    assert not [each for each in root.iter() if each.tag.endswith("script")]
    assert not spacing_problems(svg)
    assert any("<script>alert(1)</script>&\"'" in each for each in titles(svg))
    assert "\u202e" not in svg
    assert "\x1b" not in svg


def test_a_plan_of_nothing_is_a_picture_too():
    svg = picture(BootPlan("x86_64", ()))
    ET.fromstring(svg)
    assert not spacing_problems(svg)


def test_a_renderer_that_is_not_ours_draws_it(planned, tmp_path):
    plan = planned(memory=TIB, tables="both", vcpus=8)
    svg = picture(plan, landmarks(plan))
    width, height = rendered_size(svg, tmp_path)
    root = ET.fromstring(svg)
    assert (width, height) == (int(root.get("width")), round(float(root.get("height"))))


def test_it_can_be_read_by_day_and_by_night(planned):
    svg = picture(planned())
    day, night = svg.split("@media (prefers-color-scheme: dark)")
    for name in (".page", ".title", ".p0", ".free", ".line"):
        assert name in day
        assert name in night


def regions():
    sizes = st.sampled_from([1, 3, 63, 64, 100, KIB, 4 * KIB, 64 * KIB, MIB, 100 * MIB, GIB])
    return st.lists(st.tuples(sizes, sizes), min_size=1, max_size=20)


@settings(max_examples=60)
@given(regions(), st.text(max_size=60), st.sampled_from(["", "linux", "a-plugin-of-a-very-long-name-indeed"]))
def test_no_two_labels_overlap_whatever_the_pieces(pieces, name, provider):
    blobs, start = [], 0
    for number, (gap, size) in enumerate(pieces):
        start += gap
        blobs.append(Blob(f"{name}{number}", start, b"x", size, provider))
        start += size
    plan = BootPlan("x86_64", (Region(0, start + MIB, name),), blobs=tuple(blobs))
    svg = picture(plan, Landmarks((Region(start // 2, KIB),), (Region(start + 2 * MIB, KIB, name),)))
    assert not spacing_problems(svg)
    assert sum(title.startswith("free RAM: ") for title in titles(svg)) >= 1


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [
        (0, "0 bytes"), (1, "1 byte"), (5348, "5348 bytes"), (24 * KIB, "24 KiB"), (27136, "26.5 KiB"),
        (MIB, "1 MiB"), (3 * GIB // 2, "1.5 GiB"), (TIB, "1 TiB"), (TIB + 1, "1 TiB"),
    ],
)  # fmt: skip
def test_sizes_are_written_to_be_read(size_bytes, words):
    assert size_words(size_bytes) == words


def test_bands_leave_nothing_out(planned):
    from anyvisor.picture.bands import spaces

    plan = planned(memory=5 * GIB, tables="both")
    found = [band.region for space in spaces(plan, landmarks(plan)) for band in space.bands]
    assert found[0].start == 0
    assert found[-1].end == plan.ram[-1].end
    for before, after in itertools.pairwise(found):
        assert before.end == after.start


def test_the_picture_in_the_documentation_has_the_pieces_of_a_plan_of_today(planned):
    """Else draw it anew: `anyvisor plan vmlinuz --initrd ... -m 4G --cpus 2 --svg docs/how-to/memory-map.svg`."""
    drawn = (Path(__file__).parents[2] / "docs/how-to/memory-map.svg").read_text("utf-8")
    assert not spacing_problems(drawn)
    plan = planned(memory=4 * GIB, vcpus=2)
    wanted = {blob.name for blob in plan.blobs if not blob.name.startswith("kernel")} | {"kernel", "initrd"}
    assert wanted <= {text for text, *_ in texts(drawn)}
    assert len(re.findall(r'class="p0"', drawn)) == len(wanted)


def test_what_is_left_between_aligned_pieces_takes_no_words():
    blobs = (Blob("one", 0x1000, b"x" * 36), Blob("two", 0x1040, b"x" * 64))
    svg = picture(BootPlan("x86_64", (Region(0, MIB),), blobs=blobs))
    addresses = [text for text, _, _, style, _ in texts(svg) if style == "address"]
    assert addresses == ["0x0", "0x1000", "0x1040", "0x1080", "0x100000"]
    assert "free RAM: 0x1024 to 0x103f, 28 bytes" in titles(svg)
