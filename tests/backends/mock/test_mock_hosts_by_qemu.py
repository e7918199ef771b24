"""The hosts can do what QEMU's processor models of their generation ask for, a list that nobody here wrote.

QEMU is asked for its model's features by register; what its own emulated processor lacks of them counts too.
"""

import json
import subprocess

import pytest

from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import BY_PLACE, Feature
from anyvisor_mock.host_facts import host_facts
from x86_64.cpuid_judges import TIMEOUT, need

MODELS = [
    ("amd-k10", "Opteron_G3"),
    ("amd-bulldozer", "Opteron_G4"),
    ("amd-naples", "EPYC"),
    ("amd-rome", "EPYC-Rome"),
    ("amd-milan", "EPYC-Milan"),
    ("amd-genoa", "EPYC-Milan"),
    ("intel-nehalem", "Nehalem"),
    ("intel-broadwell", "Broadwell"),
    ("intel-skylake-sp", "Skylake-Server"),
    ("intel-cascade-lake-sp", "Cascadelake-Server-noTSX"),
    ("intel-ice-lake-sp", "Icelake-Server-noTSX"),
    ("intel-sapphire-rapids", "Icelake-Server-noTSX"),
    ("intel-alder-lake", "Skylake-Client-noTSX-IBRS"),
]
NOT_KVM_S = {Feature.HYPERVISOR, Feature.TSC_DEADLINE, Feature.MONITOR}
"""KVM tells of the first two elsewhere, and offers the last to whoever asks for it specially."""
LACKING = {"amd-milan": {Feature.ERMS, Feature.FSRM}}
"""The machine that was measured does not have these, though its model does."""
WORD_LISTS = ("feature-words", "filtered-features")


def asked_for(model: str) -> dict[tuple[int, int, str], int]:
    """The bits of each register, by leaf and subleaf, that the model wants."""
    path = "/machine/unattached/device[0]"
    asks = [{"execute": "qom-get", "arguments": {"path": path, "property": name}} for name in WORD_LISTS]
    lines = [json.dumps(each) for each in ({"execute": "qmp_capabilities"}, *asks, {"execute": "quit"})]
    command = [need("qemu-system-x86_64", "qemu-system-x86"), "-accel", "tcg", "-machine", "pc", "-cpu", model]
    command += ["-S", "-nodefaults", "-display", "none", "-qmp", "stdio"]
    done = subprocess.run(command, input="\n".join(lines), text=True, capture_output=True, timeout=TIMEOUT, check=True)
    answers = [json.loads(line).get("return") for line in done.stdout.splitlines()]
    found: dict[tuple[int, int, str], int] = {}
    for word in [word for answer in answers if isinstance(answer, list) for word in answer]:
        place = word["cpuid-input-eax"], word.get("cpuid-input-ecx", 0), word["cpuid-register"].lower()
        found[place] = found.get(place, 0) | word["features"]
    return found


@pytest.mark.parametrize(("host", "model"), MODELS, ids=lambda each: each)
def test_a_host_has_every_feature_of_qemu_s_model_of_its_generation(host: str, model: str) -> None:
    table = host_facts(host).supported_state(Cpuid)
    wanted = asked_for(model)
    assert sum(bits.bit_count() for bits in wanted.values()) > 30
    missing = {
        BY_PLACE.get((leaf, subleaf, register, bit), (hex(leaf), subleaf, register, bit))
        for (leaf, subleaf, register), bits in wanted.items()
        for bit in range(32)
        if bits & ~getattr(table[leaf, subleaf], register) & 1 << bit
    }
    assert missing - NOT_KVM_S == LACKING.get(host, set())
