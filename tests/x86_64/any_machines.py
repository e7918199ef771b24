"""Configurations of any machine: how many vCPUs, how they and RAM are divided, devices, images, tables, protocols."""

import attrs
from hypothesis import strategies as st
from kernel_images import ENTRY, bzimage, elf, pvh_note

from anyvisor import hookimpl
from anyvisor.config import MachineConfig, NumaNode, Raw, Topology
from anyvisor.facts import Capability
from anyvisor.memory import GIB, KIB, MIB, TIB, Region
from anyvisor.plan import DeviceSpec
from anyvisor.plugins import load_plugins
from anyvisor.x86_64.cpu_models import model_names
from anyvisor.x86_64.generic import FACTS
from anyvisor_mock.host_facts import host_facts, host_names
from multiboot_kernels import elf32

PAGE = 4 * KIB
MOST_VCPUS = 400
VIRTIO_MMIO = 0xD000_0000
MANY_VCPUS = 4096

KERNELS = {
    "elf64": (elf(), (None, "linux64")),
    "elf64 with much memory": (elf([(ENTRY, b"\xf4" * 64, 40 * MIB)]), (None, "linux64")),
    "bzImage": (bzimage(), (None, "linux64", "linux32")),
    "elf32 with a PVH note": (elf(bits=32, notes=pvh_note()), (None, "pvh")),
    "elf64 with a PVH note": (elf(notes=pvh_note()), (None, "linux64", "pvh")),
    "multiboot": (elf32(), (None, "multiboot")),
    "bytes": (b"\xf4" * 100, ("raw",)),
}
"""Images by name, and by which protocols they can be entered."""
INITRDS = [0, 1, PAGE - 1, MIB, 30 * MIB, 900 * MIB, 3 * GIB]


def write_images(folder):
    """All images as files; initrds are files of nothing, as long as their names say."""
    for name, (content, _) in KERNELS.items():
        (folder / name).write_bytes(content)
    for size_bytes in INITRDS:
        with (folder / f"initrd {size_bytes}").open("wb") as file:
            file.truncate(size_bytes)


def counts(most):
    return st.integers(1, most)


@st.composite
def topologies(draw):
    """Small ones, large ones, and those around the last id of eight bits."""
    if draw(st.booleans()):
        return Topology(cores=draw(st.sampled_from([1, 2, 254, 255, 256, 300])))
    most, left = draw(st.sampled_from([8, MOST_VCPUS])), {}
    for name, limit in (("threads", 4), ("dies", 5), ("cores", 40), ("sockets", 80)):
        left[name] = draw(counts(min(limit, most)))
        most //= left[name]
    return Topology(**left)


memory_sizes = st.one_of(
    st.sampled_from(
        [8 * MIB, 20 * MIB, 64 * MIB, 65 * MIB, 128 * MIB, 512 * MIB, 3 * GIB, 4 * GIB, 64 * GIB, TIB, 60 * TIB]
    ),
    st.integers(64 * 256, 1024 * 256).map(lambda pages: pages * PAGE),
    st.integers(3 * GIB // PAGE - 3, 3 * GIB // PAGE + 3).map(lambda pages: pages * PAGE),
)


@st.composite
def numa(draw, memory, vcpus):
    """Nodes that share out that memory and those vCPUs."""
    count = draw(st.integers(1, 5))
    cuts = sorted(draw(st.lists(st.integers(0, memory // PAGE), min_size=count - 1, max_size=count - 1)))
    sizes = [(end - start) * PAGE for start, end in zip([0, *cuts], [*cuts, memory // PAGE], strict=True)]
    owners = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=8))  # of the first vCPUs, of the next, ...
    return tuple(
        NumaNode(size, [vcpu for vcpu in range(vcpus) if owners[vcpu % len(owners)] == node])
        for node, size in enumerate(sizes)
    )


HOSTS = ("none", *host_names())
LACKING = (None, None, None, Capability.IRQCHIP, Capability.PIT, Capability.X2APIC)


def facts(host, lacking):
    """Of any host that there is, and of some that there could be."""
    found = FACTS if host == "none" else host_facts(host)
    return attrs.evolve(found, max_vcpus=MANY_VCPUS, capabilities=found.capabilities - {lacking})


def with_transports(count):
    """Plugins, of which one has so many virtio-mmio transports, side by side."""
    places = [Region(VIRTIO_MMIO + 0x1000 * number, 0x1000) for number in range(count)]
    specs = tuple(
        DeviceSpec("virtio-mmio", f"virtio{number}", mmio=(place,), gsi=5 + number % 3)
        for number, place in enumerate(places)
    )

    @hookimpl
    def anyvisor_devices():
        return specs

    return load_plugins(
        [type("Transports", (), {"anyvisor_devices": staticmethod(anyvisor_devices)})()], installed=False
    )


@st.composite
def configs(draw, folder):
    """Configurations whose images are in that folder; many of them cannot be."""
    topology, memory = draw(topologies()), draw(memory_sizes)
    name = draw(st.sampled_from(list(KERNELS)))
    image, initrd = folder / name, draw(st.sampled_from([None] * 3) | st.sampled_from(INITRDS))
    more = {}
    if not draw(st.integers(0, 3)):
        more["command_line"] = "x" * draw(st.sampled_from([0, 1, 255, 2047, 2048, 65535, 65536]))
    if draw(st.booleans()):
        more["numa"] = draw(numa(memory, topology.vcpus))
    return MachineConfig(
        kernel=image,
        initrd=None if initrd is None else folder / f"initrd {initrd}",
        vcpus=topology.vcpus,
        topology=topology,
        memory=memory,
        tables=draw(st.sampled_from(["acpi", "mptable", "both", "none"])),
        protocol=draw(st.sampled_from(KERNELS[name][1])),
        raw=draw(
            st.builds(Raw, address=st.sampled_from([0x7C00, MIB]), mode=st.sampled_from(["real", "protected", "long"]))
        ),
        cpu=draw(st.sampled_from(["host"] * 3 + ["minimal"]) | st.sampled_from(model_names())),
        reduced_hardware=draw(st.booleans()),
        **more,
    )
