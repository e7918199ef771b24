"""Reads core files as debuggers do: by their program headers, the first that fits, and their notes."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

LOAD, NOTE = 1, 4
PRSTATUS = 1
X86_64 = 62


class Load(NamedTuple):
    virtual: int
    physical: int
    offset: int
    size: int


PLACES = {1: (32, "<I", 28, 42, "<8I", (0, 1, 2, 3, 4)), 2: (64, "<Q", 32, 54, "<2I6Q", (0, 2, 3, 4, 5))}
"""By ELF's class: its bits, where the header tells of the program headers, and how and where what is in those."""


class ElfCore:
    """A core of 32 or 64 bits."""

    def __init__(self, path):
        self.data = Path(path).read_bytes()
        assert (self.data[:4], self.data[5:7]) == (b"\x7fELF", b"\x01\x01")
        self.bits, word, start_at, count_at, header, order = PLACES[self.data[4]]
        self.type, self.machine = struct.unpack_from("<HH", self.data, 16)
        (start,), (size, count) = (
            struct.unpack_from(form, self.data, at) for form, at in ((word, start_at), ("<HH", count_at))
        )
        found = [struct.unpack_from(header, self.data, start + index * size) for index in range(count)]
        headers = [[each[place] for place in order] for each in found]
        self.loads = [
            Load(virtual, physical, at, size) for kind, at, virtual, physical, size in headers if kind == LOAD
        ]
        self.notes = [note for kind, at, *_, size in headers if kind == NOTE for note in self._notes(at, at + size)]

    def _notes(self, at, end):
        while at < end:
            name_size, size, kind = struct.unpack_from("<III", self.data, at)
            start = at + 12 + -(-name_size // 4) * 4
            yield self.data[at + 12 :][:name_size].rstrip(b"\0").decode(), kind, self.data[start : start + size]
            at = start + -(-size // 4) * 4

    def note(self, name, kind=0, index=0):
        return [content for *which, content in self.notes if which == [name, kind]][index]

    @property
    def instruction_pointer(self):
        """That of the first processor."""
        at, form = (112 + 16 * 8, "<Q") if self.machine == X86_64 else (72 + 12 * 4, "<I")
        return struct.unpack_from(form, self.note("CORE", PRSTATUS), at)[0]

    def physical_of(self, virtual):
        """Where gdb would read; None where it could not."""
        return next((virtual - each.virtual + each.physical for each in self.loads if _has(each, virtual)), None)

    def read(self, virtual, size):
        load = next(each for each in self.loads if _has(each, virtual))
        start = load.offset + virtual - load.virtual
        return self.data[start : start + size]

    def read_physical(self, physical, size):
        load = next(each for each in self.loads if 0 <= physical - each.physical < each.size)
        start = load.offset + physical - load.physical
        return self.data[start : start + size]


def _has(load, virtual):
    return 0 <= virtual - load.virtual < load.size


def tool(name, package):
    """A program that CI has; elsewhere a test without it is skipped."""
    if not shutil.which(name):
        assert os.environ.get("CI") != "true", f"no {name}"
        pytest.skip(f"apt-get install {package}")
    return name


def gdb(*arguments, commands=()):
    """What gdb prints."""
    spoken = [part for each in commands for part in ("-ex", each)]
    command = [tool("gdb", "gdb"), "-nx", "-batch", *spoken, *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DEBUGINFOD")}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=50, env=environment)
    return done.stdout + done.stderr


def check_by_readelf(path):
    """binutils understands every part of the file."""
    command = [tool("readelf", "binutils"), "-aW", path]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=50)
    assert "warning" not in (done.stdout + done.stderr).lower(), done.stderr
