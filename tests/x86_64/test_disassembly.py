"""Instructions in words with capstone, judged by objdump; and as bytes without."""

import importlib.util
import itertools
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import GuestMemoryError
from anyvisor.x86_64 import disassembly
from anyvisor.x86_64.disassembly import BAD, Instruction, around, disassemble

ADDRESS = 0x401000
CODE = bytes(
    [
        0x55,  # push rbp
        0x48,
        0x89,
        0xE5,  # mov  rbp, rsp
        0xE6,
        0x19,  # out  0x19, al
        0x48,
        0x8D,
        0x05,
        0,
        1,
        0,
        0,  # lea  rax, [rip + 0x100]
        0xF4,
    ]
)  # hlt
# fmt: off
WORDS = ["push rbp", "mov rbp, rsp", "out 0x19, al", "lea rax, [rip + 0x100]", "hlt"]
# fmt: on


@pytest.fixture
def without_capstone(monkeypatch):
    monkeypatch.setitem(sys.modules, "capstone", None)
    disassembly._decoder.cache_clear()
    yield
    monkeypatch.undo()
    disassembly._decoder.cache_clear()


def memory(content, address=ADDRESS, *, short=True):
    """Reads a piece of memory: what of it is there, or an error where nothing is."""

    def read(at, size_bytes):
        if not address <= at < address + len(content):
            raise GuestMemoryError(f"{at:#x}")
        found = content[at - address : at - address + size_bytes]
        if len(found) < size_bytes and not short:
            raise GuestMemoryError(f"{at:#x}")
        return found

    return read


def test_code_is_told_in_words():
    found = disassemble(CODE, ADDRESS, 64)
    assert [each.text for each in found] == WORDS
    assert [each.address - ADDRESS for each in found] == [0, 1, 4, 6, 13]
    assert b"".join(each.code for each in found) == CODE
    assert found[-1].end == ADDRESS + len(CODE)


def test_an_instruction_prints_as_a_line():
    assert str(disassemble(CODE, ADDRESS, 64)[1]).split("  ")[0] == "0x401001"
    assert re.fullmatch(r"0x401001  48 89 e5 +mov rbp, rsp", str(disassemble(CODE, ADDRESS, 64)[1]))
    assert str(Instruction(0x1000, b"\xf4")) == "0x1000  f4"


@pytest.mark.parametrize(("bits", "words"), [(16, ["mov ax, 0x1234", "hlt"]), (32, ["mov eax, 0xf41234"])])
def test_the_mode_of_the_code_counts(bits, words):
    assert [each.text for each in disassemble(b"\xb8\x34\x12\xf4\x00"[: 4 if bits == 16 else 5], 0, bits)] == words


def test_only_so_many_are_told():
    assert [each.text for each in disassemble(CODE, ADDRESS, 64, count=2)] == WORDS[:2]
    assert disassemble(CODE, ADDRESS, 64, count=0) == []
    assert disassemble(b"", ADDRESS, 64) == []


def test_a_byte_that_begins_no_instruction_is_bad_and_the_rest_goes_on():
    found = disassemble(b"\x06\xf4\x06\x06\x90", ADDRESS, 64)
    assert [each.text for each in found] == [BAD, "hlt", BAD, BAD, "nop"]
    assert [len(each.code) for each in found] == [1] * 5


@pytest.mark.parametrize("size", [1, 3, 6])
def test_an_instruction_whose_end_is_missing_has_no_text(size):
    assert disassemble(CODE[6 : 6 + size], ADDRESS, 64) == [Instruction(ADDRESS, CODE[6 : 6 + size])]


@given(st.binary(max_size=80), st.sampled_from([16, 32, 64]))
def test_every_byte_is_in_one_instruction(code, bits):
    found = disassemble(code, ADDRESS, bits)
    assert b"".join(each.code for each in found) == code
    assert all(one.end == other.address for one, other in itertools.pairwise(found))
    assert all(1 <= len(each.code) <= 15 for each in found)


# -- around an instruction -----------------------------------------------------------------------------------


def test_the_instructions_around_one_are_told():
    found = around(memory(CODE), ADDRESS + 4, 64)
    assert [each.text for each in found] == WORDS
    assert [each.text for each in around(memory(CODE), ADDRESS + 4, 64, before=1, after=1)] == WORDS[1:4]
    assert [each.text for each in around(memory(CODE), ADDRESS + 4, 64, before=0, after=0)] == WORDS[2:3]


@given(st.binary(min_size=1, max_size=200), st.data())
def test_one_begins_exactly_where_it_is_asked_for(code, data):
    rip = ADDRESS + data.draw(st.integers(0, len(code) - 1))
    found = around(memory(code), rip, 64)
    assert rip in [each.address for each in found]
    assert len([each for each in found if each.address < rip]) <= 6
    assert all(one.end == other.address for one, other in itertools.pairwise(found))


