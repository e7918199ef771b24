"""CS and TR as a processor has them once a guest has loaded them: accessed, and busy."""

import attrs
from emulated_guests import HALT

from anyvisor.x86_64.state import Sregs

LOAD = f"mov $0x28, %ax; ltr %ax; push $0x38; lea 1f(%rip), %rax; push %rax; lretq; 1: {HALT}"
TSS, CODE_64 = 0x0000_8900_0000_0067, 0x00AF_9A00_0000_FFFF  # available; 64-bit code that is not accessed


def test_what_the_guest_loads_is_accessed_and_busy(guest):
    made = guest(LOAD)
    sregs = made.vcpu.get(Sregs)
    made.memory.write(0x600 + 0x28, TSS.to_bytes(16, "little") + CODE_64.to_bytes(8, "little"))
    made.vcpu.put(attrs.evolve(sregs, gdt=attrs.evolve(sregs.gdt, limit=0x3F)))
    made.run()
    found = made.vcpu.get(Sregs)
    assert (found.tr.selector, found.tr.type) == (0x28, 0xB)
    assert (found.cs.selector, found.cs.type) == (0x38, 0xB)


def test_what_is_put_stays_as_it_is(guest):
    made = guest()
    sregs = made.vcpu.get(Sregs)
    wanted = attrs.evolve(sregs, cs=attrs.evolve(sregs.cs, type=0xA), tr=attrs.evolve(sregs.tr, type=9))
    made.vcpu.put(wanted)
    assert made.vcpu.get(Sregs) == wanted
