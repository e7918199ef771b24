"""Debian's kernel and C library on the emulated processor see the CPU model that was configured, and no other."""

from pathlib import Path

import pytest
from conversation import INIT, ask, complaints, greet

import anyvisor
from anyvisor.config import MachineConfig
from anyvisor.initramfs import busybox_initramfs

pytestmark = pytest.mark.timeout(240)

LOADER = Path("/lib64/ld-linux-x86-64.so.2")
"""glibc's dynamic loader: a program that needs nothing else, and says which levels of x86-64 it would search for."""
V2_FLAGS = {"pni", "ssse3", "sse4_1", "sse4_2", "cx16", "popcnt", "lahf_lm"}
"""What x86-64-v2 has beyond x86-64-v1, in the kernel's words."""
BEYOND_V2 = {"aes", "pclmulqdq", "xsave", "movbe", "abm", "bmi1", "bmi2", "adx", "smep", "smap", "fsgsbase", "rdtscp"}
"""What the emulated processor can do, and none of the models asks for."""
MODELS = {
    "minimal": ("anyvisor minimal x86-64", set(), {"de", "pse36"} | V2_FLAGS),
    "x86-64-v2": ("anyvisor x86-64-v2", {"de", "pse36"} | V2_FLAGS, set()),
}
"""A model's name for itself, flags that it must have, and flags that it must not; x86-64-v1 lies between these."""


@pytest.fixture(scope="module", params=MODELS)
def seen(request, busybox, cloud_kernel, tmp_path_factory):
    """A model's name, /proc/cpuinfo as a dictionary, what the loader says, and what the kernel complains of."""
    if not LOADER.exists():
        pytest.skip(f"to run this: install glibc, whose {LOADER} is run in the guest")
    path = tmp_path_factory.mktemp("initrd") / "initrd.cpio"
    archive = busybox_initramfs(busybox, INIT)
    archive.file("/loader", LOADER.resolve(), 0o755)
    archive.write(path)
    config = MachineConfig(kernel=cloud_kernel.vmlinuz, initrd=path, memory="256M", cpu=request.param)
    config = config.replace(command_line=f"{config.command_line} quiet 8250.nr_uarts=1")
    with anyvisor.boot(config, backend="unicorn") as machine:
        greet(machine, cloud_kernel.version)
        info, levels, log = (ask(machine, each) for each in ("cat /proc/cpuinfo", "/loader --help", "dmesg"))
    pairs = (line.split(":", 1) for line in info.splitlines() if ":" in line)
    return request.param, {key.strip(): value.strip() for key, value in pairs}, levels, complaints(log.encode())


def test_the_kernel_sees_the_model_s_name_and_features_and_no_others(seen):
    name, info, *_ = seen
    brand, present, absent = MODELS[name]
    flags = set(info["flags"].split())
    assert info["model name"] == brand
    assert {"fpu", "tsc", "msr", "pae", "cx8", "pge", "cmov", "pat", "mmx", "fxsr", "sse", "sse2", "nx", "lm"} <= flags
    assert present <= flags
    assert not (absent | BEYOND_V2 | {"sep"}) & flags  # the engine skips SYSENTER, so the optional sep is not there


def test_the_kernel_sees_the_model_s_caches_and_addresses(seen):
    _, info, *_ = seen
    assert info["cache size"] == "512 KB"  # of the second level, on AMD
    assert info["clflush size"] == "64"
    assert info["address sizes"] == "40 bits physical, 48 bits virtual"


def test_the_c_library_searches_for_the_libraries_of_that_level(seen):
    name, _, levels, _ = seen
    found = [
        line.split()[0]
        for line in levels.splitlines()
        if line.strip().startswith("x86-64-v") and "(supported, searched)" in line
    ]
    assert found == (["x86-64-v2"] if name == "x86-64-v2" else [])
    assert "x86-64-v4" in levels


def test_the_kernel_has_no_complaint(seen):
    assert seen[3] == []
