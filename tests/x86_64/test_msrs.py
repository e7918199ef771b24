"""The judges are the kernel's own header <asm/kvm_para.h> and a list that KVM gave of one host's MSRs."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import PlanError, Unsupported
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.msrs import (
    MemoryType,
    MiscEnable,
    Msr,
    MsrEntry,
    Msrs,
    MtrrDefType,
    boot_msrs,
    is_saveable,
    msr_name,
)

KVM_HEADER = Path("/usr/include/x86_64-linux-gnu/asm/kvm_para.h")
AMD_HOST_LIST = [
    0x174, 0x175, 0x176, 0xC0000081, 0xC0000083, 0xC0000102, 0xC0000084, 0xC0000082, 0x10, 0x277, 0xC0010117,
    0x1D9, 0x1DB, 0x1DC, 0x1DD, 0x1DE, 0x12, 0x11, 0x4B564D01, 0x4B564D00, 0x4B564D02, 0x4B564D03, 0x4B564D04,
    0x4B564D06, 0x4B564D07, 0x3B, 0x6E0, 0x10A, 0x345, 0x1A0, 0x17A, 0x17B, 0x34, 0xCE, 0x140, 0xC001011F,
    0x1FC, 0x8B, 0xC0010015, 0x4B564D05,
]  # fmt: skip
DOCUMENTED_LIST = [
    0x0, 0x1, 0x10, 0x17, 0x1B, 0x2A, 0x2C, 0x34, 0x3B, 0x48, 0x79, 0x8B, 0x9E, 0xCD, 0xCE, 0xE2, 0xE7, 0xE8,
    0xFE, 0x11E, 0x174, 0x175, 0x176, 0x179, 0x17A, 0x198, 0x1A0, 0x1A4, 0x1AA, 0x1AD, 0x1AE, 0x1D9, 0x1DB,
    0x1DC, 0x1DD, 0x1DE, 0x1FC, 0x606, 0x610, 0x611, 0x613, 0x614, 0x618, 0x619, 0x61B, 0x61C, *range(0x648,
    0x64D), 0x6E0, 0xD90, *range(0x4B564D00, 0x4B564D05), *range(0xC0000080, 0xC0000085), *range(0xC0000100,
    0xC0000104), *range(0x200, 0x300), *range(0x3FC, 0x3FF), *range(0x400, 0x480), *range(0x60A, 0x60D),
    *range(0x800, 0xC00),
]  # fmt: skip

values = st.dictionaries(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), max_size=20)


def kvm_header(pattern):
    if not KVM_HEADER.exists():
        assert os.environ.get("CI") != "true", "no <asm/kvm_para.h>"
        pytest.skip("apt-get install linux-libc-dev")
    return re.findall(pattern, KVM_HEADER.read_text())


def test_kvm_s_msrs_have_the_header_s_numbers():
    found = dict(kvm_header(r"#define MSR_(KVM_\w+)\s+(0x\w+)"))
    assert {each.name for each in Msr if each.name.startswith("KVM_")} == found.keys()
    assert {name: Msr[name].value for name in found} == {name: int(text, 16) for name, text in found.items()}


def test_kvm_s_features_have_the_header_s_bits():
    found = dict(kvm_header(r"#define (KVM_(?:FEATURE|HINTS)_\w+)\s+(\d+)\s"))
    bits = {name.replace("FEATURE_", "").removesuffix("_BIT"): int(text) for name, text in found.items()}
    ours = {each.name: each.position for each in Feature if each.leaf == 0x4000_0001}
    assert len(ours) >= 15
    assert ours == {name: bits[name] for name in ours}


def test_boot_msrs_are_those_that_firmware_leaves():
    assert [(each.index, each.value) for each in boot_msrs()] == [
        (0x174, 0), (0x175, 0), (0x176, 0), (0xC0000081, 0), (0xC0000083, 0), (0xC0000102, 0),
        (0xC0000084, 0), (0xC0000082, 0), (0x10, 0), (0x1A0, 1), (0x2FF, 0x806),
    ]  # fmt: skip


def test_values_read_in_words():
    assert MtrrDefType(enabled=True, default_type=MemoryType.WRITE_BACK) == 0x806
    assert MtrrDefType(0xC06).fixed_ranges_enabled and MtrrDefType(0xC06).default_type is MemoryType.WRITE_BACK
    assert MtrrDefType(0x2).default_type == 2, "a reserved type is a number"
    assert MiscEnable(0x1).fast_strings and MiscEnable(enhanced_speedstep=True) == 1 << 16
    lines = boot_msrs().describe().splitlines()
    assert lines[0] == "IA32_SYSENTER_CS = 0x0"
    assert lines[-2] == "IA32_MISC_ENABLE = 0x1 (fast_strings)"
    assert lines[-1] == "IA32_MTRR_DEF_TYPE = 0x806 (default_type=write-back|enabled)"


@pytest.mark.parametrize(
    ("index", "name"),
    [
        (0xC0000080, "IA32_EFER"), (0xC0000084, "IA32_FMASK"), (0x1A0, "IA32_MISC_ENABLE"),
        (0x1B, "IA32_APIC_BASE"), (0x6E0, "IA32_TSC_DEADLINE"), (0x2FF, "IA32_MTRR_DEF_TYPE"),
        (0x277, "IA32_PAT"), (0xDA0, "IA32_XSS"), (0x200, "IA32_MTRR_PHYSBASE0"),
        (0x20F, "IA32_MTRR_PHYSMASK7"), (0x250, "IA32_MTRR_FIX64K_00000"), (0x400, "IA32_MC0_CTL"),
        (0x40B, "IA32_MC2_MISC"), (0x34, "MSR_SMI_COUNT"), (0x802, "x2APIC register 0x802"),
        (0xC0010015, "HWCR"), (0x4B564D01, "KVM_SYSTEM_TIME_NEW"), (0x12345, "MSR 0x12345"),
    ],
)  # fmt: skip
def test_an_msr_is_called_what_the_manual_calls_it(index, name):
    assert msr_name(index) == MsrEntry(index).name == name


def test_every_number_has_one_name():
    names = [msr_name(index) for index in Msr]
    assert len(set(names)) == len(names)
    assert Msr.SFMASK is Msr.FMASK


@given(values)
def test_msrs_hold_what_they_were_given(found):
    msrs = Msrs.of(found)
    assert {each.index: each.value for each in msrs} == found
    assert list(found) == [each.index for each in msrs], "in their order"
    assert all(msrs[index] == msrs.get(index) == value for index, value in found.items())
    assert len(msrs) == len(found)


@given(values, values)
def test_replace_changes_in_place_and_adds_at_the_end(before, after):
    msrs = Msrs.of(before).replace(after)
    assert {each.index: each.value for each in msrs} == before | after
    assert [each.index for each in msrs][: len(before)] == list(before)
    assert Msrs.of(before | after).without(*after) == Msrs.of({i: v for i, v in before.items() if i not in after})


def test_a_missing_msr_is_refused_by_name():
    assert boot_msrs().get(Msr.EFER) is None
    assert Msr.EFER not in boot_msrs() and Msr.TSC in boot_msrs() and 0x10 in boot_msrs()
    with pytest.raises(Unsupported, match="IA32_EFER"):
        boot_msrs()[Msr.EFER]


@pytest.mark.parametrize("index", [-1, 1 << 32, "0x10", None])
def test_an_index_has_32_bits(index):
    with pytest.raises(PlanError, match=r"index=.* 32 bits"):
        MsrEntry(index)


@pytest.mark.parametrize("value", [-1, 1 << 64, "1", None])
def test_a_value_has_64_bits(value):
    with pytest.raises(PlanError, match=r"value=.* 64 bits"):
        MsrEntry(0x10, value)


def test_an_msr_listed_twice_is_refused():
    with pytest.raises(PlanError, match="IA32_TSC is in the list of MSRs twice"):
        Msrs((MsrEntry(0x10), MsrEntry(0x174), MsrEntry(0x10, 5)))


def test_what_the_documented_list_saves_is_saved():
    assert [hex(index) for index in DOCUMENTED_LIST if not is_saveable(index)] == []
    assert not is_saveable(0x3A) and not is_saveable(0x17B)


def test_of_a_host_s_list_all_is_saved_but_aliases_and_machine_check_control():
    assert [index for index in AMD_HOST_LIST if not is_saveable(index)] == [0x12, 0x11, 0x17B]


@pytest.mark.parametrize("index", [0x3A, 0x17B, 0x49, 0x10B, 0x33, 0x480, 0x570, 0xC0010200, 0x40000000, 0x12345])
def test_the_host_s_own_msrs_stay_the_host_s(index):
    assert not is_saveable(index)
