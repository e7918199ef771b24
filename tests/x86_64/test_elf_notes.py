"""Notes of ELF files: read as the gABI lays them out, and bounded whatever their sizes say."""

import os
import re
import shutil
import subprocess

import pytest
from kernel_images import Patch, elf, note

from anyvisor.errors import KernelImageError
from anyvisor.image_file import ImageFile
from anyvisor.x86_64.elf import Elf
from anyvisor.x86_64.elf_notes import notes

HEADERS = {32: 52 + 32, 64: 64 + 56}
"""Where the header of the notes lies in a file of one segment."""


def read(path, data):
    path.write_bytes(data)
    return [(each.name, each.type, each.descriptor) for each in notes(Elf.read(ImageFile.open(path)))]


@pytest.mark.parametrize("bits", [32, 64])
def test_notes_come_in_their_order_whatever_their_lengths(bits, tmp_path):
    content = (
        note(b"GNU\0", 3, b"12345") + note(b"", 7, b"") + note(b"stapsdt\0", 1, b"x") + note(b"Xen\0", 18, b"1234")
    )
    found = read(tmp_path / "elf", elf(notes=content, bits=bits))
    assert found == [(b"GNU", 3, b"12345"), (b"", 7, b""), (b"stapsdt", 1, b"x"), (b"Xen", 18, b"1234")]


def test_notes_are_filled_up_to_eight_bytes_where_the_program_header_says_so(tmp_path):
    content = note(b"longer\0", 1, b"12345", alignment=8) + note(b"GNU\0", 5, b"123", alignment=8)
    assert read(tmp_path / "elf", elf(notes=content, alignment=8)) == [(b"longer", 1, b"12345"), (b"GNU", 5, b"123")]


@pytest.mark.parametrize("alignment", [0, 1, 4, 16, 0x1000])
def test_any_other_alignment_means_four(alignment, tmp_path):
    content = note(b"GNU\0", 3, b"12345") + note(b"Xen\0", 18, b"1234")
    assert len(read(tmp_path / "elf", elf(notes=content, alignment=alignment))) == 2


def test_a_file_without_notes_has_none(tmp_path):
    assert read(tmp_path / "elf", elf()) == []
    assert read(tmp_path / "elf", elf(notes=b"\0" * 8)) == []  # too short for one


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(
    ("field", "value", "words", "at_header"),
    [
        ("offset", 1 << 30, "beyond the end of the file", True),
        ("size", 1 << 30, "claims 1073741824 bytes of notes", True),
        ("size", 64, "beyond the end of the file", True),
        ("name", 1 << 31, "beyond the end of its notes", False),
        ("descriptor", 0xFFFFFFFF, "beyond the end of its notes", False),
        ("descriptor", 5, "beyond the end of its notes", False),
    ],
)
def test_sizes_that_cannot_be_are_named_with_their_place(bits, field, value, words, at_header, tmp_path):
    header, content = HEADERS[bits], note(b"Xen\0", 18, b"1234")
    start = len(elf(notes=content, bits=bits)) - len(content)
    where = {
        "offset": (header + (4 if bits == 32 else 8), "I" if bits == 32 else "Q"),
        "size": (header + (16 if bits == 32 else 32), "I" if bits == 32 else "Q"),
        "name": (start, "I"),
        "descriptor": (start + 4, "I"),
    }
    with pytest.raises(KernelImageError, match=words) as error:
        read(tmp_path / "elf", elf(notes=content, bits=bits, patches=(Patch(*where[field], value),)))
    assert error.value.offset == (header if at_header else start)


def test_what_the_linker_makes_is_read_as_readelf_reads_it(tmp_path):
    if not (shutil.which("gcc") and shutil.which("readelf")):
        assert os.environ.get("CI") != "true"
        pytest.skip("apt-get install gcc binutils")
    source, out = tmp_path / "tiny.S", tmp_path / "tiny"
    lines = [
        '.section .note.Xen, "a", @note; .long 4, 8, 18; .asciz "Xen"; .quad 0x1000000',
        '.section .note.odd, "a", @note; .long 6, 3, 77; .asciz "Owner"; .balign 4; .ascii "abc"; .balign 4',
        ".globl _start; .text; _start: hlt",
    ]
    source.write_text("\n".join(lines) + "\n")
    subprocess.run(["gcc", "-nostdlib", "-static", "-Wl,--build-id=sha1", "-o", out, source], check=True, timeout=60)
    listing = subprocess.check_output(["readelf", "-nW", out], text=True, timeout=60)
    expected = [(name, int(size, 16)) for name, size in re.findall(r"^ +(\w+) +0x(\w{8})", listing, re.MULTILINE)]
    found = list(notes(Elf.read(ImageFile.open(out))))
    assert len(expected) == 3
    assert sorted((each.name.decode(), len(each.descriptor)) for each in found) == sorted(expected)
    (build_id,) = (each.descriptor.hex() for each in found if each.name == b"GNU")
    assert build_id in listing
