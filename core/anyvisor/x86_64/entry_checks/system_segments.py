"""TR and LDTR: the task-state segment that there must be, and the local descriptor table that there may be."""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.x86_64.descriptors import SystemType, system_words
from anyvisor.x86_64.entry_checks.check import Broken, check
from anyvisor.x86_64.entry_checks.state import SYSTEM, Known
from anyvisor.x86_64.state import SegmentRegister

SEGMENTS = "SDM Vol. 3, 27.3.1.2"
TABLE_INDICATOR = 4
KINDS = {"tr": "task-state segment", "ldt": "local descriptor table"}


def shown(name: str) -> str:
    """A segment register by its manual's name."""
    return "LDTR" if name == "ldt" else name.upper()


def _usable(known: Known) -> Iterator[tuple[str, SegmentRegister]]:
    return ((name, segment) for name, segment in known.segments(*SYSTEM) if not segment.unusable)


@check("tr-is-usable", "TR holds a task-state segment, and one that is present.", intel=SEGMENTS)
def tr_usable(known: Known) -> Iterator[Broken]:
    """In every mode: the processor reads I/O permissions and stacks there."""
    for _, segment in known.segments("tr"):
        if segment.unusable or not segment.present:
            found = f"selector {segment.selector:#x}, {'unusable' if segment.unusable else 'not present'}"
            remedy = "load TR with a busy task-state segment, of which no byte need be in memory"
            yield Broken("TR", "holds no segment that is present", found, "present and usable", remedy)


@check("tr-is-busy", "TR holds a busy task-state segment, in long mode a 64-bit one.", intel=SEGMENTS)
def tr_busy(known: Known) -> Iterator[Broken]:
    """LTR marks the segment that it loads as busy. Before the first, TR holds what INIT has left: a 16-bit one."""
    busy = (SystemType.TSS_BUSY,) if known.long_mode else (SystemType.TSS16_BUSY, SystemType.TSS_BUSY)
    for _, segment in known.segments("tr"):
        if segment.unusable or segment.s or segment.type in busy:
            continue
        if known.live and not known.rules and not segment.selector and segment.type == SystemType.TSS16_BUSY:
            continue  # of an AMD's; on one of Intel's the hypervisor makes it a 64-bit one
        found = f"type {segment.type:#x} ({system_words(segment.type, wide=known.long_mode)})"
        wanted = " or ".join(f"{each:#x} ({system_words(each, wide=known.long_mode)})" for each in reversed(busy))
        yield Broken("TR", "holds no busy task-state segment", found, f"type {wanted}", "Segment.tss(busy=True)")


@check("ldtr-is-a-table", "LDTR holds a present local descriptor table, or is unusable.", intel=SEGMENTS)
def ldtr_table(known: Known) -> Iterator[Broken]:
    """Most guests have none."""
    for name, segment in _usable(known):
        if name == "tr" or segment.s or (segment.type == SystemType.LDT and segment.present):
            continue
        kind = system_words(segment.type, wide=known.long_mode)
        found = f"type {segment.type:#x} ({kind}){'' if segment.present else ', not present'}"
        wanted = f"type {SystemType.LDT:#x} (local descriptor table), present"
        yield Broken("LDTR", "holds no local descriptor table", found, wanted, "mark LDTR unusable")


@check("system-segments-are-system", "TR and LDTR hold system descriptors: S is clear.", intel=SEGMENTS)
def system_descriptors(known: Known) -> Iterator[Broken]:
    """S is set for code and data."""
    for name, segment in _usable(known):
        if segment.s:
            remedy = f"load {shown(name)} with a {KINDS[name]}"
            yield Broken(
                shown(name), "holds a code or data segment", f"S set, type {segment.type:#x}", "S clear", remedy
            )


@check("system-segments-are-global", "TR and LDTR are selected from the global descriptor table.", intel=SEGMENTS)
def global_selectors(known: Known) -> Iterator[Broken]:
    """Bit 2 of a selector means the local table."""
    for name, segment in known.segments(*SYSTEM):
        if segment.selector & TABLE_INDICATOR and (name == "tr" or not segment.unusable):
            found = f"selector {segment.selector:#x} (TI set)"
            problem = "is selected from a local descriptor table"
            yield Broken(shown(name), problem, found, "TI clear", "use a selector of the GDT")
