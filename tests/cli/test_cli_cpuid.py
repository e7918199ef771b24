"""`anyvisor cpuid`: models shown, compared, checked and listed."""

import json
import os

import pytest

from anyvisor.x86_64.cpu_models import cpu_model, model_names
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from elves import tiny_elf

BACKEND = """
from anyvisor import hookimpl
from anyvisor_mock.host_facts import host_facts

class Hypervisor:
    def __init__(self, name): self.facts = host_facts(name)
    def close(self): pass
    def __enter__(self): return self
    def __exit__(self, *_): pass

def rome(): return Hypervisor("amd-rome")
def broadwell(): return Hypervisor("intel-broadwell")

@hookimpl
def anyvisor_hypervisors():
    return {"rome": "hosts_there:rome", "broadwell": "hosts_there:broadwell"}
"""


@pytest.fixture
def there(plugin_path, warm_command):
    """Call the command line where the backends `rome` and `broadwell` are those of known machines."""
    site = plugin_path("hosts-there", "hosts_there", BACKEND)

    def call(*arguments, code=0):
        environment = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "100"}
        done = warm_command.run(["cpuid", *arguments], env=environment)
        assert done.returncode == code, done.stderr
        return (done.stderr if code > 1 else done.stdout).decode()

    return call


def test_models_are_listed_with_what_they_are(invoke):
    done = invoke("cpuid", "models")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["model", "what", "it", "is"]
    assert [line.split()[0] for line in lines[1:]] == list(model_names())
    assert all(cpu_model(line.split()[0]).description in line for line in lines[1:])
    listed = json.loads(invoke("cpuid", "models", "--json").stdout)
    assert [each["name"] for each in listed] == list(model_names())
    assert {each["missing"] for each in listed} == {None}


def test_models_are_listed_with_whether_a_host_can_give_them(there):
    rows = {line.split()[0]: line for line in there("models", "--backend", "rome").splitlines()}
    assert rows["zen2"].split()[1] == "yes" and rows["host"].split()[1] == "yes"
    assert "no: 5 missing" in rows["x86-64-v4"]
    listed = {each["name"]: each for each in json.loads(there("models", "--backend", "rome", "--json"))}
    assert listed["zen2"]["missing"] == []
    assert listed["x86-64-v4"]["missing"][0] == "AVX512F (0x7 EBX bit 16)"


def test_a_model_is_shown_in_words_whatever_this_host_can_do(invoke):
    text = invoke("cpuid", "show", "skylake-server").stdout
    for line in (
        "GenuineIntel, family 6, model 85, stepping 4",
        "brand: Intel Xeon Processor (Skylake)",
        "0x80000001 EDX: syscall nx pdpe1gb rdtscp lm",
        "AVX-512 registers 16-31: 1024 bytes at 0x680",
        "2696 bytes in all",
        "L2 unified, 1M, 16 ways, of one processor",
        "thread: one, no bit of the APIC id",
    ):
        assert f"  {line}\n" in text, line
    assert "avx512f" in text and "avx512_vnni" not in text


def test_an_amd_model_is_shown_without_the_features_that_leaf_1_has_already(invoke):
    text = invoke("cpuid", "show", "zen4").stdout
    assert "  0x80000001 EDX: syscall nx mmx_ext ffxsr pdpe1gb rdtscp lm\n" in text
    assert "  0x80000021 EAX: bit-0 bit-2 bit-6\n" in text
    assert "AVX-512 masks: 64 bytes at 0x340" in text


def test_the_table_is_that_of_a_vcpu_in_a_topology(invoke):
    shape = ("--sockets", 2, "--dies", 1, "--cores", 3, "--threads", 2)
    shown = json.loads(invoke("cpuid", "show", "haswell", "--json", "--vcpu", 7, *shape).stdout)
    assert shown["apic_id"] == 9
    assert (shown["vendor"], shown["family"], shown["model"], shown["stepping"]) == ("GenuineIntel", 6, 63, 2)
    assert {"avx2", "htt", "hypervisor"} <= set(shown["features"])
    level = next(each for each in shown["entries"] if each["leaf"] == 0xB and each["subleaf"] == 1)
    assert (level["ebx"], level["edx"]) == (6, 9)
    assert next(each for each in shown["entries"] if each["leaf"] == 1)["subleaf"] is None
    text = invoke("cpuid", "show", "haswell", "--vcpu", 7, *shape).stdout
    assert "  APIC id 9\n" in text and "  core: bits 1-2 of the APIC id\n" in text


def test_a_vcpu_that_the_topology_does_not_have_is_a_mistake(invoke):
    done = invoke("cpuid", "show", "haswell", "--vcpu", 7)
    assert done.exit_code == 2 and "vCPU 7" in done.stderr


