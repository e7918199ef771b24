"""What hosts offer: a CPUID table that KVM gave, one put together by hand, and what can be made of them."""

from pathlib import Path

from anyvisor.config import Topology
from anyvisor.x86_64.cpuid import Cpuid

DATA = Path(__file__).parent / "data"
AMD = Cpuid.from_raw_dump((DATA / "amd_epyc_kvm_supported.txt").read_text())
INTEL = Cpuid.from_raw_dump((DATA / "intel_synthetic.txt").read_text())
HYGON = AMD.replace(AMD[0].replace(ebx=0x6F677948, edx=0x6E65476E, ecx=0x656E6975))
HOSTS = {"AMD": AMD, "Intel": INTEL, "Hygon": HYGON}


def shaped(shape):
    """The topology of a shape: sockets, cores and threads."""
    sockets, cores, threads = shape
    return Topology(sockets=sockets, cores=cores, threads=threads)


def ends_at(host, max_leaf):
    """The host, had it no basic leaves beyond that."""
    return Cpuid(
        tuple(
            each.replace(eax=max_leaf) if each.leaf == 0 else each
            for each in host
            if each.leaf <= max_leaf or each.leaf > 0x1000
        )
    )


def before_xsave(host):
    """The host, had it none of what came with XSAVE, or after it and needs it."""
    names = ("AVX", "FMA", "F16C", "VAES", "VPCLMUL", "SHA512", "SM3", "SM4", "MPX", "PKU", "OSPKE", "AMX", "APX")
    return host.without(*(each for each in host.features if each.name.startswith(names)))


OLDER = {
    "Intel without 0x1F": ends_at(INTEL, 0x16),
    "Intel without 0xB": before_xsave(ends_at(INTEL, 0xA)),
    "AMD without 0xB": ends_at(AMD, 0x7),
    "AMD without TopologyExtensions": ends_at(AMD, 0x7).drop(0x8000_001D, 0x8000_001E),
}
