"""Segment registers: what kinds of segments they hold, with which privilege, and where.

Some facts about what counts. A processor looks at the hidden part of a register and at no descriptor in memory. A
register that is not usable is not looked at, but for CS. The privilege level of a processor is that of SS.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from anyvisor.x86_64.descriptors import CodeType, DataType
from anyvisor.x86_64.entry_checks.check import Broken, check
from anyvisor.x86_64.entry_checks.state import CODE_AND_DATA, SYSTEM, Known
from anyvisor.x86_64.entry_checks.system_segments import SEGMENTS, shown
from anyvisor.x86_64.state import SegmentRegister

ACCESSED, EXECUTABLE = CodeType.accessed.mask, CodeType.executable.mask
NONCONFORMING, CONFORMING = (9, 11), (13, 15)
WRITABLE = int(DataType(accessed=True, writable=True))
"""The type of a data segment that grows up, can be written and is accessed."""
STACKS = (WRITABLE, WRITABLE | DataType.expand_down.mask)
CODE = (*NONCONFORMING, *CONFORMING)
VIRTUAL_8086_LIMIT = 0xFFFF


def kind(segment: SegmentRegister) -> str:
    """The type of a code or data segment in words: `type 0xb (code: accessed, readable)`."""
    name, bits = ("code", CodeType) if segment.type & EXECUTABLE else ("data", DataType)
    words = [each for each in bits.fields if each != "executable" and getattr(bits(segment.type), each)]
    return f"type {segment.type:#x} ({': '.join(filter(None, [name, ', '.join(words)]))})"


def _usable(known: Known, *names: str) -> Iterator[tuple[str, SegmentRegister]]:
    """Those that a processor looks at one by one: in virtual-8086 mode it wants all to be the same."""
    if known.virtual_8086:
        return
    for name, segment in known.segments(*names):
        if name == "cs" or not segment.unusable:
            yield name, segment


def _type(known: Known, segment: SegmentRegister) -> int:
    """The type that counts: of a segment that no descriptor was loaded for, or a live one, it is the accessed one's."""
    return segment.type if known.protected and not known.live else segment.type | ACCESSED


# -- kinds -------------------------------------------------------------------------------------------------------------


@check(
    "segments-are-present",
    "CS is present and usable, and so is every other segment, or marked unusable.",
    intel=SEGMENTS,
)
def present(known: Known) -> Iterator[Broken]:
    """TR and LDTR have checks of their own."""
    for name, segment in _usable(known, *CODE_AND_DATA):
        if segment.present and not (name == "cs" and segment.unusable):
            continue
        found = f"selector {segment.selector:#x}, {'unusable' if segment.unusable else 'not present'}"
        remedy = "load another segment" + ("" if name == "cs" else ", or mark the register unusable")
        yield Broken(shown(name), "holds no segment that is present", found, "present", remedy)


@check("segments-are-code-or-data", "CS, SS, DS, ES, FS and GS hold code or data: S is set.", intel=SEGMENTS)
def code_or_data(known: Known) -> Iterator[Broken]:
    """S is clear for system descriptors."""
    for name, segment in _usable(known, *CODE_AND_DATA):
        if not segment.s:
            found = f"S clear, type {segment.type:#x}"
            yield Broken(shown(name), "holds a system descriptor", found, "S set", "load a code or data segment")


@check("cs-is-code", "CS holds code that is marked accessed.", intel=SEGMENTS)
def cs_code(known: Known) -> Iterator[Broken]:
    """Or, as real mode leaves it, data that can be written."""
    for _, segment in _usable(known, "cs"):
        if segment.s and _type(known, segment) not in (*CODE, WRITABLE):
            problem = "holds code that is not marked accessed" if segment.type & EXECUTABLE else "holds no code"
            remedy = "select a code segment; Segment.code() is accessed, too"
            yield Broken("CS", problem, kind(segment), "a code segment, accessed", remedy)


