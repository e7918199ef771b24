"""Two programs that nobody here wrote, and what they make of CPUID tables: `cpuid` and hwloc's `lstopo`."""

import os
import re
import shutil
import subprocess
from xml.etree import ElementTree

import attrs
import pytest

TIMEOUT = 60


def need(command, package):
    if not shutil.which(command):
        message = f"{command} is not installed; apt-get install {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return command


def cpuid_tool(tables):
    """What `cpuid -f` says of each table, as its lines."""
    text = "".join(table.to_raw_dump(cpu) for cpu, table in enumerate(tables))
    command = [need("cpuid", "cpuid"), "-f", "-"]
    done = subprocess.run(command, input=text, text=True, capture_output=True, timeout=TIMEOUT, check=True)
    assert not done.stderr
    parts = re.split(r"(?m)^CPU \d+:$", done.stdout)[1:]
    assert len(parts) == len(tables)
    return [[line.strip() for line in part.splitlines()] for part in parts]


def values(lines, words):
    """The values of the tool's lines `words = value`, without the decimal in brackets."""
    found = [re.fullmatch(rf"\(?{re.escape(words)}\)?\s*[=:] (.*?)(?: \(\d+\))?", line) for line in lines]
    return [match[1] for match in found if match]


@attrs.frozen
class SeenCpu:
    """Where hwloc puts a processor: package, core and die in it (None: it cannot tell), and who shares its caches."""

    package: int
    core: int | None
    die: int | None
    sharing: dict[str, frozenset[int]]


def hwloc(tables, folder):
    """What hwloc makes of the tables, processor by processor, reading nothing but CPUID."""
    (folder / "hwloc-cpuid-info").write_text("Architecture: x86\n")
    for cpu, table in enumerate(tables):
        (folder / f"pu{cpu}").write_text("".join(map(_hwloc_line, table)))
    command = [need("lstopo-no-graphics", "hwloc-nox"), "--no-io", "--of", "xml"]
    environment = {**os.environ, "HWLOC_CPUID_PATH": str(folder), "HWLOC_COMPONENTS": "x86,stop"}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=TIMEOUT, check=True)
    return _seen(ElementTree.fromstring(done.stdout))


def _hwloc_line(entry):
    """`mask eax ebx ecx edx => eax ebx ecx edx` in hexadecimal; the mask says which inputs count."""
    answer = " ".join(f"{value:x}" for value in (entry.eax, entry.ebx, entry.ecx, entry.edx))
    return f"{5 if entry.indexed else 1:x} {entry.leaf:x} 0 {entry.subleaf:x} 0 => {answer}\n"


def _seen(tree):
    objects = {kind: tree.findall(f".//object[@type='{kind}']") for kind in ("Package", "Core", "Die", "PU")}
    caches = [each for each in tree.iter("object") if each.get("type").endswith("Cache")]
    return {
        int(pu.get("os_index")): SeenCpu(
            *(_index(pu, objects[kind]) for kind in ("Package", "Core", "Die")),
            {each.get("type"): _cpus(each) for each in caches if pu in each.iter()},
        )
        for pu in objects["PU"]
    }


def _index(pu, candidates):
    around = [int(each.get("os_index")) for each in candidates if pu in each.iter()]
    return around[0] if around else None


def _cpus(element):
    return frozenset(int(pu.get("os_index")) for pu in element.iter("object") if pu.get("type") == "PU")