@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize("side", ["before", "behind", "both"])
def test_memory_that_ends_at_a_page_is_no_trouble(side, short):
    nops = bytes([0x90]) * 0x1000
    at = {"before": 2, "behind": 0xFFF, "both": 0x800}[side]
    found = around(memory(nops, 0x1000, short=short), 0x1000 + at, 64)
    wanted = range(max(0, at - 6), min(0x1000, at + 11))
    assert [each.address - 0x1000 for each in found] == list(wanted)


def test_where_no_memory_is_nothing_is_told():
    assert around(memory(b""), ADDRESS, 64) == []
    assert around(memory(CODE, 0), 0, 16)[0].address == 0


def test_a_known_beginning_is_believed():
    """Bytes before the function that would swallow its first instruction."""
    code = b"\x48\xb8" + CODE  # mov rax, an immediate of 8 bytes
    rip = ADDRESS + 2 + 4
    assert [each.text for each in around(memory(code), rip, 64, start=ADDRESS + 2)] == WORDS
    assert [each.text for each in around(memory(CODE), ADDRESS, 64, start=ADDRESS)] == WORDS
    assert [each.text for each in around(memory(CODE), ADDRESS + 4, 64, start=ADDRESS + 6)] == WORDS
    assert [each.text for each in around(memory(CODE), ADDRESS + 4, 64, start=0)] == WORDS


# -- judged by objdump ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listing():
    """Code of this very machine as objdump reads it: the bytes of a stretch, and the address and name of each line."""
    if not shutil.which("objdump"):
        pytest.skip("apt-get install binutils")
    program = shutil.which("bash")
    sections = subprocess.check_output(["objdump", "-h", program], text=True, timeout=60)
    start, offset = (int(each, 16) for each in re.search(r"\.text +\w+ +(\w+) +\w+ +(\w+)", sections).groups())
    with Path(program).open("rb") as file:
        file.seek(offset + 0x8000)
        code = file.read(0x8000)
    start += 0x8000
    command = ["objdump", "-d", "-M", "intel", "--no-show-raw-insn", "-j", ".text"]
    span = [f"--start-address={start}", f"--stop-address={start + len(code)}"]
    text = subprocess.check_output([*command, *span, program], text=True, timeout=60)
    lines = re.findall(r"^ +([0-9a-f]+):\t(\S+)", text, re.MULTILINE)
    assert len(lines) > 5000
    return code, start, {int(address, 16): name for address, name in lines}


def test_objdump_reads_the_same_instructions(listing):
    """But for the last few, a stretch is read alike from its first instruction on, with mostly the same names."""
    code, start, lines = listing
    first = min(lines)
    found = {each.address: each.text for each in disassemble(code[first - start :], first, 64)}
    end = max(lines) - 64
    assert {each for each in found if each < end} == {each for each in lines if each < end}
    same = [found[at].split(" ")[0] == name for at, name in lines.items() if at < end]
    assert sum(same) / len(same) > 0.97


def test_objdump_sees_the_same_instructions_before_one(listing):
    code, start, lines = listing
    addresses = sorted(lines)
    places = random.Random(1).sample(range(60, len(addresses) - 60), 400)
    read = memory(code, start)
    wrong = 0
    for place in places:
        found = [each.address for each in around(read, addresses[place], 64)]
        wrong += found != addresses[place - 6 : place + 11]
    assert wrong <= 4


# -- without capstone ----------------------------------------------------------------------------------------


def test_without_capstone_code_is_lines_of_bytes(without_capstone):
    found = disassemble(CODE, ADDRESS, 64)
    assert found == [Instruction(ADDRESS, CODE[:8]), Instruction(ADDRESS + 8, CODE[8:])]
    assert disassemble(CODE, ADDRESS, 64, count=1) == found[:1]


def test_without_capstone_a_line_still_begins_at_the_instruction(without_capstone):
    found = around(memory(CODE), ADDRESS + 4, 64)
    assert found == [
        Instruction(ADDRESS, CODE[:4]),
        Instruction(ADDRESS + 4, CODE[4:12]),
        Instruction(ADDRESS + 12, CODE[12:]),
    ]
    assert [each.text for each in found] == [""] * 3


def test_capstone_is_not_imported_before_it_is_needed():
    program = "import sys, anyvisor.x86_64.disassembly; print('capstone' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True, timeout=60) == "False\n"
    assert importlib.util.find_spec("capstone"), "the tests need the extra `disasm`"
