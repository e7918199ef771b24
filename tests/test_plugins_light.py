"""Loading plugins stays light: what is imported is looked at, never the time it takes."""

import subprocess
import sys

import pytest

from anyvisor.plugins import DEFAULTS

LIGHT = """
import sys
{before}
from anyvisor.plugins import load_plugins
plugins = load_plugins(installed={installed})
for hook in ("anyvisor_hypervisors", "anyvisor_device_factories", "anyvisor_commands"):
    plugins.names_from(hook)
plugins.hooks
assert len(plugins.infos) >= {count}, plugins.infos
inside = [name for name in sys.modules if name.rpartition(".")[0] in {own!r}]
print(*[name for name in {heavy!r} if name in sys.modules], *inside)
"""
HEAVY = [
    "_pytest",
    "cattrs",
    "fcntl",
    "hypothesis",
    "logging",
    "pytest",
    "rich",
    "termios",
    "tomllib",
    "unicorn",
    "anyvisor.x86_64.cpuid",
    "anyvisor.x86_64.boot",
    "anyvisor.testing",
    "anyvisor.plugins.trace",
    "difflib",
]


def imported(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("installed", [True, False])
def test_loading_every_plugin_imports_nothing_heavy(installed):
    heavy = [*HEAVY, *([] if installed else ["importlib.metadata", "email"])]
    code = LIGHT.format(before="", installed=installed, count=len(DEFAULTS), heavy=heavy, own=DEFAULTS)
    assert imported(code) == ""


def test_a_heavy_import_would_be_seen():
    before = "import anyvisor_kvm.hypervisor, cattrs, anyvisor.x86_64.cpuid"
    code = LIGHT.format(before=before, installed=False, count=len(DEFAULTS), heavy=HEAVY, own=DEFAULTS)
    assert {"anyvisor_kvm.hypervisor", "cattrs", "anyvisor.x86_64.cpuid"} <= set(imported(code).split())
