"""QEMU's processor running the guests of `event_guests`, from their image in RAM to the HLT or the triple fault.

Its RAM is a file that both sides see. Its firmware is a jump to BOOT at the reset vector.
"""

import shutil
import struct
import subprocess
import time

import pytest
from event_guests import BOOT, RAM_BYTES, Outcome, log

from anyvisor.exits import Halted, Shutdown
from qmp import ask

QEMU = "qemu-system-x86_64"
MACHINE_BYTES, FIRMWARE_BYTES = 1 << 20, 1 << 16
PATIENCE_SECONDS = 30
STAY = "reboot=shutdown,shutdown=pause"
"""A triple fault stops the machine; the process stays, as one that ends amid an answer may never do so."""


def need_qemu():
    if not shutil.which(QEMU):
        pytest.skip("install QEMU (Debian: qemu-system-x86) to have it judge")


def firmware() -> bytes:
    """JMP FAR 0:BOOT at the reset vector."""
    return bytes(FIRMWARE_BYTES - 16) + (b"\xea" + struct.pack("<HH", BOOT, 0)).ljust(16, b"\xf4")


def run_on_qemu(guest, folder) -> Outcome:
    """What becomes of a guest on QEMU; `folder` is for its RAM and firmware."""
    ram, bios = folder / "ram", folder / "firmware"
    ram.write_bytes(guest.image().ljust(MACHINE_BYTES, b"\0"))
    bios.write_bytes(firmware())
    memory = f"memory-backend-file,id=ram,mem-path={ram},share=on,size={MACHINE_BYTES}"
    machine = ["-object", memory, "-M", "isapc,memory-backend=ram", "-m", "1M", "-accel", "tcg", "-cpu", "max"]
    silent = ["-nodefaults", "-display", "none", "-action", STAY, "-bios", bios, "-qmp", "stdio"]
    process = subprocess.Popen([QEMU, *machine, *silent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        left = _wait(process)
    finally:
        process.kill()
        process.communicate()
    image = ram.read_bytes()[:RAM_BYTES]
    return Outcome(left, image, tuple(log(image, guest.mode)))


def _wait(process):
    """Until it halts, with no interrupts to wait for, or is stopped by a reset."""
    until = time.monotonic() + PATIENCE_SECONDS
    ask(process, "qmp_capabilities")
    while time.monotonic() < until:
        if ask(process, "query-status")["status"] == "shutdown":
            return Shutdown()
        registers = ask(process, "human-monitor-command", **{"command-line": "info registers"})
        if "HLT=1" in registers:
            return Halted()
        time.sleep(0.01)
    raise AssertionError(f"the guest did not come to its end:\n{registers}")
