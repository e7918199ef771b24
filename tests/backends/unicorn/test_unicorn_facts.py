"""What is said of the emulated processor is so, by other judges than ourselves."""

import json
import re
import shutil
import subprocess

import attrs
import pytest
from emulated_guests import HALT, Guest

from anyvisor import backends, plugins
from anyvisor.exits import Halted
from anyvisor.facts import Capability, HostFacts
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature


def test_the_facts_say_what_it_can_do(unicorn):
    facts = unicorn.facts
    assert (facts.backend, facts.architecture) == ("unicorn", "x86_64")
    assert facts.capabilities == {
        Capability.FULL_PROCESSOR, Capability.FULL_SYSTEM, Capability.KICK, Capability.DETERMINISTIC
    }  # fmt: skip
    assert facts.modes == ("real", "protected", "long")
    assert (facts.max_vcpus, facts.recommended_vcpus) == (1, 1)
    assert facts.physical_address_bits == 40
    assert 100_000 < facts.tsc_khz < 10_000_000


def test_the_facts_survive_json(unicorn):
    assert HostFacts.from_json(unicorn.facts.to_json()) == unicorn.facts


def test_every_state_of_the_facts_is_known_to_the_codec(unicorn):
    from anyvisor.codec import class_named, from_data, to_data

    made = Guest(unicorn)
    for kind in map(class_named, unicorn.facts.states):
        state = made.vcpu.get(kind)
        assert from_data(json.loads(json.dumps(to_data(state))), kind, "a state") == state
    made.close()


def test_the_cpuid_table_is_what_debians_cpuid_reads(unicorn, tmp_path):
    if shutil.which("cpuid") is None:
        pytest.skip("install cpuid to have the table judged")
    supported = unicorn.facts.supported_state(Cpuid)
    path = tmp_path / "cpuid.txt"
    path.write_text(supported.to_raw_dump())
    read = subprocess.run(["cpuid", "-f", path], capture_output=True, text=True, check=True).stdout

    def values(name):
        return set(re.findall(rf"^\s+{re.escape(name)}\s+= (true|false)$", read, re.MULTILINE))

    assert 'vendor_id = "AuthenticAMD"' in read
    there = ["x87 FPU on chip", "TSC: time stamp counter", "PAE: physical address extensions", "SSE4.2 extensions",
             "long mode (AA-64)", "no-execute page protection", "SYSCALL and SYSRET instructions",
             "POPCNT instruction", "1-GB large page support", "CMPXCHG16B instruction",
             "SMAP: supervisor mode access prevention"]  # fmt: skip
    assert {name: values(name) for name in there} == {name: {"true"} for name in there}
    absent = ["APIC on chip", "AVX: advanced vector extensions", "RDRAND instruction",
              "SVM: secure virtual machine", "MONITOR/MWAIT", "x2APIC: extended xAPIC support",
              "AVX2: advanced vector extensions 2", "RDSEED instruction"]  # fmt: skip
    assert {name: values(name) for name in absent} == {name: {"false"} for name in absent}
    assert re.search(r"maximum physical address bits\s+= 0x28 \(40\)", read)


def test_the_table_has_no_feature_that_needs_avx(unicorn):
    supported = unicorn.facts.supported_state(Cpuid)
    names = {each.name for each in supported.features}
    assert {"SSE2", "SSE4_2", "XSAVE", "NX", "LM"} <= names
    assert not {name for name in names if name.startswith(("AVX", "FMA", "VAES", "VPCL", "F16C"))}


def test_the_note_says_the_mode(unicorn):
    (note,) = unicorn.facts.notes
    assert re.match(r"unicorn \d+\.\d+\.\d+, (fast|counted): ", note)


def test_the_tsc_runs_as_fast_as_the_facts_say(guest, unicorn):
    import time

    made = guest(f"rdtsc; mov %eax, DATA; mov %edx, DATA + 4; {HALT}")
    before = time.monotonic_ns()
    assert made.run() == Halted()
    began, first = time.monotonic_ns(), made.word()
    time.sleep(0.2)
    made.enter()
    ended = time.monotonic_ns()
    assert made.vcpu.run(made.bus) == Halted()
    nanoseconds = (made.word() - first) * 1_000_000 / unicorn.facts.tsc_khz
    assert 0.99 * (ended - began) < nanoseconds < 1.01 * (time.monotonic_ns() - before)


def test_it_can_be_opened_by_name():
    with backends.open_hypervisor("unicorn", plugins.load_plugins(installed=False)) as opened:
        assert opened.facts.backend == "unicorn"


def test_the_features_that_are_left_out_are_those_of_chips_that_are_not_there(unicorn):
    supported = unicorn.facts.supported_state(Cpuid)
    for feature in (Feature.X2APIC, Feature.TSC_DEADLINE, Feature.MONITOR, Feature.RDRAND, Feature.SVM):
        assert not supported.has(feature)


def test_facts_are_a_value(unicorn):
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        unicorn.facts.backend = "other"