@check("ss-is-writable", "SS holds data that can be written and is marked accessed.", intel=SEGMENTS)
def ss_writable(known: Known) -> Iterator[Broken]:
    """Unless it is unusable, as in 64-bit mode it may be."""
    for _, segment in _usable(known, "ss"):
        if segment.s and _type(known, segment) not in STACKS:
            wanted = "a data segment, writable, accessed"
            yield Broken(
                "SS", "holds no writable data that is marked accessed", kind(segment), wanted, "Segment.data()"
            )


@check("data-is-accessed", "DS, ES, FS and GS hold segments that are marked accessed.", intel=SEGMENTS)
def data_accessed(known: Known) -> Iterator[Broken]:
    """Loading a segment marks it so."""
    for name, segment in _usable(known, "ds", "es", "fs", "gs"):
        if segment.s and not _type(known, segment) & ACCESSED:
            remedy = "set bit 0 of the type"
            yield Broken(shown(name), "holds a segment that is not marked accessed", kind(segment), "accessed", remedy)


@check("data-is-readable", "Code in DS, ES, FS and GS can be read.", intel=SEGMENTS)
def data_readable(known: Known) -> Iterator[Broken]:
    """Data always can."""
    for name, segment in _usable(known, "ds", "es", "fs", "gs"):
        if segment.s and segment.type & EXECUTABLE and not segment.type & CodeType.readable.mask:
            wanted = "data, or code that is readable"
            yield Broken(shown(name), "holds code that cannot be read", kind(segment), wanted, "load a data segment")


# -- privilege ---------------------------------------------------------------------------------------------------------


@check(
    "cs-privilege", "CS has the privilege level of SS; conforming code may have a more privileged one.", intel=SEGMENTS
)
def cs_privilege(known: Known) -> Iterator[Broken]:
    """Data in CS, as real mode leaves it, has level 0."""
    stack = known.segment("ss")
    for _, segment in _usable(known, "cs"):
        if stack is None or not segment.s:
            continue
        held, found = _type(known, segment), f"CS.DPL {segment.dpl}, SS.DPL {stack.dpl}"
        if held in NONCONFORMING and segment.dpl != stack.dpl:
            yield Broken("CS", "has another privilege level than SS", found, "the same", "give both the same DPL")
        elif held in CONFORMING and segment.dpl > stack.dpl:
            yield Broken("CS", "is less privileged than SS", found, "CS.DPL at most SS.DPL", "lower CS.DPL")
        elif held == WRITABLE and segment.dpl:
            yield Broken("CS", "is data with a privilege level", found, "CS.DPL 0", "load a code segment")


@check("ss-privilege", "In real mode, or while CS holds data, SS has privilege level 0.", intel=SEGMENTS)
def ss_privilege(known: Known) -> Iterator[Broken]:
    """Its level is the processor's."""
    code, stack = known.segment("cs"), known.segment("ss")
    if known.virtual_8086 or stack is None or not stack.dpl:
        return
    real = known.cr0 is not None and not known.protected
    if real or (code is not None and code.s and _type(known, code) == WRITABLE):
        where = "in real mode" if real else "while CS holds data"
        yield Broken("SS", f"has a privilege level {where}", f"SS.DPL {stack.dpl}", "SS.DPL 0", "clear SS.DPL")


# -- sizes and places --------------------------------------------------------------------------------------------------


@check(
    "cs-has-one-size",
    "In long mode CS.L and CS.D are not both set.",
    intel=SEGMENTS,
    amd="APM Vol. 2, 15.5.1",
)
def cs_one_size(known: Known) -> Iterator[Broken]:
    """L means 64 bits, D means 32."""
    code = known.segment("cs")
    if code is not None and code.l and code.db and known.long_mode:
        yield Broken("CS", "has both L and D set", "L set, D set", "one of them clear", "clear D for 64-bit code")


