"""What only guests in protected mode meet: 286 gates, 16-bit stacks, bases and limits, stacks of the TSS."""

import struct

import attrs
from event_case import EXT, GP, NOBODY, QEMU, SS, TS, UD, dying
from event_code import link
from event_layout import (
    ABSENT_DATA,
    BASED_DATA,
    CODE16,
    DATA16,
    DOWN_DATA,
    INTERRUPT16,
    KERNEL_CODE,
    KERNEL_DATA,
    NOTHING,
    OWN_HANDLER,
    PROTECTED,
    RING1_CODE,
    RING1_DATA,
    SMALL_CODE,
    SMALL_DATA,
    TASK,
    TRAP16,
    TSS,
    USER_DATA,
    gate,
)


def own(name, source, handler, patches, *, vector=UD, entry=None, **options):
    """In protected mode, a handler of the guest's own: nothing is logged but what it logs itself."""
    entry = {} if entry is None else entry
    pieces = {
        **gate(PROTECTED, vector, offset=OWN_HANDLER, **entry),
        OWN_HANDLER: link(handler, OWN_HANDLER),
        **patches,
    }
    made = dying(PROTECTED, name, source, (UD, 0), patches=pieces, judges=QEMU, **options)
    return attrs.evolve(made, events=[])


STORE_ESP = ".code{0}; mov %esp, %ds:0x700; mov %ss, %eax; mov %eax, %ds:0x704; pushf; hlt"


def legacy_only():
    """What only protected mode has: 286 gates, 16-bit stacks, stacks of the TSS that are none."""
    stack16 = f"mov ${DATA16}, %eax; mov %eax, %ss"

    def ring1(name, ss0, vector, index, judges=QEMU, tss=None, **options):
        """#TS and #SS are handled at CPL 1. There the stack is put right, and UD2 tells of it."""
        handler = f".code32; movl ${KERNEL_DATA}, {TSS + 8}; pop %eax; mov %eax, 0x700; ud2"
        patches = {
            **gate(PROTECTED, vector, selector=RING1_CODE, offset=OWN_HANDLER),
            OWN_HANDLER: link(handler, OWN_HANDLER),
            TSS + 8: struct.pack("<I", ss0),
        }
        made = dying(PROTECTED, name, "ud2", (UD, 0), user=True, judges=judges, patches=patches, **options)
        return attrs.evolve(made, left_behind={0x700: struct.pack("<I", index | EXT)})

    return [
        own("286 interrupt gate", "sti; std; ud2", STORE_ESP.format(32), {}, entry={"kind": INTERRUPT16}),
        own("286 trap gate", "sti; ud2", STORE_ESP.format(32), {}, entry={"kind": TRAP16}),
        own(
            "286 gate with an error code",
            f"mov ${NOTHING}, %eax; mov %eax, %ds",
            STORE_ESP.format(32),
            {},
            vector=GP,
            entry={"kind": TRAP16},
        ),
        own("286 gate for users", "ud2", STORE_ESP.format(32), {}, entry={"kind": INTERRUPT16}, user=True),
        own("16-bit handler", "ud2", STORE_ESP.format(16), {}, entry={"selector": CODE16}),
        own(
            "16-bit handler of a 286 gate for users",
            "ud2",
            STORE_ESP.format(16),
            {},
            entry={"selector": CODE16, "kind": INTERRUPT16},
            user=True,
        ),
        own("16-bit stack", f"{stack16}; mov $0xABCD8F00, %esp; ud2", STORE_ESP.format(32), {}),
        own("16-bit stack goes round", f"{stack16}; mov $4, %esp; ud2", STORE_ESP.format(32), {}),
        own(
            "16-bit stack for users",
            "ud2",
            STORE_ESP.format(32),
            {TSS + 4: struct.pack("<II", 0x9F00, DATA16)},
            user=True,
        ),
        own("stack that does not begin at 0", f"mov ${BASED_DATA}, %eax; mov %eax, %ss; ud2", STORE_ESP.format(32), {}),
        own(
            "stack for users that does not begin at 0",
            "ud2",
            STORE_ESP.format(32),
            {TSS + 8: struct.pack("<I", BASED_DATA)},
            user=True,
        ),
        own(
            "data that does not begin at 0",
            f"mov ${BASED_DATA}, %eax; mov %eax, %ds; mov %eax, %es; ud2",
            STORE_ESP.format(32),
            {},
        ),
        own("stack that expands down", f"mov ${DOWN_DATA}, %eax; mov %eax, %ss; ud2", STORE_ESP.format(32), {}),
        own("stack of a 16-bit TSS", "ud2", STORE_ESP.format(32), {}, user=True, tss=16),
        dying(PROTECTED, "stack beyond its limit", f"mov ${SMALL_DATA}, %eax; mov %eax, %ss; ud2", judges=NOBODY),
        dying(
            PROTECTED,
            "expand-down stack below its limit",
            f"mov ${DOWN_DATA}, %eax; mov %eax, %ss; mov $0x8008, %esp; ud2",
            judges=NOBODY,
        ),
        dying(
            PROTECTED,
            "handler beyond its segment",
            "ud2",
            (GP, EXT),
            judges=NOBODY,
            patches=gate(PROTECTED, UD, selector=SMALL_CODE, offset=OWN_HANDLER),
        ),
        ring1("null SS0", 0, TS, 0, judges=NOBODY),
        ring1("SS0 of users", USER_DATA, TS, USER_DATA & ~3, judges=NOBODY),
        ring1("SS0 with another RPL", KERNEL_DATA | 1, TS, KERNEL_DATA, judges=NOBODY),
        ring1("SS0 of another DPL", RING1_DATA & ~3, TS, RING1_DATA & ~3, judges=NOBODY),
        ring1("SS0 is code", KERNEL_CODE, TS, KERNEL_CODE, judges=NOBODY),
        ring1("SS0 beyond the GDT", 0x108, TS, 0x108, judges=NOBODY),
        ring1("SS0 not present", ABSENT_DATA, SS, ABSENT_DATA, judges=NOBODY),
        ring1("SS0 too small", SMALL_DATA, SS, SMALL_DATA, judges=NOBODY),
        dying(
            PROTECTED,
            "TSS too short",
            "ud2",
            (TS, TASK | EXT),
            user=True,
            judges=NOBODY,
            tss_limit=11,
            patches=gate(PROTECTED, UD, selector=RING1_CODE),
        ),
    ]
