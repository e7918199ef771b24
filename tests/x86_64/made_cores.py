"""Cores of memory and registers made by hand, read back, and the registers for them."""

import attrs

from anyvisor.memory import MIB, Region
from anyvisor.x86_64.control import Cr0, Cr4, Efer
from anyvisor.x86_64.elf_core import write_core
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import Regs, Sregs
from elf_cores import ElfCore, check_by_readelf

RESET = {type(state): state for state in reset_states()}
NUMBERED = Regs(*range(0x101, 0x111), rip=0xFFFFFFFF81001234, rflags=0x246)
PROTECTED = attrs.evolve(RESET[Sregs], cr0=Cr0(pe=True, pg=True), cr4=Cr4(pae=True))
LONG = attrs.evolve(PROTECTED, efer=Efer(lme=True, lma=True))
MACHINE_BYTES = 2 * MIB


def maker(folder):
    """A function that writes a core of some memory, and reads it."""

    def make(contents, *vcpus, regions=((0, MACHINE_BYTES),), **options):
        made = [Region(*each) for each in regions]
        views = {region: bytearray(region.size_bytes) for region in made}
        for address, data in contents.items():
            region = next(each for each in made if each.contains(address, len(data)))
            views[region][address - region.start : address - region.start + len(data)] = data
        path = folder / f"core{len(list(folder.iterdir()))}"
        written = write_core(path, [(each, memoryview(view)) for each, view in views.items()], vcpus, **options)
        check_by_readelf(path)
        return written, ElfCore(path)

    return make
