"""No false alarm: what anyvisor plans by default, by every protocol, of every machine, CPU model, host and example."""

import importlib
import itertools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "x86_64" / "boot_checks"))

from boot_plans import KERNELS, plan_of

from anyvisor import MachineConfig, assemble, generic_facts
from anyvisor.checks import check
from anyvisor.common import common_facts
from anyvisor.config import NumaNode
from anyvisor.plugins import load_plugins
from anyvisor.x86_64.cpu_models import fitting_models, model_names
from anyvisor_mock.host_facts import host_facts, host_names

HOSTS = {"generic": generic_facts, **{name: lambda name=name: host_facts(name) for name in host_names()}}
MACHINES = {
    "none": {"vcpus": 1, "tables": "none"},
    "acpi": {"tables": "acpi"},
    "reduced hardware": {"tables": "acpi", "reduced_hardware": True},
    "mptable": {"tables": "mptable"},
    "8 vCPUs": {"vcpus": 8, "tables": "both"},
    "NUMA": {"vcpus": 4, "numa": (NumaNode("128M", "0-1"), NumaNode("128M", "2-3")), "tables": "acpi"},
    "beyond 4 GiB": {"memory": "6G"},
    "32 MiB": {"memory": "32M"},
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_machine(kernel, tmp_path):
    found = {name: check(plan_of(kernel, tmp_path, **machine)) for name, machine in MACHINES.items()}
    assert found == {name: [] for name in MACHINES}


@pytest.fixture
def config(tmp_path):
    """A function that gives the configuration of a kernel's machine."""

    def make(kernel, **more):
        plan_of(kernel, tmp_path)  # writes the images
        given = KERNELS[kernel][1]
        initrd = {} if given["protocol"] == "raw" else {"initrd": tmp_path / "initrd"}
        return MachineConfig(kernel=tmp_path / kernel, **{**given, **initrd, **more})

    return make


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_host(kernel, config):
    machine = config(kernel, vcpus=2)
    found = {name: check(assemble(machine, facts())) for name, facts in HOSTS.items()}
    assert found == {name: [] for name in HOSTS}


def test_every_cpu_model(config):
    tried = set()
    for host, facts in HOSTS.items():
        for model in set(fitting_models(facts())) - tried:
            assert check(assemble(config("bzimage", vcpus=3, cpu=model), facts())) == [], (host, model)
            tried.add(model)
    assert tried == set(model_names())


def test_what_neighbouring_hosts_have_in_common(config):
    machine = config("bzimage", vcpus=2)
    for first, second in itertools.pairwise(HOSTS):
        assert check(assemble(machine, common_facts(HOSTS[first](), HOSTS[second]()))) == [], (first, second)


def test_a_stranger_s_steps(config, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples" / "anyvisor-flat-gdt" / "src")
    plugins = load_plugins([importlib.import_module("anyvisor_flat_gdt")])
    plan = assemble(config("bzimage", vcpus=1), generic_facts(), plugins)
    assert plan.blob("GDT").content != assemble(config("bzimage", vcpus=1), generic_facts()).blob("GDT").content
    assert check(plan) == []