@check(
    "code-64-needs-long-mode",
    "CS.L is set only in long mode.",
    intel="SDM Vol. 3, 3.4.5",
    amd="APM Vol. 2, 4.8.1",
)
def code_64(known: Known) -> Iterator[Broken]:
    """Outside long mode the bit is reserved; KVM refuses it."""
    code = known.segment("cs")
    if code is not None and code.l and known.efer is not None and not known.long_mode:
        remedy = "enter long mode, or select 32-bit code"
        yield Broken("CS", "is a 64-bit code segment outside long mode", "L set, EFER.LMA clear", "L clear", remedy)


@check("limits-fit-granularity", "A segment's limit is one that its G bit can say.", intel=SEGMENTS)
def granularity(known: Known) -> Iterator[Broken]:
    """With G a limit ends in 0xfff, without it it has 20 bits; a register holds it in bytes either way."""
    for name, segment in _usable(known, *CODE_AND_DATA, *SYSTEM):
        found = f"limit {segment.limit:#x}, G {'set' if segment.g else 'clear'}"
        if segment.g and segment.limit & 0xFFF != 0xFFF:
            wanted, remedy = "a limit that ends in 0xfff, or G clear", "use granularity BYTE"
        elif not segment.g and segment.limit >> 20:
            wanted, remedy = "a limit of 20 bits, or G set", "use granularity PAGE"
        else:
            continue
        yield Broken(shown(name), "has a limit that its granularity cannot say", found, wanted, remedy)


@check("bases-have-32-bits", "The bases of CS, SS, DS and ES have 32 bits.", intel=SEGMENTS)
def narrow_bases(known: Known) -> Iterator[Broken]:
    """64-bit mode takes them for 0."""
    for name, segment in _usable(known, "cs", "ss", "ds", "es"):
        if segment.base >> 32:
            problem, found = "has a base of more than 32 bits", f"base {segment.base:#x}"
            yield Broken(shown(name), problem, found, "bits 63-32 clear", "clear them; FS and GS can have such bases")


@check("bases-are-canonical", "The bases of FS, GS, TR and LDTR are canonical addresses.", intel=SEGMENTS)
def canonical_bases(known: Known) -> Iterator[Broken]:
    """Also those of FS and GS when they are unusable."""
    for name, segment in known.segments("fs", "gs", *SYSTEM):
        if not known.is_canonical(segment.base) and not (name == "ldt" and segment.unusable):
            wanted = f"an address of {known.linear_address_bits} bits, the highest repeated upwards"
            yield Broken(
                shown(name), "has a base that is not canonical", f"base {segment.base:#x}", wanted, "correct it"
            )


@check(
    "virtual-8086-segments",
    "In virtual-8086 mode every segment is 64 KiB of data of level 3 at 16 times its selector.",
    intel=SEGMENTS,
)
def virtual_8086(known: Known) -> Iterator[Broken]:
    """RFLAGS.VM in protected mode."""
    for name, segment in known.segments(*CODE_AND_DATA) if known.virtual_8086 else ():
        wanted = SegmentRegister(
            base=segment.selector << 4,
            limit=VIRTUAL_8086_LIMIT,
            selector=segment.selector,
            type=WRITABLE,
            s=True,
            dpl=3,
            present=True,
        )
        if segment != wanted:
            wrong = [each.name for each in attrs.fields(SegmentRegister) if _differ(each.name, segment, wanted)]
            yield Broken(
                shown(name), "is no segment of virtual-8086 mode", _named(wrong, segment), _named(wrong, wanted),
                "set it so, or clear RFLAGS.VM",
            )  # fmt: skip


def _differ(name: str, one: SegmentRegister, other: SegmentRegister) -> bool:
    return bool(getattr(one, name) != getattr(other, name))


def _named(names: list[str], segment: SegmentRegister) -> str:
    return ", ".join(f"{name} {getattr(segment, name):#x}" for name in names)
