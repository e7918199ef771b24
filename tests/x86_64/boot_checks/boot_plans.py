"""Sound plans by every protocol, and what can be done to them: to registers, to memory, to what the kernel is told."""

import struct
import sys
from pathlib import Path

import attrs

sys.path.insert(0, str(Path(__file__).parent.parent))

from kernel_images import ENTRY, PACKERS, bzimage, elf, note, pvh_note

from anyvisor import MachineConfig, assemble, generic_facts
from anyvisor.config import Raw
from anyvisor.plan import Blob, FileSlice
from anyvisor.states import Change
from anyvisor.x86_64.bootparams import BootParams
from anyvisor.x86_64.state import Regs, Sregs
from multiboot_kernels import elf32

CPIO = b"070701" + b"0" * 104 + b"TRAILER!!!\0\0\0\0"
LINUX_TEXT = b"\x48\x8d\x25\x00\x00\x00\x00".ljust(0x400, b"\x90") + b"Linux version 6.1.0 (test)\n\0"
PVH_TEXT = b"\xf4" * 64 + pvh_note(ENTRY + 16) + note(b"Xen\0", 6, b"linux\0")
PAYLOAD = PACKERS["gzip"](b"vmlinux" * 100)
KERNELS = {
    "bzimage": (bzimage(payload=PAYLOAD), {"protocol": "linux64", "unpack": False}),
    "bzimage32": (bzimage(payload=PAYLOAD), {"protocol": "linux32", "unpack": False}),
    "vmlinux": (elf([(ENTRY, LINUX_TEXT, 0x4000)]), {"protocol": "linux64"}),
    "pvh": (elf([(ENTRY, PVH_TEXT, 0x4000)], notes=pvh_note(ENTRY + 16)), {"protocol": "pvh"}),
    "multiboot": (elf32(), {"protocol": "multiboot"}),
    "raw": (b"\xf4" * 64, {"protocol": "raw", "raw": Raw(mode="long")}),
    "raw-protected": (b"\xf4" * 64, {"protocol": "raw", "raw": Raw(mode="protected")}),
    "raw-real": (b"\xf4" * 64, {"protocol": "raw", "raw": Raw(address=0x7C00, mode="real")}),
}


def plan_of(name, folder, **config):
    """A sound plan: two vCPUs, 256 MiB, both kinds of tables, and an initrd where the protocol has one."""
    image, more = KERNELS[name]
    (folder / name).write_bytes(image)
    (folder / "initrd").write_bytes(CPIO)
    if more["protocol"] != "raw":
        more = {"initrd": folder / "initrd", **more}
    given = {"memory": "256M", "vcpus": 2, "tables": "both", **more, **config}
    return assemble(MachineConfig(kernel=folder / name, **given), generic_facts())


# -- changes: each makes a function from a plan to a plan --------------------------------------------------------------


def unchanged(plan):
    return plan


def states(plan, *added):
    """The plan with other states of the first vCPU, of the types of these."""
    first = plan.vcpus[0]
    kinds = {type(each) for each in added}
    kept = [each for each in first.states if (each.kind if isinstance(each, Change) else type(each)) not in kinds]
    vcpu = attrs.evolve(first, states=(*kept, *added))
    return attrs.evolve(plan, vcpus=(vcpu, *plan.vcpus[1:]))


def regs(**fields):
    return lambda plan: states(plan, attrs.evolve(plan.vcpus[0].state(Regs), **fields))


def moved(register, distance):
    """A general register with a distance added."""
    return lambda plan: regs(**{register: getattr(plan.vcpus[0].state(Regs), register) + distance})(plan)


def sregs(**fields):
    """Some fields of Sregs; a function is given the old value."""

    def change(plan):
        first = plan.vcpus[0]
        old = first.state(Sregs)
        new = {name: value(old.fields[name]) if callable(value) else value for name, value in fields.items()}
        replaced = tuple(Change(Sregs, **{**old.fields, **new}) if each is old else each for each in first.states)
        return attrs.evolve(plan, vcpus=(attrs.evolve(first, states=replaced), *plan.vcpus[1:]))

    return change


def with_fields(**fields):
    """For a segment register: the same with other fields."""
    return lambda register: attrs.evolve(register, **fields)


def poke(address, data):
    """Other bytes in memory, within a piece that is there; an address may be a function of the plan."""

    def change(plan):
        at = address(plan) if callable(address) else address
        return attrs.evolve(plan, blobs=tuple(_poked(blob, at, data) for blob in plan.blobs))

    return change


def _poked(blob, at, data):
    offset = at - blob.guest_address
    if not 0 <= offset < len(blob.content):
        return blob
    content = bytearray(blob.read(0, len(blob.content)))
    content[offset : offset + len(data)] = data
    return attrs.evolve(blob, content=bytes(content), size_bytes=max(blob.size_bytes, len(content)))


def number(address, form, value):
    """A number in memory, in a struct format."""
    return poke(address, struct.pack(f"<{form}", value))


def header(**fields):
    """Fields of the setup header in the zero page."""
    return told(lambda page: attrs.evolve(page, header=attrs.evolve(page.header, **fields)))


def told(change_page):
    """Another zero page in place of the old one."""

    def change(plan):
        old = plan.blob("zero page")
        page = change_page(BootParams.from_bytes(old.content))
        return content("zero page", page.to_bytes())(plan)

    return change


def content(name, data):
    """A piece with other content; a function is given the old one."""

    def new(blob):
        found = data(blob.read(0, len(blob.content))) if callable(data) else data
        return attrs.evolve(blob, content=found, size_bytes=max(len(found), blob.size_bytes))

    return lambda plan: attrs.evolve(plan, blobs=tuple(new(b) if b.name == name else b for b in plan.blobs))


def line(text):
    """Another command line, with its NUL if it is to have one."""
    return content("command line", text)


def piece(address, data, name="extra"):
    """One more piece; its address may be a function of the plan."""

    def change(plan):
        at = address(plan) if callable(address) else address
        return attrs.evolve(plan, blobs=(*plan.blobs, Blob(name, at, data)))

    return change


def dropped(*names):
    return lambda plan: attrs.evolve(plan, blobs=tuple(each for each in plan.blobs if each.name not in names))


def at(name, offset=0):
    """Where a piece lies, as a function of the plan."""
    return lambda plan: plan.blob(name).guest_address + offset


def all_of(*changes):
    def change(plan):
        for each in changes:
            plan = each(plan)
        return plan

    return change


def file_gone(name, size_bytes=None):
    """A piece whose file is missing, or shorter than the plan says."""

    def change(plan):
        old = plan.blob(name)
        path = old.content.path.with_name("gone")
        if size_bytes is not None:
            path = path.with_name("short")
            path.write_bytes(bytes(size_bytes))
        slice_ = FileSlice(path, 0, len(old.content))
        return attrs.evolve(
            plan, blobs=tuple(attrs.evolve(each, content=slice_) if each is old else each for each in plan.blobs)
        )

    return change
