"""What a live look says of a guest that is well: while it boots, while it waits for input, and while it computes."""

import struct
import time

from anyvisor.diagnosis.live import describe_hang, watch

LOOKS = 5
BASE = 0x8048000
HEADERS_BYTES = 52 + 32
IDLE = ("halted-waiting", "not-started")
"""What a guest that waits for input is said to do, and a processor that was never started."""


def spinning_i386(count):
    """A program for i386, as an ELF file: it counts down from `count`, and exits."""
    code = b"\xb9" + struct.pack("<I", count)  # mov ecx, count
    code += b"\x49\x75\xfd"  # again: dec ecx; jnz again
    code += b"\x31\xdb\x8d\x43\x01\xcd\x80"  # xor ebx, ebx; lea eax, [ebx + 1]; int 0x80
    size = HEADERS_BYTES + len(code)
    ident = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    header = ident + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, BASE + HEADERS_BYTES, 52, 0, 0, 52, 32, 1, 40, 0, 0)
    return header + struct.pack("<8I", 1, 0, BASE, BASE, size, size, 5, 0x1000) + code


def said(machine):
    """What a few looks name as causes, as failed checks, or as missing."""
    found = []
    for _ in range(LOOKS):
        time.sleep(0.02)
        for report in machine.inspect().reports:
            found += [cause.name for cause in report.causes]
            found += [str(finding) for finding in report.findings]
            found += report.notes
    return found


def hangs(machine):
    """What a watch of some hundred milliseconds takes the vCPUs for, but idle."""
    causes = [describe_hang(each) for each in watch(machine)]
    return [cause.name for cause in causes if cause and cause.name not in IDLE]


def check_idle_and_busy(machine):
    """A shell that waits, then one that computes."""
    time.sleep(0.5)  # until it has written its prompt
    assert said(machine) == []
    assert hangs(machine) == []
    machine.console.write("while :; do :; done &\n")
    time.sleep(0.5)
    assert said(machine) == []
    assert hangs(machine) == []
    machine.console.write("kill $!\n")
