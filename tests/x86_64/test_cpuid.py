"""The judges are the Debian tool `cpuid`, which knows most feature bits, and this machine's /proc/cpuinfo."""

import re
import subprocess
from pathlib import Path

import pytest
from cpuid_hosts import AMD, INTEL
from cpuid_judges import TIMEOUT, cpuid_tool, need, values
from hypothesis import given, settings
from hypothesis import strategies as st

from anyvisor.errors import PlanError, Unsupported
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.features import BY_PLACE, Feature
from anyvisor.x86_64.leaves import INDEXED_LEAVES

TOO_NEW_FOR_THE_TOOL = {
    Feature.SHA512, Feature.SM3, Feature.SM4, Feature.FRED, Feature.LKGS, Feature.AMX_COMPLEX,
    Feature.AVX_VNNI_INT16, Feature.AVX10, Feature.APX_F,
}  # fmt: skip
OTHER_WORDS = {
    "PCLMULQDQ": "PCLMULDQ instruction", "DS_CPL": "CPL-qualified debug store",
    "EIST": "Enhanced Intel SpeedStep", "CNXT_ID": "context ID", "TSC_DEADLINE": "stamp counter deadline",
    "OSXSAVE": "OS-enabled XSAVE", "CX8": "CMPXCHG8B", "SEP": "SYSENTER", "PGE": "PTE global bit",
    "CLFSH": "CLFLUSH instruction", "FXSR": "FXSAVE/FXRSTOR", "HTT": "hyper-threading / multi-core supported",
    "DIGITAL_THERMAL_SENSOR": "digital thermometer", "HARDWARE_FEEDBACK": "HW_FEEDBACK MSRs",
    "APERFMPERF": "hardware coordination feedback", "ENERGY_PERFORMANCE_BIAS": "performance-energy bias",
    "ERMS": "enhanced REP MOVSB/STOSB", "RDT_M": "RDT-CMT", "RDT_A": "RDT-CAT",
    "INTEL_PT": "Intel processor trace", "FSRM": "fast short REP MOV", "SRBDS_CTRL": "SRBDS mitigation MSR",
    "RTM_ALWAYS_ABORT": "RTM transaction always aborts", "RTM_FORCE_ABORT": "TSX_FORCE_ABORT",
    "ARCH_LBR": "architectural last branch records", "SPEC_CTRL": "IBRS/IBPB",
    "FZRM": "fast zero-length MOVSB", "FSRS": "fast short STOSB", "FSRC": "fast short CMPSB",
    "XGETBV1": "XGETBV instruction", "KVM_CLOCKSOURCE": "kvmclock available at MSR 0x11",
    "KVM_CLOCKSOURCE2": "kvmclock available at MSR 0x4b564d00", "KVM_STEAL_TIME": "steal clock",
    "KVM_PV_EOI": "guest EOI", "KVM_PV_UNHALT": "guest spinlock", "KVM_PV_TLB_FLUSH": "guest TLB flush",
    "KVM_PV_SEND_IPI": "guest send IPI", "KVM_POLL_CONTROL": "host HLT poll disable",
    "KVM_PV_SCHED_YIELD": "guest sched yield", "KVM_ASYNC_PF_INT": "intrs for page ready",
    "KVM_MSI_EXT_DEST_ID": "extended destination ID", "KVM_HC_MAP_GPA_RANGE": "map gpa range hypercall",
    "KVM_CLOCKSOURCE_STABLE": "no guest per-cpu warps", "KVM_HINTS_REALTIME": "realtime hint",
    "ABM": "LZCNT advanced bit manipulation", "MISALIGN_SSE": "misaligned SSE", "OSVW": "OS visible",
    "IBS": "instruction based sampling", "FMA4": "4-operand FMA", "NX": "no-execute page protection",
    "PERF_CTR_EXT_CORE": "core performance counter extensions", "FFXSR": "SSE extensions",
    "MMX_EXT": "AMD multimedia instruction extensions", "PDPE1GB": "1-GB large page", "LM": "long mode",
    "AMD_3DNOW_EXT": "3DNow! instruction extensions", "HW_PSTATE": "hardware P-State control",
    "INVARIANT_TSC": "TscInvariant", "RSTR_FP_ERR_PTRS": "always save/restore error pointers",
    "AMD_VIRT_SSBD": "virtualized SSBD", "AMD_SSB_NO": "SSBD fixed in hardware",
    "BTC_NO": "not vulnerable to branch type confusion",
}  # fmt: skip

