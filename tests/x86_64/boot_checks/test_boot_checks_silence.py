"""No false alarm: what anyvisor plans by default, for any kernel, machine and host, passes every check in silence."""

import os

import pytest
from boot_plans import CPIO, plan_of

from anyvisor import MachineConfig, assemble, generic_facts
from anyvisor.checks import check
from anyvisor.config import NumaNode, Topology
from anyvisor.errors import HypervisorUnavailable
from anyvisor_mock.host_facts import host_facts, host_names
from guests import debian

MACHINES = {
    "one vCPU": {"vcpus": 1, "tables": "none"},
    "ACPI": {"vcpus": 1, "tables": "acpi"},
    "reduced hardware": {"tables": "acpi", "reduced_hardware": True},
    "MP table": {"tables": "mptable"},
    "300 vCPUs": {"vcpus": 300, "tables": "acpi"},
    "254 vCPUs": {"vcpus": 254},
    "packages of three": {"vcpus": 12, "topology": Topology(sockets=2, cores=3, threads=2)},
    "NUMA": {"vcpus": 4, "numa": (NumaNode("128M", "0-1"), NumaNode("128M", "2-3")), "tables": "acpi"},
    "CPU model": {"cpu": "minimal"},
    "beyond 4 GiB": {"memory": "6G"},
}
REAL = [
    ("cloud_kernel", {"protocol": "linux64", "unpack": False}),
    ("cloud_kernel", {"protocol": "linux64", "unpack": True}),
    ("cloud_kernel", {"protocol": "linux32", "unpack": False}),
    ("cloud_kernel", {"protocol": "pvh"}),
    ("generic_kernel", {"unpack": False}),
    ("pae_kernel", {"unpack": False}),
    ("pae_kernel", {"protocol": "pvh"}),
    ("xen", {}),
]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", ["bzimage", "pvh", "multiboot"])
def test_every_machine(name, machine, tmp_path):
    assert check(plan_of(name, tmp_path, **MACHINES[machine])) == []


@pytest.mark.parametrize("host", host_names())
def test_every_host(host, tmp_path):
    plan_of("bzimage", tmp_path)  # writes the images
    config = MachineConfig(kernel=tmp_path / "bzimage", initrd=tmp_path / "initrd", vcpus=3)
    assert check(assemble(config, host_facts(host))) == []


@pytest.mark.parametrize(("kernel", "config"), REAL, ids=[f"{name} {config}" for name, config in REAL])
def test_real_kernels(kernel, config, tmp_path):
    (tmp_path / "initrd").write_bytes(CPIO)
    try:
        image = getattr(debian, kernel)()
    except HypervisorUnavailable as error:
        assert os.environ.get("CI") != "true"
        pytest.skip(f"no Debian kernel: {error}")
    path = image if kernel == "xen" else image.vmlinuz
    plan = assemble(MachineConfig(kernel=path, initrd=tmp_path / "initrd", vcpus=2, **config), generic_facts())
    assert check(plan) == []


def test_a_plain_boot_without_an_initrd_gets_the_one_hint_that_is_meant(tmp_path):
    plan = plan_of("bzimage", tmp_path, initrd=None)
    assert [each.check for each in check(plan)] == ["root-file-system"]
