"""Plugins as they are found: their entry points, their names, and the version of the API that they want."""

import pytest

from anyvisor import hookimpl
from anyvisor.errors import PluginError
from anyvisor.plugins import (
    API_VERSION,
    OLDEST_API,
    PluginChoice,
    Plugins,
    PluginWarning,
    load_plugins,
)
from anyvisor.plugins import loading as plugin_loading
from gdt_plugins import GDT, gdt, install_gdt, names
from test_plugins import install

# -- the API's version -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (
            API_VERSION + 1,
            f"needs version {API_VERSION + 1} of the plugin API, this anyvisor has {API_VERSION}; update",
        ),
        (
            OLDEST_API - 1,
            f"made for version {OLDEST_API - 1} .* knows {OLDEST_API} to {API_VERSION}; update the plugin",
        ),
        ("1", "is '1'; make it a whole number"),
        (True, "is True; make it a whole number"),
        (None, "is None; make it a whole number"),
    ],
)
def test_a_plugin_for_another_api_is_left_out_whole(wanted, words):
    mine = type("Mine", (), {"ANYVISOR_API": wanted, "anyvisor_gdt": staticmethod(hookimpl(lambda: "mine"))})
    plugins = Plugins()
    with pytest.warns(PluginWarning, match=f"plugin Mine: left out: .*{words}"):
        plugins.register(mine())
    assert gdt(plugins) is None
    assert not plugins.infos


def test_a_range_of_api_versions_is_understood(monkeypatch):
    monkeypatch.setattr(plugin_loading, "API_VERSION", 5)
    monkeypatch.setattr(plugin_loading, "OLDEST_API", 3)
    plugins = Plugins(strict=True)
    for wanted in (3, 4, 5):
        plugins.register(type(f"Wants{wanted}", (), {"ANYVISOR_API": wanted})())
    assert names(plugins) == ["Wants3", "Wants4", "Wants5"]
    for wanted in (2, 6):
        with pytest.raises(PluginError, match=f"version {wanted}"):
            plugins.register(type("Wants", (), {"ANYVISOR_API": wanted})())


# -- entry points ------------------------------------------------------------------------------------------------------


def test_entry_points_that_cannot_be_read_are_named_and_stop_nobody_else(tmp_path, monkeypatch):
    install_gdt(tmp_path, monkeypatch, "stranger_gdt")
    install(tmp_path, monkeypatch, "stranger_torn", "")
    (tmp_path / "stranger_torn-1.2.3.dist-info" / "entry_points.txt").write_text("[anyvisor]\nno equals sign\n")
    with pytest.warns(PluginWarning, match=r"stranger_torn-1\.2\.3\.dist-info: its entry points cannot be read"):
        plugins = load_plugins()
    assert gdt(plugins) == "stranger_gdt"


def test_the_first_of_two_copies_of_a_distribution_counts(tmp_path, monkeypatch):
    for name, where in (("old", tmp_path / "old"), ("new", tmp_path / "new")):
        where.mkdir()
        install(where, monkeypatch, "stranger_twice", GDT.format(name=name, options=""))
    plugins = load_plugins(choice=PluginChoice(strict=True))
    assert gdt(plugins) == "new"
    assert names(plugins).count("stranger_twice") == 1


def test_a_newer_copy_that_is_no_plugin_any_more_hides_the_older(tmp_path, monkeypatch):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        install(tmp_path / name, monkeypatch, "stranger_gone", GDT.format(name=name, options=""))
    (tmp_path / "new" / "stranger_gone-1.2.3.dist-info" / "entry_points.txt").write_text("[other]\na = b\n")
    assert "stranger_gone" not in names(load_plugins())


@pytest.mark.parametrize("entry", ["stranger_gdt [extra]", "stranger_gdt : plugin [a,b]"])
def test_extras_after_a_target_are_passed_over(tmp_path, monkeypatch, entry):
    install(
        tmp_path,
        monkeypatch,
        "stranger_gdt",
        f"import sys\n{GDT.format(name='x', options='')}\nplugin = sys.modules[__name__]",
        entry,
    )
    assert gdt(load_plugins(choice=PluginChoice(strict=True))) == "x"


@pytest.mark.parametrize(
    ("taken", "words"),
    [("kvm", "refused: there is a plugin of that name already, anyvisor_kvm of anyvisor [0-9.]+; rename one")],
)
def test_a_stranger_cannot_take_the_name_of_one_of_ours(tmp_path, monkeypatch, taken, words):
    install_gdt(tmp_path, monkeypatch, "stranger_gdt")
    (tmp_path / "stranger_gdt-1.2.3.dist-info" / "entry_points.txt").write_text(f"[anyvisor]\n{taken} = stranger_gdt\n")
    with pytest.warns(PluginWarning, match=rf"plugin {taken} \(of stranger_gdt 1\.2\.3\): {words}"):
        plugins = load_plugins()
    assert "anyvisor_kvm" in [info.module for info in plugins.infos]


def test_the_time_of_an_import_is_told(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "stranger_slow", "import time; time.sleep(0.05)")
    infos = {info.name: info for info in load_plugins().infos}
    assert infos["stranger_slow"].import_ms >= 50
    again = {info.name: info for info in load_plugins(choice=PluginChoice(strict=True)).infos}
    assert again["stranger_slow"].import_ms == infos["stranger_slow"].import_ms  # it is imported once