def test_raw_output_is_what_the_cpuid_tool_reads_all_vcpus_of_it(invoke):
    text = invoke("cpuid", "show", "zen3", "--raw", "--cores", 2).stdout
    tables = [Cpuid.from_raw_dump(text, cpu) for cpu in (0, 1)]
    assert [table.apic_id for table in tables] == [0, 1]
    assert cpu_model("zen3").template.features <= tables[1].features
    one = invoke("cpuid", "show", "zen3", "--raw", "--cores", 2, "--vcpu", 1).stdout
    assert one.startswith("CPU 1:\n") and one == text[text.index("CPU 1:") :]


def test_a_model_is_shown_as_a_host_gives_it(there):
    assert Feature.MD_CLEAR in cpu_model("haswell").template.optional
    assert "md_clear" in there("show", "haswell")
    assert "md_clear" not in there("show", "haswell", "--backend", "broadwell")
    assert "KVMKVMKVM, leaves up to 0x40000001" in there("show", "haswell", "--backend", "broadwell")
    assert "Intel(R) Xeon(R) CPU E5-2650 v4" in there("show", "host", "--backend", "broadwell")
    assert "0x7 EBX: ERMS (bit 9), INVPCID (bit 10); take" in there("show", "haswell", "--backend", "rome", code=3)


def test_a_difference_is_told_in_lines(invoke):
    lines = invoke("cpuid", "diff", "haswell", "broadwell").stdout.splitlines()
    assert lines[0] == "brand: Intel Xeon Processor (Haswell) -> Intel Xeon Processor (Broadwell)"
    assert set(lines[1:]) == {"0x1 EAX: 0x000306f2 -> 0x000406f1", "+RDSEED", "+ADX", "+SMAP", "+PREFETCHW"}
    assert json.loads(invoke("cpuid", "diff", "haswell", "broadwell", "--json").stdout) == lines
    back = invoke("cpuid", "diff", "broadwell", "haswell").stdout
    assert "-ADX\n" in back and "+ADX" not in back
    assert invoke("cpuid", "diff", "zen2", "rome").stdout == "no difference between zen2 and rome\n"


def test_a_difference_counts_entries_of_zeros_as_none(invoke):
    lines = invoke("cpuid", "diff", "nehalem", "sandybridge").stdout.splitlines()
    assert "+XSAVEOPT" in lines and "0xd/2 EAX: 0x00000000 -> 0x00000100" in lines
    assert not [line for line in lines if "added" in line or "removed" in line]


def test_a_model_can_be_compared_with_a_host_that_cannot_give_it(there):
    lines = there("diff", "host", "zen4", "--backend", "rome").splitlines()
    assert {"+AVX512F", "+LA57", "-INVARIANT_TSC"} <= set(lines)


def test_a_check_lists_what_is_missing_and_ends_with_1(there):
    text = there("check", "haswell", "--backend", "rome", code=1)
    assert text.splitlines()[:3] == [
        "missing: PCID (0x1 ECX bit 17)",
        "missing: ERMS (0x7 EBX bit 9)",
        "missing: INVPCID (0x7 EBX bit 10)",
    ]
    assert text.splitlines()[3].startswith("note: the guest takes its processor for one of GenuineIntel")
    assert text.splitlines()[4:] == ["a guest of kvm on this host cannot have haswell: 3 missing"]
    found = json.loads(there("check", "haswell", "--backend", "rome", "--json", code=1))
    assert (found["model"], found["backend"], len(found["notes"])) == ("haswell", "kvm", 1)
    assert found["missing"][0] == {"name": "PCID", "place": "0x1 ECX bit 17"}


def test_a_check_of_what_a_host_can_give_ends_with_0(there):
    assert there("check", "zen2", "--backend", "rome") == "a guest of kvm on this host can have zen2\n"


def test_a_template_is_a_model_like_any_other(there, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "haswell"\nbrand = "Mine"\nremove = ["erms", "pcid", "invpcid"]')
    assert "can have" in there("check", path, "--backend", "rome")
    assert "brand: Mine" in there("show", path)
    path.write_text('extends = "haswell"\n\nremove = ["ermss"]')
    assert f"{path}:3: remove: there is no feature 'ermss'; near it: erms" in there("show", path, code=2)


def test_a_machine_with_any_model_is_planned_without_a_hypervisor(invoke, tmp_path):
    kernel = tiny_elf(tmp_path / "vmlinux", code=b"\xf4")
    for model in ("zen4", "sapphirerapids", "host"):
        done = invoke("plan", kernel, "--cpu", model)
        assert done.exit_code == 0, done.stderr
    assert "AMD EPYC Processor (Genoa)" in invoke("plan", kernel, "--cpu", "zen4").stdout


@pytest.mark.parametrize("command", ["show", "check"])
def test_a_name_that_there_is_not_is_a_mistake(invoke, command):
    done = invoke("cpuid", command, "haswel")
    assert done.exit_code == 2 and "near it: haswell" in done.stderr


def test_without_a_command_there_is_help(invoke):
    done = invoke("cpuid")
    assert done.exit_code == 2 and "check" in done.stderr and "models" in done.stderr
