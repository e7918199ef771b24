"""QEMU's machines as they are when their firmware is done: their ACPI tables lie in memory."""

import shutil
import subprocess
import time

import pytest

from anyvisor.errors import PlanError
from anyvisor.memory import Region
from anyvisor.x86_64.acpi.read import read_tables
from qmp import ask

QEMU = shutil.which("qemu-system-x86_64")
needs_qemu = pytest.mark.skipif(QEMU is None, reason="install QEMU (Debian: qemu-system-x86) to have it judge")
FIRMWARE_SECONDS = 30
SEARCHED = Region(0xE0000, 0x20000)
"""Where an OS looks for the RSDP on a PC."""


def node(number, cpus, size):
    memory = f"memory-backend-ram,id=ram{number},size={size}"
    return ["-object", memory, "-numa", f"node,nodeid={number},memdev=ram{number},cpus={cpus}"]


MACHINES = {
    "pc": ["-M", "pc", "-m", "32", "-smp", "3,maxcpus=5"],
    "pc-no-hpet": ["-M", "pc,hpet=off,smm=off", "-m", "32", "-smp", "1"],
    "pc-sparse": ["-M", "pc", "-m", "32", "-smp", "6,sockets=2,cores=3,threads=1"],
    "q35": ["-M", "q35,hpet=on", "-m", "32", "-smp", "4"],
    "q35-255": ["-M", "q35", "-m", "32", "-smp", "1,maxcpus=255"],
    "q35-numa": [
        "-M", "q35", "-m", "64", "-smp", "4", *node(0, "0-1", "48M"), *node(1, "2-3", "16M"),
        "-numa", "dist,src=0,dst=1,val=31",
    ],
    "microvm": ["-M", "microvm,acpi=on,rtc=on,pic=on,pit=on", "-m", "32", "-smp", "2"],
}  # fmt: skip


class Qemu:
    """An emulated machine whose firmware has nothing to boot, and its memory."""

    def __init__(self, options, folder):
        self.file = folder / "memory"
        quiet = ["-accel", "tcg", "-nodefaults", "-display", "none", "-qmp", "stdio"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([QEMU, *options, *quiet], stdin=pipe, stdout=pipe, text=True)
        self.command("qmp_capabilities")

    def command(self, name, **arguments):
        return ask(self.process, name, **arguments)

    def read(self, address, size):
        self.command("pmemsave", val=address, size=size, filename=str(self.file))
        return self.file.read_bytes()

    def rsdp(self):
        """Where the firmware left the RSDP, once all that it leads to is there."""
        area = self.read(SEARCHED.start, SEARCHED.size_bytes)
        places = [at for at in range(0, SEARCHED.size_bytes, 16) if area.startswith(b"RSD PTR ", at)]
        for at in places:
            try:
                return read_tables(self.read, SEARCHED.start + at).address
            except PlanError:
                continue
        return None

    def wait_for_rsdp(self):
        end = time.monotonic() + FIRMWARE_SECONDS
        while time.monotonic() < end:
            if (found := self.rsdp()) is not None:
                return found
            time.sleep(0.1)
        raise AssertionError(f"the firmware left no ACPI tables within {FIRMWARE_SECONDS} seconds")

    def close(self):
        self.process.kill()
        self.process.communicate()
