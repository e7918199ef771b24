"""Debian's kernel and C library on the emulated processor see the CPU model that was configured, and no other."""

import pytest
from conversation import complaints
from interviews import LOADER

pytestmark = pytest.mark.timeout(240)

V2_FLAGS = {"pni", "ssse3", "sse4_1", "sse4_2", "cx16", "popcnt", "lahf_lm"}
"""What x86-64-v2 has beyond x86-64-v1, in the kernel's words."""
BEYOND_V2 = {"aes", "pclmulqdq", "xsave", "movbe", "abm", "bmi1", "bmi2", "adx", "smep", "smap", "fsgsbase", "rdtscp"}
"""What the emulated processor can do, and none of the models asks for."""
MODELS = {
    "minimal": ("anyvisor minimal x86-64", set(), {"de", "pse36"} | V2_FLAGS),
    "x86-64-v2": ("anyvisor x86-64-v2", {"de", "pse36"} | V2_FLAGS, set()),
}
"""A model's name for itself, flags that it must have, and flags that it must not; x86-64-v1 lies between these."""
MACHINES = {"minimal": "no tables", "x86-64-v2": "cloud vmlinux"}
"""The machine of `interviews` that has a model."""


@pytest.fixture(params=MODELS)
def seen(request, interviewed):
    """A model's name, /proc/cpuinfo as a dictionary, what the loader says, and what the kernel complains of."""
    if not LOADER.exists():
        pytest.skip(f"to run this: install glibc, whose {LOADER} is run in the guest")
    told = interviewed(MACHINES[request.param])
    return request.param, told.processor, told.levels, complaints(told.log.encode())


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
