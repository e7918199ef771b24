"""ACPICA's tools as judges of our AML: iasl, the compiler and disassembler, and acpiexec, the interpreter of Linux."""

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

needs_acpica = pytest.mark.skipif(
    not (shutil.which("iasl") and shutil.which("acpiexec")), reason="needs iasl and acpiexec: apt install acpica-tools"
)
HEADER_BYTES = 36
COMPLAINT = re.compile(
    r"(?!0 )\b\d+ (Errors|Warnings|Remarks)|error|warning|remark|invalid|AE_\w+|not found", re.IGNORECASE
)
NO_SRS = "AcpiSetCurrentResources failed: AE_NOT_FOUND"
SILENT = "0 Errors, 0 Warnings, 0 Remarks"


def table(body: bytes, signature: bytes = b"DSDT") -> bytes:
    """A table with that body and a right checksum."""
    size = HEADER_BYTES + len(body)
    header = struct.pack("<4sIBB6s8sI4sI", signature, size, 2, 0, b"TESTER", b"TESTABLE", 1, b"TEST", 1)
    raw = bytearray(header + body)
    raw[9] = -sum(raw) % 256
    return bytes(raw)


def run(directory: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, errors="replace", timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def disassemble(directory: Path, body: bytes, signature: bytes = b"DSDT") -> str:
    """The ASL of a body; iasl found nothing to complain of."""
    (directory / "ours.aml").write_bytes(table(body, signature))
    told = run(directory, "iasl", "-d", "ours.aml")
    assert not COMPLAINT.search(told), told
    asl = (directory / "ours.dsl").read_text()
    assert not re.search(r"error|warning|unknown|invalid", asl, re.IGNORECASE), asl
    return asl


def compiled(directory: Path, asl: str, silent: str = SILENT) -> bytes:
    """The body that iasl makes of ASL, with names left as they are written; it says that it is content."""
    (directory / "theirs.dsl").write_text(asl)
    told = run(directory, "iasl", "-on", "-p", "theirs", "theirs.dsl")
    assert silent in told, told
    return (directory / "theirs.aml").read_bytes()[HEADER_BYTES:]


def compiled_terms(directory: Path, *terms: str) -> bytes:
    """The same for a few terms of a DSDT, which need not make sense to an OS: warnings are none of our business."""
    lines = "\n".join(terms)
    asl = f'DefinitionBlock ("", "DSDT", 2, "TESTER", "TESTABLE", 1) {{\n{lines}\n}}'
    return compiled(directory, asl, silent=" 0 Errors")


def interpret(directory: Path, command: str, *tables: bytes) -> str:
    """What ACPICA's interpreter says to commands, after it loaded the tables and found nothing to complain of.

    The command `resources` also tries to set them, which takes an `_SRS` that nobody promised.
    """
    names = []
    for number, raw in enumerate(tables):
        names.append(f"table{number}.aml")
        (directory / names[-1]).write_bytes(raw)
    told = run(directory, "acpiexec", "-b", f"{command};quit", *names)  # without `quit` it waits for a second
    complaints = [
        line
        for line in told.splitlines()
        if re.search(r"error|warning|AE_|exception|fault", line, re.IGNORECASE) and line != NO_SRS
    ]
    assert not complaints, told
    assert f"{len(tables)} ACPI AML tables successfully acquired and loaded" in told
    return told
