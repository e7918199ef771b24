import os
from pathlib import Path

import pytest

from anyvisor.errors import HypervisorUnavailable, KernelImageError
from anyvisor.symbols import Symbols, files
from guests.debian import cloud_kernel

TEXT = """\
0000000000000000 D __per_cpu_start
ffffffff81000000 T startup_64
ffffffff81000000 T _stext
ffffffff81000040 t do_one
ffffffff83000000 B _end
"""
MODULES = TEXT + "ffffffffc0000000 t probe\t[virtio]\nffffffffc0000000 t setup   [virtio]\n"


@pytest.fixture
def load(tmp_path):
    def load(text):
        (tmp_path / "System.map").write_bytes(text.encode() if isinstance(text, str) else text)
        return Symbols.load(tmp_path / "System.map")

    return load


def test_a_system_map_is_read(load):
    symbols = load(TEXT)
    assert len(symbols) == 5
    assert symbols.name(0xFFFFFFFF81000050) == "do_one+0x10"
    assert symbols.name(0xFFFFFFFF81000000) == "startup_64"
    assert symbols.address("_stext") == 0xFFFFFFFF81000000


def test_the_modules_of_proc_kallsyms_are_told(load):
    assert load(MODULES).name(0xFFFFFFFFC0000004) == "probe+0x4 [virtio]"
    assert load(MODULES).address("setup") == 0xFFFFFFFFC0000000


def test_lines_may_end_as_on_windows_and_be_empty(load):
    assert list(load("\n" + TEXT.replace("\n", "\r\n") + "\n\n")) == list(load(TEXT))


def test_undefined_symbols_have_no_address(load):
    text = "                 U printf\n0000000000401000 T main\n                 w __gmon_start__\n"
    assert list(load("0000000000400000 T _init\n" + text)) == [(0x400000, "_init"), (0x401000, "main")]


def test_addresses_of_32_bits_are_read(load):
    assert load("00000000 A none\nc1000000 T startup_32\n").name(0xC1000004) == "startup_32+0x4"


def test_hidden_addresses_are_refused_with_the_reason(load):
    hidden = "".join(f"{0:016x} T symbol{i}\n" for i in range(9))
    with pytest.raises(KernelImageError, match=r"no address but 0.*kptr_restrict.*as root"):
        load(hidden)


@pytest.mark.parametrize("line", ["ffffffff81000000 T", "ffffffff8100 T a b c", "what is this", "zzzzzzzzzzzzzzzz T x"])
def test_a_line_that_is_none_is_told_by_its_number(line, load):
    with pytest.raises(KernelImageError, match=r"line 6 is not an address, a type and a name"):
        load(TEXT + line + "\n")


def test_debians_system_map_says_where_the_symbols_are():
    try:
        kernel = cloud_kernel()
    except HypervisorUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    with pytest.raises(KernelImageError, match=r"The real System\.map is in.*give the kernel itself"):
        Symbols.load(kernel.vmlinuz.with_name(f"System.map-{kernel.version}"))


def test_the_symbols_of_this_machines_own_kernel_are_read_or_hidden():
    """A file that the kernel writes, and which says of itself that it is empty."""
    lines = [line.split() for line in Path("/proc/kallsyms").read_text().splitlines()]
    if any(int(address, 16) for address, *_ in lines):
        symbols = Symbols.load("/proc/kallsyms")
        assert sorted(address for address, _ in symbols) == sorted(int(address, 16) for address, *_ in lines)
    else:
        with pytest.raises(KernelImageError, match="kptr_restrict"):
            Symbols.load("/proc/kallsyms")


def test_a_text_that_is_too_long_is_not_read(load, monkeypatch):
    monkeypatch.setattr(files, "MAX_TEXT_BYTES", 100)
    with pytest.raises(KernelImageError, match="is longer than 100; give"):
        load("ffffffff81000000 T start\n" * 10)
