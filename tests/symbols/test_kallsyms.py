"""The symbols inside kernel images: of every age of Linux by hand, of Debian's kernels by what they contain."""

import os
import struct
import subprocess
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kallsyms_images import AGES, LINKED, image

from anyvisor.errors import HypervisorUnavailable, KernelImageError
from anyvisor.image_file import ImageFile
from anyvisor.symbols import Symbols, kallsyms
from anyvisor.x86_64.packed import vmlinux
from guests.debian import cloud_kernel, pae_kernel
from x86_64.kernel_images import PACKERS, bzimage, elf

IDS = [age.name for age in AGES]


@pytest.fixture
def load(tmp_path):
    def load(content):
        (tmp_path / "kernel").write_bytes(content)
        return Symbols.load(tmp_path / "kernel")

    return load


# -- images made by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("age", AGES, ids=IDS)
def test_the_tables_of_every_age_are_found_and_read(age, bits, load):
    made = image(age, bits)
    assert list(load(made.content)) == made.symbols


def test_a_name_is_as_long_as_linux_allows_and_no_longer(load):
    """A few bytes could otherwise unpack to gigabytes."""
    made = image(AGES[-1], long_name="x" * 511)
    assert list(load(made.content)) == made.symbols
    with pytest.raises(KernelImageError, match="has no symbols"):
        load(image(AGES[-1], long_name="x" * 512).content)


@pytest.mark.parametrize("packer", ["gzip", "zstd"])
def test_a_bzimage_is_unpacked_first(packer, load):
    made = image(AGES[-2])
    assert list(load(bzimage(payload=PACKERS[packer](made.content)))) == made.symbols


def test_per_cpu_symbols_name_no_address_and_do_not_move(load):
    symbols = load(image(AGES[0]).content.replace(struct.pack("<Q", LINKED), struct.pack("<Q", 0xFFFFFFFF81000000)))
    moved = symbols.moved(0x200000)
    assert symbols.address("cpu_info") == moved.address("cpu_info") == 0x1000
    assert symbols.name(0x1000) is None is moved.name(0x201000)
    assert moved.address("__x64_device3_init") == 0xFFFFFFFF81200000 + 3 * 48


def test_a_kernel_without_the_tables_is_told_to_have_no_symbols(load):
    with pytest.raises(KernelImageError, match=r"has no symbols: .*CONFIG_KALLSYMS.*give the System\.map"):
        load(elf())


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (PACKERS["gzip"](bytes(99))[:-20] + bytes(16) + struct.pack("<I", 1 << 20), "its compressed kernel is damaged"),
        (b"some new way of packing", "its kernel is packed in a way not known here"),
    ],
)
def test_a_bzimage_that_cannot_be_unpacked_says_what_to_give_instead(payload, words, load):
    with pytest.raises(KernelImageError, match=rf"{words}.*; else give its System\.map") as info:
        load(bzimage(payload=payload))
    assert "unpack`" not in str(info.value)  # the way out for who wants to boot it


@pytest.mark.parametrize("age", [AGES[0], AGES[-1]], ids=lambda age: age.name)
@pytest.mark.parametrize(
    ("table", "at", "flip"),
    [("number", 0, 1), ("names", 0, 0x40), ("names", 1, 0x80), ("markers", 4, 1), ("tokens", 1, ord("y")),
     ("index", 99, 1), ("offsets", 399, 0x55)],
)  # fmt: skip
def test_tables_that_contradict_each_other_are_not_believed(age, table, at, flip, load):
    made = image(age)
    broken = bytearray(made.content)
    broken[made.places[table] + at] ^= flip
    with pytest.raises(KernelImageError, match="has no symbols"):
        load(bytes(broken))


@given(st.sampled_from(AGES), st.data())
@settings(max_examples=60)
def test_whatever_an_image_says_symbols_are_read_or_refused(age, data):
    made = IMAGES[age]
    damaged = bytearray(made.content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 5))
        damaged[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
    found = kallsyms.decode(damaged, 8, lambda offset: LINKED + offset)
    assert found is None or len(found.names) == len(found.addresses) == len(made.symbols)


IMAGES = {age: image(age) for age in AGES}


@pytest.mark.parametrize("pointer_bytes", [4, 8])
def test_an_image_made_to_keep_us_busy_is_given_up_soon(pointer_bytes):
    """Numbers with plausible names behind them everywhere, and names that would unpack to gigabytes."""
    tokens = [bytes([code]) for code in range(1, 256)]
    table = [b"T" + b"x" * 200, *tokens]
    index, at = [], 0
    for token in table:
        index.append(at)
        at += len(token) + 1
    names = (struct.pack("<II", 1 << 19, 0) + b"\xff\x7f" + bytes(0x3FFF)) * 500
    content = names + bytes(-len(names) % 8) + b"".join(token + b"\0" for token in table)
    content += bytes(-len(content) % 8) + struct.pack("<256H", *index)
    began = time.process_time()
    assert kallsyms.decode(content, pointer_bytes, lambda offset: offset) is None
    assert time.process_time() - began < 10


def test_digits_without_end_are_given_up_soon():
    digits = b"".join(b"%d\0" % digit for digit in range(10)) + b"x"
    began = time.process_time()
    assert kallsyms.decode(digits * 200_000, 8, lambda offset: offset) is None
    assert time.process_time() - began < 2


# -- Debian's kernels ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[cloud_kernel, pae_kernel], ids=["cloud", "pae"])
def kernel(request):
    try:
        return request.param()
    except HypervisorUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        return pytest.skip(str(error))


@pytest.fixture(scope="module")
def symbols(kernel):
    return Symbols.load(kernel.vmlinuz)


def test_a_bzimage_of_a_distribution_has_its_symbols_in_it(kernel, symbols):
    assert len(symbols) > 40_000
    assert symbols.address("_text") in (0xFFFFFFFF81000000, 0xC1000000)
    assert symbols.name(symbols.address("start_kernel") + 0x12) == "start_kernel+0x12"


def test_functions_begin_where_objdump_sees_calls_go(kernel, symbols, tmp_path):
    """A judge who knows no kallsyms: nearly all direct calls in a stretch of code lead to a symbol's very address."""
    unpacked = vmlinux(ImageFile.open(kernel.vmlinuz))
    (tmp_path / "vmlinux").write_bytes(unpacked.unpacked)
    start = symbols.address("vfs_read")
    command = ["objdump", "-d", "--no-show-raw-insn", f"--start-address={start}", f"--stop-address={start + 0x4000}"]
    listing = subprocess.run([*command, tmp_path / "vmlinux"], capture_output=True, text=True, check=True, timeout=60)
    targets = [int(line.split()[-1], 16) for line in listing.stdout.splitlines() if "call " in line and "*" not in line]
    named = [symbols.name(target) for target in targets]
    assert len(targets) > 100
    assert sum(name is not None and "+" not in name for name in named) / len(named) > 0.99
