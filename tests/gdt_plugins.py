"""Plugins whose GDT is their name, to see which of them is asked."""

from test_plugins import install

GDT = """
from anyvisor import hookimpl
@hookimpl({options})
def anyvisor_gdt():
    return "{name}"
"""


def install_gdt(tmp_path, monkeypatch, name, options=""):
    install(tmp_path, monkeypatch, name, GDT.format(name=name, options=options))


def gdt(plugins):
    return plugins.hook.anyvisor_gdt(config=None, layout=None, kernel=None)


def names(plugins):
    return [info.name for info in plugins.infos]
