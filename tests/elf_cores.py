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


class Load(NamedTuple):
    virtual: int
    physical: int
    offset: int
    size: int


class ElfCore:
    """A core of 64 bits."""

    def __init__(self, path):
        self.data = Path(path).read_bytes()
        assert self.data[:7] == b"\x7fELF\x02\x01\x01"
        self.type, self.machine = struct.unpack_from("<HH", self.data, 16)
        (start,), (size, count) = struct.unpack_from("<Q", self.data, 32), struct.unpack_from("<HH", self.data, 54)
        headers = [struct.unpack_from("<IIQQQQQQ", self.data, start + index * size) for index in range(count)]
        self.loads = [Load(*each[3:5], each[2], each[5]) for each in headers if each[0] == LOAD]
        self.notes = [note for each in headers if each[0] == NOTE for note in self._notes(each[2], each[2] + each[5])]

    def _notes(self, at, end):
        while at < end:
            name_size, size, kind = struct.unpack_from("<III", self.data, at)
            start = at + 12 + -(-name_size // 4) * 4
            yield self.data[at + 12 :][:name_size].rstrip(b"\0").decode(), kind, self.data[start : start + size]
            at = start + -(-size // 4) * 4

    def note(self, name, kind=0, index=0):
        return [content for *which, content in self.notes if which == [name, kind]][index]

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
