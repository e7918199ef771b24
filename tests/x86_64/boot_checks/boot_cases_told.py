"""Offences of what the kernel is told: zero page, start info, multiboot information, command line, initrd."""

import attrs
from boot_plans import (
    CPIO,
    ENTRY,
    PVH_TEXT,
    all_of,
    content,
    dropped,
    file_gone,
    header,
    line,
    number,
    piece,
    poke,
    regs,
    unchanged,
)

from anyvisor.memory import MIB
from anyvisor.x86_64.setup_header import LoadFlags

RAM_END = 256 * MIB
LINE = 0x20000
SENTINEL = 0x7000 + 0x1EF
START_INFO = INFORMATION = 0x6000


def initrd_at(address):
    return header(ramdisk_image=address, ramdisk_size=len(CPIO))


def without_devices(plan):
    return attrs.evolve(plan, devices=tuple(each for each in plan.devices if each.kind != "serial"))


def cut(plan):
    """The kernel's piece without the room that is kept free behind it."""
    return attrs.evolve(
        plan,
        blobs=tuple(
            attrs.evolve(each, size_bytes=len(each.content)) if each.name == "kernel" else each for each in plan.blobs
        ),
    )


NO_INITRD = all_of(header(ramdisk_image=0, ramdisk_size=0), dropped("initrd"))

CASES = [
    ("handover-found", "RSI elsewhere", "bzimage", regs(rsi=0x8000), unchanged),
    ("handover-found", "RSI off by one", "vmlinux", regs(rsi=0x7001), unchanged),
    ("handover-found", "EBX elsewhere", "pvh", regs(rbx=0x6008), regs(rbx=0x1_0000_6000)),
    ("handover-found", "EAX without the magic", "multiboot", regs(rax=0), regs(rax=0x1_2BAD_B002)),
    ("handover-found", "no signature", "bzimage", poke(0x7202, b"HdrT"), unchanged),
    ("handover-readable", "too many ranges", "bzimage", poke(0x71E8, b"\xff"), unchanged),
    ("handover-readable", "an unknown type of memory", "pvh", number(START_INFO + 56 + 32 + 16, "I", 77), unchanged),
    ("handover-readable", "a list that is too long", "pvh", number(START_INFO + 12, "I", 5000), unchanged),
    ("handover-readable", "no flags", "multiboot", number(INFORMATION, "I", 0), unchanged),
    ("zero-page-header", "no loader, and an initrd", "bzimage", header(type_of_loader=0), header(type_of_loader=0x21)),
    ("zero-page-header", "boot flag", "vmlinux", header(boot_flag=0), unchanged),
    ("zero-page-header", "sentinel", "bzimage", poke(SENTINEL, b"\xff"), poke(SENTINEL + 1, b"\xff")),
    ("zero-page-header", "LOADED_HIGH", "bzimage", header(loadflags=LoadFlags(0)), unchanged),
    ("kernel-place", "must be elsewhere", "bzimage", header(relocatable_kernel=0, pref_address=0x2000000, init_size=0),
     header(relocatable_kernel=0)),
    ("kernel-place", "not aligned", "bzimage", header(min_alignment=25), header(min_alignment=24)),
    ("pvh-start-info", "no memory map", "pvh", number(START_INFO + 0x30, "I", 0), unchanged),
    # the command line
    ("command-line-ends", "no NUL, zeros behind", "bzimage", line(lambda old: old[:-1]), unchanged),
    ("command-line-ends", "into the next piece", "pvh",
     all_of(line(b"console=ttyS0".ljust(64, b" ")), piece(LINE + 64, b"more\0")),
     line(b"console=ttyS0".ljust(63, b" ") + b"\0")),
    ("command-line-ends", "too long by one", "bzimage", line(b"console=ttyS0".ljust(2048) + b"\0"),
     line(b"console=ttyS0".ljust(2047) + b"\0")),
    ("command-line-ends", "no NUL within the limit", "vmlinux", line(b"console=ttyS0".ljust(0x10001)), unchanged),
    ("command-line-ends", "too long for Linux by PVH", "pvh", line(b"console=ttyS0".ljust(2048) + b"\0"),
     line(b"console=ttyS0".ljust(2047) + b"\0")),
    ("command-line-ends", "nothing loaded", "multiboot", number(INFORMATION + 16, "I", 0x30000), unchanged),
    ("command-line-ends", "outside RAM", "multiboot", number(INFORMATION + 16, "I", RAM_END), unchanged),
    ("command-line-text", "control characters", "bzimage", line(b"console=ttyS0 \x01\0"),
     line(b"console=ttyS0\t\xc3\xa4\0")),
    ("console", "none", "bzimage", line(b"panic=-1\0"), line(b"earlyprintk=serial,ttyS0\0")),
    ("console", "none by PVH", "pvh", line(b"quiet\0"),
     all_of(line(b"quiet\0"), poke(ENTRY + PVH_TEXT.index(b"linux"), b"other"))),
    ("console", "no such device", "bzimage", line(b"console=ttyS1,115200\0"), line(b"console=ttyS1 console=tty0\0")),
    ("console", "no serial device at all", "bzimage", without_devices, all_of(without_devices, line(b"quiet\0"))),
    # the initrd
    ("initrd-loaded", "elsewhere", "bzimage", initrd_at(0x8000000), unchanged),
    ("initrd-loaded", "too long", "pvh", number(START_INFO + 56 + 8, "Q", len(CPIO) + 1), unchanged),
    ("initrd-loaded", "too short", "bzimage", header(ramdisk_size=len(CPIO) - 1), unchanged),
    ("initrd-loaded", "outside RAM", "bzimage", initrd_at(RAM_END - 4), unchanged),
    ("initrd-apart", "in init_size", "bzimage",
     all_of(dropped("initrd"), cut, piece(ENTRY + 0x7FF000, CPIO), initrd_at(ENTRY + 0x7FF000)),
     all_of(dropped("initrd"), cut, piece(ENTRY + 0x800000, CPIO), initrd_at(ENTRY + 0x800000))),
    ("initrd-limit", "too high", "bzimage", header(initrd_addr_max=0x800000),
     header(initrd_addr_max=0x800000, xloadflags=3)),
    ("initrd-content", "no archive", "bzimage", content("initrd", b"x" * len(CPIO)),
     content("initrd", bytes(4) + CPIO[:-4])),
    ("initrd-content", "zeros", "pvh", content("initrd", bytes(len(CPIO))),
     content("initrd", b"hsqs".ljust(len(CPIO)))),
    ("root-file-system", "none", "bzimage", NO_INITRD,
     all_of(NO_INITRD, line(b"console=ttyS0 root=/dev/vda\0"))),
    ("pieces-readable", "gone", "bzimage", file_gone("initrd"), unchanged),
    ("pieces-readable", "shorter", "bzimage", file_gone("initrd", len(CPIO) - 1), unchanged),
]  # fmt: skip
