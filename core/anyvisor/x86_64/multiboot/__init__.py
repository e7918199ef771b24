"""Multiboot 1, the boot protocol of GRUB: how Xen and many small kernels are booted.

Some facts about it (GNU Multiboot Specification 0.6.96). A kernel marks itself by a header, which the loader looks for
in the file (`header`); the header or the ELF file around it says what goes where (`image`). The kernel is entered in
32-bit protected mode without paging and without a stack, EAX a magic number that says that a multiboot loader did it,
EBX the address of a structure (`information`) that leads to all that the loader has to tell: the memory map, the
command line, modules (`handover`). The registers are with those of the other protocols, in `x86_64.registers`.
"""

from anyvisor.x86_64.multiboot.handover import Handover, Module, multiboot_params
from anyvisor.x86_64.multiboot.header import Header, HeaderFlags, find_header
from anyvisor.x86_64.multiboot.image import load_kernel, speaks_multiboot
from anyvisor.x86_64.multiboot.information import InfoFlags, MultibootInfo

__all__ = [
    "Handover",
    "Header",
    "HeaderFlags",
    "InfoFlags",
    "Module",
    "MultibootInfo",
    "find_header",
    "load_kernel",
    "multiboot_params",
    "speaks_multiboot",
]
