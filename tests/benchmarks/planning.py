"""What planning costs by the number of vCPUs, and by the size of RAM: run it as a script.

Every figure is the best of several rounds, and the ratios are to the first line of the same table: what grows no faster
than the vCPUs do is linear.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from anyvisor import assemble
from anyvisor.config import MAX_VCPUS, MachineConfig
from anyvisor.facts import HostFacts
from anyvisor.memory import GIB, TIB, format_size
from anyvisor.plan import BootPlan
from anyvisor.testing.kernels import tiny_kernel
from anyvisor.x86_64.describe import describe
from anyvisor_mock.host_facts import host_facts

HOST = "intel-sapphire-rapids"
VCPUS = (1, 16, 254, 1024, MAX_VCPUS)
SIZES = (GIB, 64 * GIB, TIB)
ROUNDS = 3


def best(call: Callable[[], object]) -> float:
    """Milliseconds."""
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return min(found) * 1000


def row(name: str, config: MachineConfig, facts: HostFacts) -> tuple[str, list[float]]:
    plan = assemble(config, facts)
    text = plan.to_json()
    return name, [
        best(lambda: assemble(config, facts)),
        sum(blob.size_bytes for blob in plan.blobs) / 1024,
        best(plan.to_json),
        len(text) / 1024,
        best(lambda: BootPlan.from_json(text)),
        best(lambda: describe(plan, facts)),
    ]


def show(title: str, rows: list[tuple[str, list[float]]]) -> None:
    heads = ("plan ms", "pieces KiB", "to JSON ms", "JSON KiB", "from JSON ms", "in words ms")
    print(f"{title:10}" + "".join(f"{head:>21}" for head in heads))
    _, first = rows[0]
    for name, values in rows:
        cells = (f"{value:11.1f} ({value / base:6.1f})" for value, base in zip(values, first, strict=True))
        print(f"{name:10}" + "".join(f"{cell:>21}" for cell in cells))
    print()


def main() -> None:
    facts = attrs.evolve(host_facts(HOST), max_vcpus=MAX_VCPUS)
    with tempfile.TemporaryDirectory() as folder:
        config = MachineConfig(kernel=tiny_kernel(Path(folder) / "vmlinux"))
        assemble(config, facts)  # imports everything
        show("vCPUs", [row(str(count), config.replace(vcpus=count), facts) for count in VCPUS])
        show("RAM", [row(format_size(size), config.replace(memory=size), facts) for size in SIZES])


if __name__ == "__main__":
    main()
