import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import KernelImageError
from anyvisor.memory import MIB
from anyvisor.symbols import Symbols

KERNEL = 0xFFFFFFFF81000000
SYMBOLS = Symbols.of(
    [
        (KERNEL + 0x40, "t", "do_one"),
        (KERNEL, "T", "_text"),
        (0x1000, "D", "cpu_info"),
        (KERNEL + 0x100, "T", "last"),
        (0x1000000, "A", "phys_startup_64"),
    ]
)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (KERNEL - 1, None),
        (KERNEL, "_text"),
        (KERNEL + 0x3F, "_text+0x3f"),
        (KERNEL + 0x40, "do_one"),
        (KERNEL + 0x100 + MIB - 1, "last+0xfffff"),
        (KERNEL + 0x100 + MIB, None),
        (0x1000, None),
        (0x1000001, None),
        (0, None),
        (2**64 - 1, None),
        (-1, None),
    ],
)
def test_an_address_is_named_after_the_symbol_before_it(address, name):
    assert SYMBOLS.name(address) == name


def test_a_name_has_its_address():
    assert SYMBOLS.address("do_one") == KERNEL + 0x40
    assert SYMBOLS.address("cpu_info") == 0x1000
    assert SYMBOLS.address("nothing") is None
    assert len(SYMBOLS) == 5


def test_moved_symbols_move_the_kernel_and_no_constants():
    moved = SYMBOLS.moved(0x1000000).moved(0x200000)
    assert moved.slide == 0x1200000
    assert moved.name(KERNEL + 0x1200050) == "do_one+0x10"
    assert moved.name(KERNEL + 0x50) is None
    assert moved.address("do_one") == KERNEL + 0x1200040
    assert moved.address("cpu_info") == 0x1000
    assert list(moved)[:3] == [(0x1000, "cpu_info"), (0x1000000, "phys_startup_64"), (KERNEL + 0x1200000, "_text")]
    assert list(moved.moved(-0x1200000)) == list(SYMBOLS)


def test_a_kernel_in_the_lower_half_is_all_places():
    symbols = Symbols.of([(0x100000, "T", "start"), (0x100010, "T", "main")])
    assert symbols.name(0x100011) == "main+0x1"
    assert symbols.moved(0x1000).address("start") == 0x101000


def test_of_several_names_at_an_address_the_plainest_is_told():
    rows = [(1, "W", "weak"), (1, "T", "__start_it"), (1, "T", "__x64_sys_read"), (1, "T", "ksys"), (1, "T", "other")]
    assert Symbols.of(rows).name(1) == "ksys"
    assert Symbols.of(rows[:3]).name(1) == "__x64_sys_read"
    assert Symbols.of(rows[:2]).name(1) == "__start_it"
    assert Symbols.of(rows).address("weak") == 1


def test_of_several_addresses_of_a_name_the_lowest_is_told():
    assert Symbols.of([(8, "t", "init"), (4, "t", "init"), (6, "t", "init")]).address("init") == 4


def test_a_symbol_of_a_module_says_so_as_the_kernel_does():
    symbols = Symbols.of([(0xFFFFFFFFC0000000, "t", "probe [virtio]")])
    assert symbols.name(0xFFFFFFFFC0000010) == "probe+0x10 [virtio]"
    assert symbols.name(0xFFFFFFFFC0000000) == "probe [virtio]"
    assert symbols.address("probe") == 0xFFFFFFFFC0000000


def test_no_symbols_name_nothing():
    assert (Symbols.of([]).name(0), Symbols.of([]).address("x"), len(Symbols.of([]))) == (None, None, 0)


@given(st.lists(st.integers(0, 2**20), min_size=1, unique=True), st.integers(0, 2**20), st.integers(0, 2**30))
def test_names_agree_with_a_search_from_the_top(addresses, wanted, slide):
    symbols = Symbols.of((each, "T", f"at_{each}") for each in addresses).moved(slide)
    below = [each for each in addresses if each <= wanted]
    found = f"at_{max(below)}" + (f"+{wanted - max(below):#x}" if wanted > max(below) else "") if below else None
    assert symbols.name(wanted + slide) == found


def test_whoever_is_given_symbols_imports_nothing_that_reads_them():
    program = "import sys, anyvisor.symbols; print(sorted(name for name in sys.modules if 'anyvisor' in name))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "x86_64" not in run.stdout
    assert "image_file" not in run.stdout


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\x7fELF", "cut short"),
        (
            b"PK\x03\x04 and so on",
            r"has no symbols: it is no kernel.*\(it begins 50 4b.*give the kernel as the distrib",
        ),
        (b"\0" * 0x300, "has no symbols"),
        (b"hello world\n", "has no symbols"),
    ],
)
def test_what_has_no_symbols_is_refused_with_a_way_out(content, words, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(KernelImageError, match=words) as info:
        Symbols.load(tmp_path / "file")
    assert str(tmp_path / "file") in str(info.value)


@pytest.mark.parametrize("path", ["/nowhere/at/all", "/", "/proc/nothing", "bad\0name"])
def test_a_file_that_cannot_be_read_is_refused(path):
    with pytest.raises(KernelImageError, match=r"cannot open the symbols|is a directory"):
        Symbols.load(path)


def test_symbols_that_are_moved_again_and_again_have_one_index():
    symbols = Symbols.of([(0xFFFFFFFF81000000 + 16 * number, "T", f"f{number}") for number in range(100)])
    moved = [symbols.moved(slide << 21) for slide in range(3)]
    assert [each.address("f1") for each in moved] == [0xFFFFFFFF81000010 + (slide << 21) for slide in range(3)]
    assert len({id(each._index) for each in moved}) == 1