registers = st.integers(0, 2**32 - 1)
entries = st.builds(CpuidEntry, st.integers(0, 0x30), st.integers(0, 3), registers, registers, registers, registers)
tables = st.lists(entries, unique_by=lambda each: (each.leaf, each.subleaf if each.indexed else 0)).map(
    lambda each: Cpuid(tuple(each))
)


def plain(text):
    return re.sub(r"[^a-z0-9]", "", text.lower())


def blank(vendor):
    """A processor with every leaf that holds features, and none of them."""
    name = [int.from_bytes(vendor[i : i + 4], "little") for i in (0, 8, 4)]
    places = {(each.leaf, each.subleaf) for each in Feature} | {(0xD, 0)}
    heads = [
        CpuidEntry(0, 0, 0x20, *name),
        CpuidEntry(0x4000_0000, 0, 0x4000_0001, 0x4B4D564B, 0x564B4D56, 0x4D),
        CpuidEntry(0x8000_0000, 0, 0x8000_0021),
    ]
    return Cpuid((*heads, *(CpuidEntry(*place) for place in sorted(places)))).replace(CpuidEntry(7, 0, 2))


@pytest.mark.parametrize(
    ("vendor", "wanted"),
    [
        (b"GenuineIntel", [each for each in Feature if each.leaf < 0x8000_0000]),
        (b"AuthenticAMD", [each for each in Feature if each.leaf >= 0x8000_0000]),
    ],
)
def test_the_cpuid_tool_gives_every_feature_bit_the_same_name(vendor, wanted):
    nothing, *found = cpuid_tool([blank(vendor), *(blank(vendor).with_(each) for each in wanted)])
    strangers = set()
    for feature, lines in zip(wanted, found, strict=True):
        said = [line for line in lines if line.endswith("= true") and line not in nothing]
        name = OTHER_WORDS.get(feature.name, feature.name.removeprefix("AMD_").removeprefix("KVM_"))
        if not said:
            strangers.add(feature)
        else:
            assert any(plain(name) in plain(line) for line in said), (feature, said)
    assert strangers == TOO_NEW_FOR_THE_TOOL & set(wanted)


def test_this_machine_s_flags_are_features_of_this_machine():
    flags = re.search(r"(?m)^flags\s*: (.*)", Path("/proc/cpuinfo").read_text())
    if flags is None:
        pytest.skip("not an x86 machine")
    command = [need("cpuid", "cpuid"), "-r", "-1"]
    table = Cpuid.from_raw_dump(subprocess.check_output(command, text=True, timeout=TIMEOUT))
    named = {each.name.lower(): each for each in Feature}
    shared = [named[flag] for flag in flags[1].split() if flag in named]
    assert len(shared) > 40
    assert [each.name for each in shared if not table.has(each)] == []
    for words, value in (("cpu family", table.family), ("model", table.model), ("vendor_id", table.vendor)):
        assert re.search(rf"(?m)^{words}\s*: {value}$", Path("/proc/cpuinfo").read_text())
    bits = re.search(r"(\d+) bits physical", Path("/proc/cpuinfo").read_text())
    assert table.physical_address_bits == int(bits[1])


