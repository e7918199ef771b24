"""What dmidecode and biosdecode say of tables that are given to them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import attrs
import pytest

DMIDECODE, BIOSDECODE = shutil.which("dmidecode"), shutil.which("biosdecode")
needs_dmidecode = pytest.mark.skipif(
    not DMIDECODE or not BIOSDECODE, reason="install dmidecode, which brings biosdecode (Debian: dmidecode)"
)
COMPLAINTS = re.compile(
    r"invalid|broken|\bbad\b|truncated|wrong|out of spec|inconsistent|not supported\.|#.*failed", re.I
)


@attrs.frozen
class Shown:
    """One structure as dmidecode shows it: type, title, and its lines `name: value`."""

    type: int
    length: int
    title: str
    values: dict[str, str]
    text: str


def run(program: str | None, *arguments: object) -> str:
    assert program
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout + done.stderr


def dmidecode(dump: bytes, folder: Path) -> list[Shown]:
    """The structures of a dump, each as shown; fails when dmidecode complains of anything."""
    file = folder / "dump.bin"
    file.write_bytes(dump)
    output = run(DMIDECODE, "--from-dump", file)
    assert not COMPLAINTS.search(output), output
    return [shown(part) for part in output.split("\n\n") if part.startswith("Handle")]


def shown(text: str) -> Shown:
    head, title, *lines = text.splitlines()
    kind, length = re.match(r"Handle 0x\w+, DMI type (\d+), (\d+) bytes", head).groups()
    values = dict(re.findall(r"^\t([^\t:]+): (.*)$", "\n".join(lines), re.MULTILINE))
    return Shown(int(kind), int(length), title, values, text)


def biosdecode(memory: bytes, folder: Path) -> str:
    """What biosdecode finds in the first MiB."""
    file = folder / "memory.bin"
    file.write_bytes(memory)
    return run(BIOSDECODE, "-d", file)
