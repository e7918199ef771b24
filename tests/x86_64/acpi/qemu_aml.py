"""The AML tables in the memory of QEMU's machines, once SeaBIOS has put them there."""

import contextlib
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from qmp import ask

QEMU = "qemu-system-x86_64"
needs_qemu = pytest.mark.skipif(not shutil.which(QEMU), reason=f"needs {QEMU}: apt install qemu-system-x86")
RAM_BYTES = 64 << 20
SECONDS = 30
VIRTIO = ["-object", "rng-builtin,id=r", "-device", "virtio-rng-device,rng=r"]
MACHINES = {
    "pc": ["-M", "pc", "-smp", "2,maxcpus=4"],
    "q35": ["-M", "q35", "-device", "pcie-root-port,id=root1,chassis=1"],
    "microvm": ["-M", "microvm,acpi=on,rtc=on,isa-serial=on", *VIRTIO],
}


def aml_tables(machine: str, directory: Path) -> list[bytes]:
    """Every DSDT and SSDT there, the bytes of each."""
    command = ["timeout", "-k", "5", "60", QEMU, *MACHINES[machine], "-m", str(RAM_BYTES >> 20), "-accel", "tcg"]
    options = ["-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio"]
    process = subprocess.Popen([*command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        return _when_there(process, directory / "memory")
    finally:
        process.terminate()
        with contextlib.suppress(ValueError):
            process.communicate(timeout=10)


def _when_there(process: subprocess.Popen[str], file: Path) -> list[bytes]:
    ask(process, "qmp_capabilities")
    for _ in range(SECONDS * 5):
        time.sleep(0.2)
        ask(process, "pmemsave", val=0, size=RAM_BYTES, filename=str(file))
        memory = file.read_bytes()
        if any(sum(memory[at : at + 20]) % 256 == 0 for at in _places(memory[0xE0000:0x100000], b"RSD PTR ", 0xE0000)):
            return [raw for at in _places(memory, b"DSDT|SSDT") if (raw := _table(memory, at))]
    raise AssertionError(f"SeaBIOS made no tables in {SECONDS} s")


def _places(memory: bytes, pattern: bytes, base: int = 0) -> list[int]:
    return [base + found.start() for found in re.finditer(pattern, memory)]


def _table(memory: bytes, at: int) -> bytes | None:
    size = int.from_bytes(memory[at + 4 : at + 8], "little")
    raw = memory[at : at + size]
    return raw if 36 < size == len(raw) and sum(raw) % 256 == 0 else None
