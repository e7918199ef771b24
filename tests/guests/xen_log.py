"""What Xen says on its first serial port, and what of it must be so on a machine of ours."""

from __future__ import annotations

import re

COMMAND_LINE = "console=com1 com1=115200,8n1 loglvl=all"
DOM0_MISSING = "dom0 kernel not specified"
BANNER = re.compile(r"^\(XEN\) Xen version 4\.\d+\.\d+ \(Debian [^)]+\)", re.MULTILINE)
MEMORY_MAP = """\
(XEN) Multiboot-e820 RAM map:
(XEN)  [0000000000000000, 000000000009dfff] (usable)
(XEN)  [000000000009e000, 00000000000fffff] (reserved)
(XEN)  [0000000000100000, 000000002fffffff] (usable)
"""
"""What Xen makes of the memory map of a machine with 768 MiB."""
COMPLAINTS = re.compile(r"ACPI (Error|Warning|Exception)|Firmware Bug|checksum|ACPI: (Invalid|Unable)|BIOS bug", re.I)
"""How it speaks of tables that it does not believe."""


def text(log: str) -> str:
    """The log with plain line ends."""
    return log.replace("\r", "")


def shows_handover(log: str, command_line: str) -> bool:
    """Whether Xen says which Xen it is, who loaded it, and the command line that it was given, without its own name."""
    lines = text(log).splitlines()
    told = ["(XEN) Bootloader: anyvisor", f"(XEN) Command line: {command_line}"]
    return bool(BANNER.search(log)) and all(line in lines for line in told)


def complaints(log: str) -> list[str]:
    """The lines in which Xen complains about tables of ours."""
    return [line for line in text(log).splitlines() if COMPLAINTS.search(line)]
