"""What memory shows: the page walks of the addresses that matter, the code, the stack."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from anyvisor.section import Section
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.disassembly import Instruction, around
from anyvisor.x86_64.paging_modes import paging_of

STACK_WORDS = 16
ZEROS_SHOWN = 2
ARROW, NO_ARROW = "-> ", "   "


def code(scene: Scene) -> Iterator[Section]:
    """The instructions around RIP, disassembled where capstone is installed."""
    if scene.rip is None:
        return
    found = around(scene.read, scene.rip, scene.bits, start=scene.function_start(scene.rip))
    lines = [line for is_empty, run in itertools.groupby(found, _is_zeros) for line in _lines(scene, [*run], is_empty)]
    place = scene.place(scene.rip)
    yield Section("Code", "\n".join([f"around {place}", *lines]) if lines else f"no code can be read at {place}", found)


def _is_zeros(instruction: Instruction) -> bool:
    return not any(instruction.code)


def _lines(scene: Scene, run: list[Instruction], is_empty: bool) -> Iterator[str]:
    """Instructions, a line each; of zeros the first few are enough."""
    shown = run[:ZEROS_SHOWN] if is_empty and all(each.address != scene.rip for each in run[ZEROS_SHOWN:]) else run
    yield from ((ARROW if each.address == scene.rip else NO_ARROW) + str(each) for each in shown)
    if len(shown) < len(run):
        yield f"{NO_ARROW}... and more zeros"


def page_walks(scene: Scene) -> Iterator[Section]:
    """The entries on the way of RIP, RSP and CR2; none while paging is off."""
    paging = paging_of(scene.sregs) if scene.sregs else None
    if scene.sregs is None or paging is None:
        return
    lines = [f"{paging.name}, CR3 {scene.sregs.cr3:#x}"]
    wanted = {"RIP": scene.rip, "CR2": scene.sregs.cr2 or None, "RSP": scene.rsp}
    walks = {name: scene.walk(address) for name, address in wanted.items() if address is not None}
    for name, walk in walks.items():
        lines += [f"{name} {walk.address:#x}", *(f"  {line}" for line in walk.describe().splitlines())]
    yield Section("Page walks", "\n".join(lines), walks)


def stack(scene: Scene) -> Iterator[Section]:
    """The words from the stack pointer on, with the symbols that they may be return addresses of."""
    if scene.rsp is None:
        return
    size = scene.bits // 8
    data = scene.read(scene.rsp, STACK_WORDS * size)
    found = [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data) - size + 1, size)]
    lines: list[str] = []
    for word, run in itertools.groupby(enumerate(found), key=lambda each: each[1] or None):
        at, count = (numbered := list(run))[0][0], len(numbered)
        words = f"{word or 0:#0{2 + 2 * size}x}{scene.name(word) if word else ''}"
        lines.append(f"{scene.rsp + at * size:#x}  {words}" + f"  ({count} times)" * (count > 1))
    yield Section("Stack", "\n".join(lines) or f"RSP {scene.rsp:#x} leads to no memory", found)
