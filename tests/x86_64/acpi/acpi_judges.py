"""ACPICA's tools as judges of whole sets of tables: iasl takes them apart and makes them again, acpiexec loads them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

needs_acpica = pytest.mark.skipif(
    not (shutil.which("iasl") and shutil.which("acpiexec")), reason="needs iasl and acpiexec: apt install acpica-tools"
)
COMPLAINT = re.compile(
    r"(?<!\b0 )\b(error|warning|remark)|checksum|invalid|unexpected|exception|mismatch|\bbug|unknown|truncated|exceeds",
    re.IGNORECASE,
)
OF_THE_COMPILER = {9, *range(28, 36)}
"""Where iasl's own name and version go in a table's header, and the checksum that makes good for it."""


def complaints(words: str) -> list[str]:
    return [line for line in words.splitlines() if COMPLAINT.search(line)]


def told(folder: Path, *command: str) -> str:
    """What a tool says, whether it is content or not."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=60, check=False
    )
    return f"{done.stdout}{done.stderr}\n(ended with {done.returncode})"


def run(folder: Path, *command: str) -> str:
    """What a tool says that ends as one that is content."""
    words = told(folder, *command)
    assert words.endswith("(ended with 0)"), words
    return words


def taken_apart(folder: Path, contents: dict[str, bytes]) -> dict[str, str]:
    """Tables as iasl prints them; it found nothing to complain of, and its text makes the same tables again."""
    for name, content in contents.items():
        (folder / f"{name}.dat").write_bytes(content)
    words = run(folder, "iasl", "-d", *(f"{name}.dat" for name in contents))
    assert not complaints(words), words
    words = run(folder, "iasl", *(f"{name}.dsl" for name in contents))
    assert "0 Errors, 0 Warnings, 0 Remarks" in words and words.count("Binary Output") == len(contents), words
    for name, content in contents.items():
        again = (folder / f"{name}.aml").read_bytes()
        own = set() if content.startswith(b"FACS") else OF_THE_COMPILER
        assert len(again) == len(content), name
        assert [at for at, (a, b) in enumerate(zip(again, content, strict=True)) if a != b and at not in own] == [], (
            name
        )
    return {name: (folder / f"{name}.dsl").read_text() for name in contents}


def fields(text: str) -> list[tuple[str, str]]:
    """The labels and values of a table that iasl printed, in their order."""
    return re.findall(r"^(?:\[[^\]]*\])? +([^:\n]+?) : (.*?) *$", text, re.MULTILINE)


def registers(text: str) -> dict[str, tuple[int, ...]]:
    """Generic addresses by their labels: space, bits, offset, access size, address."""
    found = fields(text)
    places = [index for index, (_, value) in enumerate(found) if value == "[Generic Address Structure]"]
    numbers = {at: tuple(int(value.split()[0], 16) for _, value in found[at + 1 : at + 6]) for at in places}
    return {found[at][0]: each for at, each in numbers.items()}


def loaded(folder: Path, blobs, command: str = "tables") -> str:
    """What ACPICA says when it loads tables (RSDP and XSDT it makes itself) and is given a command."""
    names = []
    for index, blob in enumerate(each for each in blobs if each.name not in {"RSDP", "XSDT", "FACS"}):
        names.append(f"{index}.dat")
        (folder / names[-1]).write_bytes(blob.content)
    return run(folder, "acpiexec", "-b", f"{command};quit", *names)  # without `quit` it waits for a second
