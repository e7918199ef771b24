"""Two programs that nobody here wrote, and which features they say a processor model has: QEMU and gcc."""

import json
import re
import subprocess

from cpuid_judges import need

from qmp import ask

TIMEOUT = 30
BY_OTHER_NAMES = {
    "BMI": "BMI1",
    "LZCNT": "ABM",
    "PCLMUL": "PCLMULQDQ",
    "RDRND": "RDRAND",
    "PRFCHW": "PREFETCHW",
    "AVXVNNI": "AVX_VNNI",
    "GCC_HAVE_SYNC_COMPARE_AND_SWAP_16": "CMPXCHG16B",
    **{
        f"AVX512{name}": f"AVX512_{name}"
        for name in ("IFMA", "VBMI", "VBMI2", "VNNI", "BITALG", "VPOPCNTDQ", "BF16", "FP16")
    },
}
"""What gcc calls a feature, and the manuals do."""


def qemu_words(model):
    """The feature words of a model by leaf, subleaf and register, whether or not TCG can do them."""
    command = [need("qemu-system-x86_64", "qemu-system-x86"), "-machine", "microvm", "-cpu", model, "-accel", "tcg"]
    command += ["-S", "-nodefaults", "-display", "none", "-qmp", "stdio"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as qemu:
        _answer(qemu)
        ask(qemu, "qmp_capabilities")
        path = ask(qemu, "query-cpus-fast")[0]["qom-path"]
        found = {}
        for name in ("feature-words", "filtered-features"):
            for word in ask(qemu, "qom-get", path=path, property=name):
                place = word["cpuid-input-eax"], word.get("cpuid-input-ecx", 0), word["cpuid-register"].lower()
                found[place] = found.get(place, 0) | word["features"]
        ask(qemu, "quit")
        qemu.wait(TIMEOUT)
    assert found, model
    return found


def _answer(qemu):
    return json.loads(qemu.stdout.readline())


def gcc_features(march):
    """What `gcc -march` lets the compiler use, by the macros that it defines, in the manuals' words."""
    command = [need("gcc", "gcc"), f"-march={march}", "-dM", "-E", "-"]
    done = subprocess.run(command, input="", text=True, capture_output=True, timeout=TIMEOUT, check=True)
    names = re.findall(r"^#define __([A-Z0-9_]+?)(?:__)? 1$", done.stdout, re.MULTILINE)
    return {BY_OTHER_NAMES.get(name, name) for name in names}
