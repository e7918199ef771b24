"""Symbol tables of programs that the compiler made, judged by nm; and damaged ones."""

import contextlib
import shutil
import struct
import subprocess
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyvisor.errors import KernelImageError
from anyvisor.memory import MIB
from anyvisor.symbols import Symbols

SOURCE = """
int counter = 7; static char buffer[4096]; const int answer = 42;
__attribute__((weak)) int maybe(void) { return 1; }
static __attribute__((noinline)) int helper(int n) { return n * counter + buffer[n]++; }
int same(void) __attribute__((alias("entry")));
int entry(void) { return helper(answer) + maybe(); }
__asm__(".set CONSTANT, 0x1234\\n.globl CONSTANT\\n.Lnothing:\\n");
void _start(void) { entry(); for (;;); }
"""
PLACES = "tTdDbBrRwWvV"


@pytest.fixture(scope="module", params=[64, 32])
def program(request, tmp_path_factory):
    if not (shutil.which("gcc") and shutil.which("nm")):
        pytest.skip("apt-get install gcc binutils")
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.c").write_text(SOURCE)
    flags = ["-m32"] if request.param == 32 else []
    options = ["-O1", "-nostdlib", "-static", "-fno-pie", "-no-pie", "-Wl,--build-id=none", *flags]
    subprocess.run(["gcc", *options, "-o", folder / "program", folder / "program.c"], check=True, timeout=60)
    return folder / "program"


def nm(program):
    listing = subprocess.check_output(["nm", "-n", program], text=True, timeout=60)
    rows = (line.split() for line in listing.splitlines())
    return {(int(row[0], 16), row[2]) for row in rows if len(row) == 3 and row[1] in PLACES}


def test_the_symbols_are_those_that_nm_tells(program):
    symbols = Symbols.load(program)
    assert set(symbols) == nm(program)
    assert {"counter", "buffer", "answer", "maybe", "helper", "same", "entry", "_start"} <= {
        name for _, name in symbols
    }
    assert symbols.address("CONSTANT") is None


def test_what_nm_prints_gives_the_same_names(program, tmp_path):
    (tmp_path / "map").write_bytes(subprocess.check_output(["nm", program], timeout=60))
    by_text, by_table = Symbols.load(tmp_path / "map"), Symbols.load(program)
    for _, name in by_table:
        address = by_table.address(name)
        assert by_text.address(name) == address
        assert by_text.name(address + 1).partition("+")[0] in [each for at, each in by_table if at == address]


def test_a_stripped_program_is_told_to_have_none(program, tmp_path):
    subprocess.run(["strip", "-o", tmp_path / "stripped", program], check=True, timeout=60)
    with pytest.raises(KernelImageError, match=r"has no symbols: no symbol table, and none that Linux makes"):
        Symbols.load(tmp_path / "stripped")


def damaged(program, tmp_path, offset, content):
    data = bytearray(program.read_bytes())
    data[offset : offset + len(content)] = content
    (tmp_path / "damaged").write_bytes(data)
    return tmp_path / "damaged"


@pytest.mark.parametrize(
    ("offset", "content", "words"),
    [
        (4, b"\x03", "class 3"),
        (5, b"\x02", "byte order 2"),
        ({32: 0x20, 64: 0x28}, struct.pack("<I", 0x7FFFFFFF), "cut short"),
        ({32: 0x2E, 64: 0x3A}, struct.pack("<H", 24), "headers of 24 bytes, not"),
        ({32: 0x2C, 64: 0x38}, struct.pack("<H", 0xFFFF), "cut short"),
    ],
)
def test_headers_that_cannot_be_are_refused(offset, content, words, program, tmp_path):
    bits = {1: 32, 2: 64}[program.read_bytes()[4]]
    at = offset[bits] if isinstance(offset, dict) else offset
    with pytest.raises(KernelImageError, match=words):
        Symbols.load(damaged(program, tmp_path, at, content))


@given(data=st.data())
@settings(max_examples=60)
def test_whatever_the_headers_say_symbols_are_read_or_refused(program, tmp_path_factory, data):
    content = bytearray(program.read_bytes())
    headers = st.one_of(st.integers(0, 200), st.integers(len(content) - 700, len(content) - 9))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(headers)
        content[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(content)
    with contextlib.suppress(KernelImageError):
        assert len(Symbols.load(path)) < 100


def elf_of(sections):
    """A 64-bit ELF file with those sections (kind, link, content), laid out one behind the other."""
    at = 64 + 64 * len(sections)
    headers, contents = [], []
    for kind, link, content in sections:
        headers.append(struct.pack("<2I4Q2I2Q", 0, kind, 0, 0, at, len(content), link, 0, 0, 24))
        contents.append(content)
        at += len(content)
    start = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    fields = (2, 62, 1, 0, 0, 64, 0, 64, 56, 0, 64, len(sections), 0)
    return b"".join([start, struct.pack("<HHIQQQIHHHHHH", *fields), *headers, *contents])


def entry(name, number):
    return struct.pack("<IBBHQQ", name, 2, 0, 1, 0xFFFFFFFF81000000 + number, 8)


SHT_SYMTAB, SHT_STRTAB = 2, 3


@pytest.mark.parametrize("end", [b"", b"\0"])
def test_names_without_an_end_and_endless_ones_are_none(tmp_path, end):
    table = b"".join(entry(name, number) for number, name in enumerate([0, *[6] * 50_000]))
    strings = b"start\0" + b"x" * 16 * MIB + end
    (tmp_path / "file").write_bytes(elf_of([(SHT_SYMTAB, 1, table), (SHT_STRTAB, 0, strings)]))
    began = time.process_time()
    assert [name for _, name in Symbols.load(tmp_path / "file")] == ["start"]
    assert time.process_time() - began < 10  # less than one on an idle machine; 800 GB of names would take a minute


def test_a_file_has_one_symbol_table(tmp_path):
    table = (SHT_SYMTAB, 1, entry(0, 0))
    (tmp_path / "file").write_bytes(elf_of([table, (SHT_STRTAB, 0, b"start\0"), *[table] * 100]))
    assert len(Symbols.load(tmp_path / "file")) == 1