@pytest.mark.parametrize("table", [AMD, INTEL])
def test_the_cpuid_tool_reads_our_dump_as_the_same_processor(table):
    (lines,) = cpuid_tool([table])
    assert values(lines, "vendor_id")[0] == f'"{table.vendor}"'
    assert int(values(lines, "family synth")[0], 0) == table.family
    assert int(values(lines, "model synth")[0], 0) == table.model
    assert int(values(lines, "maximum physical address bits")[0], 0) == table.physical_address_bits
    assert values(lines, "hypervisor_id (0x40000000)") == [rf'"{table.hypervisor}\0\0\0"']
    if table.brand:
        assert values(lines, "brand")[0] == f'"{table.brand}"'


def test_the_host_tables_are_the_processors_they_are_said_to_be():
    assert len(AMD) == 75
    assert (AMD.vendor, AMD.family, AMD.model, AMD.stepping) == ("AuthenticAMD", 25, 17, 1)
    assert (INTEL.vendor, INTEL.family, INTEL.model, INTEL.stepping) == ("GenuineIntel", 6, 106, 6)
    assert (AMD.max_leaf, AMD.max_extended_leaf, INTEL.max_leaf) == (0x1C, 0x8000_0021, 0x1F)
    assert (AMD.brand, AMD.hypervisor) == ("", "KVMKVMKVM")
    assert INTEL.brand == "Intel(R) Xeon(R) Platinum 8358 CPU @ 2.60GHz"
    assert (AMD.apic_id, INTEL.apic_id) == (1, 0x1B)


@settings(deadline=None)
@given(tables)
def test_a_table_survives_its_dump(table):
    if table.entries:
        assert Cpuid.from_raw_dump(table.to_raw_dump(3), 3) == table


def test_a_dump_of_several_processors_is_read_one_at_a_time():
    text = AMD.to_raw_dump(0) + "# a comment\n\n" + INTEL.to_raw_dump(1)
    assert Cpuid.from_raw_dump(text, 0) == AMD
    assert Cpuid.from_raw_dump(text, 1) == INTEL


@pytest.mark.parametrize(
    "text",
    ["", "CPU 0:\n", "CPU 1:\n   0x0 0x0: eax=0x0 ebx=0x0 ecx=0x0 edx=0x0\n", "CPU 0:\n   vendor_id\n"]
    + [f"CPU 0:\n   0x1 0x0: eax={eax} ebx=0x0 ecx=0x0 edx=0x0\n" for eax in ("0x123456789", "-0x1", "5", "0x")],
)
def test_text_that_is_no_dump_is_refused(text):
    with pytest.raises(PlanError, match="CPUID dump"):
        Cpuid.from_raw_dump(text)


def test_only_indexed_entries_look_at_the_subleaf():
    table = Cpuid((CpuidEntry(1, eax=11), CpuidEntry(0xB, 0, 20), CpuidEntry(0xB, 1, 21)))
    assert table[1].eax == table[1, 7].eax == 11
    assert [table[0xB, i].eax for i in range(3)] == [20, 21, 0]
    assert table.get(0xB, 2) is None and table.get(2) is None
    assert table[0x1234].registers == (0, 0, 0, 0)
    assert [each.eax for each in table.subleaves(0xB)] == [20, 21]
    assert {each.leaf for each in INTEL if each.indexed} <= INDEXED_LEAVES


def test_replace_keeps_places_and_adds_in_order():
    table = Cpuid(
        (
            CpuidEntry(0),
            CpuidEntry(4, 0),
            CpuidEntry(0xB, 0),
            CpuidEntry(0x8000_0000),
            CpuidEntry(0x4000_0000),
        )
    )
    changed = table.replace(CpuidEntry(4, 0, 5), CpuidEntry(4, 1), CpuidEntry(0x8000_0001), CpuidEntry(0xB, 0, 1))
    assert [(each.leaf, each.subleaf, each.eax) for each in changed] == [
        (0, 0, 0), (4, 0, 5), (4, 1, 0), (0xB, 0, 1),
        (0x8000_0000, 0, 0), (0x8000_0001, 0, 0), (0x4000_0000, 0, 0),
    ]  # fmt: skip
    assert [each.leaf for each in changed.drop(4, 0x8000_0001)] == [0, 0xB, 0x8000_0000, 0x4000_0000]
    assert [each.eax for each in table] == [0] * 5, "a table is a value"


