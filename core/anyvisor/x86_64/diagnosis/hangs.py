"""Why an x86_64 guest goes nowhere: it waits, spins or polls.

Some facts about waiting. HLT ends with the next interrupt; with RFLAGS.IF clear only an NMI, an SMI or INIT ends it
(SDM Vol. 2, HLT). A loop without exits ends by what it computes, by another processor that writes to memory, or by the
handler of an interrupt, of which there is none with IF clear. A loop that reads a port or MMIO ends by a device that
answers otherwise, and where there is no device every read gives all ones.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

from anyvisor.diagnosis.evidence import Evidence
from anyvisor.diagnosis.report import Cause
from anyvisor.flight import NotedExit
from anyvisor.hypervisor import Vcpu
from anyvisor.plan import DeviceSpec
from anyvisor.x86_64.diagnosis.instruction import take_apart
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.disassembly import MAX_INSTRUCTION_BYTES, disassemble
from anyvisor.x86_64.state import Activity, MpState, Regs

LOOP_BYTES = 64
"""The most code that counts as a small loop."""
POLLS = 16
"""As many reads of one address make a poll."""
DELAY = ("port", 0x80)
"""A write there does nothing but take time, and loops that poll make some."""
SHOWN_INSTRUCTIONS = 12
POLLED_ADDRESSES = 3
"""A loop that polls may touch a few others, such as a port that gives delay."""
JUMPS = frozenset((*range(0x70, 0x80), *range(0xE0, 0xE4), 0xE9, 0xEB, *range(0x0F80, 0x0F90)))
"""The opcodes of relative jumps; the immediate is how far from their end they lead."""
ALWAYS = frozenset((0xE9, 0xEB))
HLT = 0xF4
HLT_MANUAL = "SDM Vol. 2, HLT-Halt"


def instruction_pointer(vcpu: Vcpu) -> int:
    """Where a vCPU that does not run will go on: RIP."""
    return vcpu.get(Regs).rip


def describe_halt(vcpu: Vcpu) -> str:
    """How a vCPU halted that nothing wakes, in words."""
    regs = vcpu.get(Regs)
    how = "with interrupts on, but nothing can send one" if regs.rflags.interrupt_enable else "with interrupts off"
    return f"vCPU {vcpu.index} halted {how}, before rip {regs.rip:#x}"


def describe_hang(evidence: Evidence) -> Cause | None:
    """Why a guest that was watched goes nowhere; None for one that does not look as if it hung."""
    scene = Scene(evidence)
    if scene.regs is None or not evidence.rips:
        return None
    return _not_started(scene) or _halted(scene) or _polls(evidence) or _spins(scene)


def _not_started(scene: Scene) -> Cause | None:
    state = scene.evidence.state(MpState)
    if state is None or state.activity not in (Activity.UNINITIALIZED, Activity.INIT_RECEIVED):
        return None
    summary = f"vCPU {scene.evidence.vcpu} waits to be started by another (INIT, then a startup IPI)"
    return Cause("not-started", summary, section="SDM Vol. 3, 9.4.4", weight=10)


def _halted(scene: Scene) -> Cause | None:
    """Most looks found it behind a HLT; with interrupts on it may have been elsewhere, too, and may be now."""
    evidence, regs = scene.evidence, scene.regs
    usual, count = collections.Counter(evidence.rips).most_common(1)[0]
    if regs is None or 2 * count < len(evidence.rips):
        return None
    state = evidence.state(MpState)
    is_there = regs.rip == usual
    is_halted = is_there and state is not None and state.activity is Activity.HALTED
    place = _base(scene) + usual
    if not is_halted and scene.number(place - 1, 1) != HLT:
        return None
    if regs.rflags.interrupt_enable or not is_there:
        return _waits(evidence.vcpu, scene.place(place))
    return None if evidence.watched_exits else _halted_for_good(evidence.vcpu, scene.place(place))


def _waits(vcpu: int, place: str) -> Cause:
    return Cause(
        "halted-waiting",
        f"vCPU {vcpu} waits in HLT for an interrupt, before {place}",
        ("an idle guest does this: it may wait for input, a timer or a device",),
        "if it should be doing something, see which interrupt it waits for and whether its device raises it",
        HLT_MANUAL,
        weight=20,
    )


def _halted_for_good(vcpu: int, place: str) -> Cause:
    return Cause(
        "halted-interrupts-off",
        f"vCPU {vcpu} is halted with interrupts off, before {place}: only an NMI could wake it",
        ("RFLAGS.IF is clear, and nothing left the guest while it was watched",),
        "a kernel that has given up does this; see its last console lines, and the stack for who called",
        HLT_MANUAL,
        weight=80,
    )


def _base(scene: Scene) -> int:
    """Where RIP counts from, as linear addresses do not: the base of CS, outside 64-bit mode."""
    return 0 if scene.rip is None or scene.regs is None else scene.rip - scene.regs.rip


def _polls(evidence: Evidence) -> Cause | None:
    """One address is read again and again."""
    if not evidence.watched_exits:
        return None
    accesses = [each for each in evidence.last_exits[-evidence.watched_exits :] if each.exit is None]
    reads = [each for each in accesses if each.kind in ("in", "read")]
    writes = [each for each in accesses if each not in reads and (_space(each), each.address) != DELAY]
    if 4 * len(writes) > len(accesses):  # it tells a device something: it may be printing
        return None
    if len(reads) < POLLS or len({each.address for each in accesses}) > POLLED_ADDRESSES:
        return None
    space, address = collections.Counter((_space(each), each.address) for each in reads).most_common(1)[0][0]
    same = [each for each in reads if (_space(each), each.address) == (space, address)]
    seen = f"{len(same)} of the last {len(accesses)} accesses read it, and {_answer(same)}"
    where = f"{'port' if space == 'port' else 'MMIO address'} {address:#x}"
    if count := evidence.unclaimed.get((space, address)):
        return Cause(
            "polling-nobody",
            f"vCPU {evidence.vcpu} polls {where}, which no device answers, {count} times so far",
            (seen, "what no device answers reads as all ones"),
            "add a device that answers there (anyvisor_devices), or tell the kernel that there is none",
            weight=85,
        )
    name = _device(evidence.plan.devices, space, address)
    return Cause(
        "polling-device",
        f"vCPU {evidence.vcpu} polls {where}{f' of {name}' if name else ''}",
        (seen,),
        "see what the guest waits for there: input, or a bit that the device never sets",
        weight=60,
    )


def _answer(reads: Sequence[NotedExit]) -> str:
    values = {each.value for each in reads}
    last = reads[-1].value
    return f"the answer was {last:#x} every time" if len(values) == 1 and last is not None else "answers differ"


def _space(access: NotedExit) -> str:
    return "port" if access.kind in ("in", "out") else "mmio"


def _device(devices: Sequence[DeviceSpec], space: str, address: int) -> str:
    for each in devices:
        if any(region.contains(address) for region in (each.ports if space == "port" else each.mmio)):
            return each.name
    return ""


def _spins(scene: Scene) -> Cause | None:
    """RIP stays in a few bytes, and nothing leaves the guest."""
    evidence = scene.evidence
    if evidence.watched_exits != 0 or max(evidence.rips) - min(evidence.rips) >= LOOP_BYTES:
        return None
    base = _base(scene)
    loop = _loop(scene, base + min(evidence.rips), base + max(evidence.rips))
    if loop is None:
        return None
    start, end = loop
    who, what = f"vCPU {evidence.vcpu}", f"a loop of {end - start} bytes at {scene.place(start)}"
    code = disassemble(scene.read(start, end - start), start, scene.bits)[:SHOWN_INSTRUCTIONS]
    looks = f"{len(evidence.rips)} looks found RIP there, and nothing left the guest meanwhile"
    interrupts = scene.regs is not None and scene.regs.rflags.interrupt_enable
    others = ["another vCPU"] * (len(evidence.plan.vcpus) > 1)
    decides = ["what it looks at or computes"] * _decides(scene, start, end)
    enders = " or ".join(decides + ["an interrupt's handler"] * bool(interrupts) + others)
    ends = f"{'on' if interrupts else 'off'}: {f'only {enders} can end it' if enders else 'nothing can end it'}"
    remedy = (
        "see what it waits for in memory" if enders else "much code jumps to itself when it gives up: see who called"
    )
    return Cause(
        "spinning",
        f"{who} spins in {what}, with interrupts {ends}",
        (looks, *map(str, code)),
        remedy,
        weight=40 if interrupts else 80 if decides else 90,
    )


def _decides(scene: Scene, start: int, end: int) -> bool:
    """Whether a loop has a jump that depends on something."""
    code, at = scene.read(start, end - start), 0
    while found := take_apart(code[at:], scene.bits):
        at += found.length
        if found.opcode in JUMPS - ALWAYS:
            return True
    return False


def _loop(scene: Scene, first: int, last: int) -> tuple[int, int] | None:
    """Where the loop begins and ends that RIP was seen in from `first` to `last`.

    It ends with the jump back to `first` or before it. Where none is found it is what RIP was seen in; None for a
    single place, since an emulated processor may stop only where a block of code begins, and that may be a large one.
    """
    code = scene.read(first, LOOP_BYTES + MAX_INSTRUCTION_BYTES)
    at, end = first, last + 1
    while at - first < LOOP_BYTES and (found := take_apart(code[at - first :], scene.bits)):
        at += found.length
        if at > last and first - LOOP_BYTES < at + found.immediate <= first and found.opcode in JUMPS:
            return at + found.immediate, at
        end = at if at - found.length == last else end
    return (first, end) if first < last else None