@pytest.mark.parametrize("feature", Feature)
def test_with_and_without_change_one_bit(feature):
    table = blank(b"GenuineIntel")
    entry = table.with_(feature)[feature.leaf, feature.subleaf]
    assert (
        getattr(entry, feature.register) & ~getattr(table[feature.leaf, feature.subleaf], feature.register)
        == 1 << feature.position
    )
    assert table.with_(feature).has(feature) and not table.has(feature)
    assert table.with_(feature).features - table.features == {feature}
    assert table.with_(feature).without(feature) == table.without(feature) == table
    assert table.diff(table.with_(feature)) == [f"+{feature.name}"]
    assert table.with_(feature).diff(table) == [f"-{feature.name}"]


def test_features_lie_at_different_bits():
    assert len(BY_PLACE) == len(Feature) == len(Feature.__members__)
    assert all(0 <= each.position < 32 for each in Feature)
    assert Feature.HYPERVISOR.place == "0x1 ECX bit 31"
    assert Feature.AVX_VNNI.place == "0x7/1 EAX bit 4"


def test_a_feature_without_its_leaf_is_refused_by_name():
    with pytest.raises(Unsupported, match=r"AVX_VNNI.*0x7/1 EAX bit 4.*replace"):
        AMD.drop(7).with_(Feature.AVX_VNNI)
    assert AMD.drop(7).without(Feature.AVX_VNNI) == AMD.drop(7)


def test_diff_tells_names_values_and_entries():
    table = Cpuid((CpuidEntry(1, ebx=0x0800, ecx=1 << 31), CpuidEntry(0xB, 1), CpuidEntry(0xB, 2)))
    other = Cpuid((CpuidEntry(1, ebx=0x1800, ecx=1 << 21), CpuidEntry(0xB, 1, 7), CpuidEntry(0x1F, 0)))
    assert table.diff(other) == [
        "0x1 EBX: 0x00000800 -> 0x00001800",
        "+X2APIC",
        "-HYPERVISOR",
        "0xb/1 EAX: 0x00000000 -> 0x00000007",
        "0xb/2 removed: eax=0x00000000 ebx=0x00000000 ecx=0x00000000 edx=0x00000000",
        "0x1f/0 added: eax=0x00000000 ebx=0x00000000 ecx=0x00000000 edx=0x00000000",
    ]
    assert table.diff(table) == []


@settings(deadline=None)
@given(tables, tables)
def test_tables_differ_exactly_when_diff_says_something(one, other):
    assert bool(one.diff(other)) == (set(one) != set(other))


def test_describe_names_the_processor():
    text = INTEL.describe()
    assert "GenuineIntel, family 6, model 106, stepping 6" in text
    assert "Platinum 8358" in text and "KVMKVMKVM" in text and "46-bit" in text and "AVX512F" in text
    assert "no vendor" in Cpuid().describe()


def test_without_leaf_0x80000008_addresses_have_36_bits():
    table = Cpuid((CpuidEntry(1),))
    assert table.physical_address_bits == 32
    assert table.with_(Feature.PAE).physical_address_bits == 36
    assert table.replace(CpuidEntry(0x8000_0008, eax=0x3930)).physical_address_bits == 48


@pytest.mark.parametrize("value", [-1, 1 << 32, "5", None, 1.0])
@pytest.mark.parametrize("register", ["leaf", "subleaf", "eax", "ebx", "ecx", "edx"])
def test_a_register_has_32_bits(register, value):
    with pytest.raises(PlanError, match=rf"{register}=.* 32 bits"):
        CpuidEntry(**{"leaf": 1, register: value})
