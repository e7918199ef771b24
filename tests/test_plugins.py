import sys
import textwrap
import warnings

import pytest

from anyvisor import hookimpl, hookspecs
from anyvisor.config import MachineConfig
from anyvisor.errors import ConfigError, PluginError
from anyvisor.plugins import DEFAULTS, Plugins, PluginWarning, crediting, import_target, load_plugins
from anyvisor.x86_64.generic import FACTS


def install(folder, monkeypatch, name, code, entry=None):
    """A distribution as pip would leave it, importable for the length of a test."""
    (folder / f"{name}.py").write_text(textwrap.dedent(code))
    info = folder / f"{name}-1.2.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n")
    (info / "entry_points.txt").write_text(f"[anyvisor]\n{name} = {entry or name}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)


def test_anyvisors_own_plugins_load_without_a_problem():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plugins = load_plugins()
    assert not plugins.problems
    assert [info.module for info in plugins.infos[: len(DEFAULTS)]] == list(DEFAULTS)


def test_an_installed_plugin_is_found_and_asked_before_the_defaults(tmp_path, monkeypatch):
    install(
        tmp_path, monkeypatch, "stranger_gdt",
        """
        from anyvisor import hookimpl
        @hookimpl
        def anyvisor_gdt():
            return "mine"
        """,
    )  # fmt: skip
    plugins = load_plugins()
    assert plugins.hook.anyvisor_gdt(config=None, layout=None, kernel=None) == "mine"
    (info,) = [info for info in plugins.infos if info.name == "stranger_gdt"]
    assert (info.distribution, info.version, info.hooks) == ("stranger_gdt", "1.2.3", ("anyvisor_gdt",))


@pytest.mark.parametrize(
    ("code", "entry", "cause"),
    [
        ("import no_such_module_anywhere", None, "ModuleNotFoundError"),
        ("1/0", None, "ZeroDivisionError"),
        ("", "stranger_broken:nothing", "AttributeError"),
        ("from anyvisor import hookimpl\n@hookimpl\ndef anyvisor_gdt(colour): ...", None, "colour"),
    ],
)
def test_a_broken_plugin_is_reported_by_name_and_not_fatal(tmp_path, monkeypatch, code, entry, cause):
    install(tmp_path, monkeypatch, "stranger_broken", code, entry)
    with pytest.warns(PluginWarning, match="stranger_broken"):
        plugins = load_plugins()
    (problem,) = plugins.problems
    assert (problem.name, problem.distribution, problem.version) == (
        "stranger_broken",
        "stranger_broken",
        "1.2.3",
    )
    assert cause in problem.cause
    assert set(DEFAULTS) <= {info.module for info in plugins.infos}


def test_a_misspelt_hook_is_reported_with_the_likely_one(tmp_path, monkeypatch):
    code = """
        from anyvisor import hookimpl
        @hookimpl
        def anyvisor_gtd(): return 1
        @hookimpl
        def anyvisor_gdt(): return 2
    """
    install(tmp_path, monkeypatch, "stranger_typo", code)
    with pytest.warns(
        PluginWarning,
        match="there is no hook anyvisor_gtd, so it is never called; did you mean anyvisor_gdt?",
    ):
        plugins = load_plugins()
    assert plugins.hook.anyvisor_gdt(config=None, layout=None, kernel=None) == 2


def test_two_hypervisors_of_one_name_are_an_error_naming_both_plugins():
    class One:
        @hookimpl
        def anyvisor_hypervisors(self):
            return {"toy": "one:open"}

    class Two:
        @hookimpl
        def anyvisor_hypervisors(self):
            return {"toy": "two:open"}

    plugins = Plugins()
    plugins.register(One(), "first")
    plugins.register(Two(), "second")
    with pytest.raises(PluginError, match="both first and second offer 'toy'"):
        plugins.names_from("anyvisor_hypervisors")


def test_who_answered_and_who_adjusted_is_credited():
    class Default:
        @hookimpl(trylast=True)
        def anyvisor_gdt(self):
            return "default"

    class Declines:
        @hookimpl
        def anyvisor_gdt(self):
            return None

    class Adjusts:
        @hookimpl(wrapper=True)
        def anyvisor_gdt(self):
            return (yield) + "!"

    plugins = Plugins()
    for plugin in (Default(), Declines(), Adjusts()):
        plugins.register(plugin)
    with crediting() as credits_:
        assert plugins.hook.anyvisor_gdt(config=None, layout=None, kernel=None) == "default!"
    assert [(each.plugin, each.adjusted) for each in credits_] == [("Default", False), ("Adjusts", True)]


def test_a_plugin_that_raises_is_named_and_anyvisors_own_errors_pass():
    class Bad:
        @hookimpl
        def anyvisor_gdt(self):
            raise KeyError("gone")

        @hookimpl
        def anyvisor_msrs(self):
            raise ConfigError("as it is")

    plugins = Plugins()
    plugins.register(Bad(), "bad")
    with pytest.raises(PluginError, match="plugin bad failed in anyvisor_gdt: KeyError"):
        plugins.hook.anyvisor_gdt(config=None, layout=None, kernel=None)
    with pytest.raises(ConfigError, match="as it is"):
        plugins.hook.anyvisor_msrs(config=MachineConfig(), facts=FACTS, vcpu=0)


def test_a_plugin_registered_twice_is_reported():
    plugin = type("Twice", (), {})()
    plugins = Plugins()
    plugins.register(plugin, "twice")
    with pytest.warns(PluginWarning, match="twice: refused"):
        plugins.register(plugin, "twice")
    assert len(plugins.infos) == 1


@pytest.mark.parametrize("target", ["no_such_module_anywhere:x", "os:no_such_name", "os", ":", "os:path.nothing"])
def test_a_target_that_cannot_be_imported_is_a_plugin_error(target):
    with pytest.raises(PluginError, match="backend toy"):
        import_target(target, "backend toy")


def test_every_hook_is_documented():
    hooks = [value for name, value in vars(hookspecs).items() if name.startswith("anyvisor_")]
    assert len(hooks) > 15
    assert all(hook.__doc__ for hook in hooks)


def with_plugin(**hooks):
    return load_plugins(
        [type("Mine", (), {name: staticmethod(hook) for name, hook in hooks.items()})()], installed=False
    )


def before():
    raise ValueError("before")
    yield


def after():
    yield
    raise ValueError("after")


@pytest.mark.parametrize("wrapper", [before, after])
def test_a_wrapper_that_raises_is_named(wrapper):
    plugins = with_plugin(anyvisor_msrs=hookimpl(wrapper=True)(wrapper))
    with pytest.raises(PluginError, match=f"plugin Mine failed in anyvisor_msrs: ValueError: {wrapper.__name__}"):
        plugins.hook.anyvisor_msrs(config=MachineConfig(), facts=FACTS, vcpu=0)


def raises():
    raise KeyError("gone")


def wraps():
    return (yield)


@pytest.mark.parametrize(
    "hook",
    [hookimpl(raises), hookimpl(lambda: ["kvm"]), hookimpl(lambda: {"x": int}), hookimpl(wrapper=True)(wraps)],
    ids=["raises", "returns a list", "names no text", "wraps"],
)
def test_a_plugin_that_cannot_name_its_hypervisors_is_reported_and_stops_nobody_else(hook):
    plugins = with_plugin(anyvisor_hypervisors=hook)
    with pytest.warns(PluginWarning, match="Mine"):
        assert "kvm" in plugins.names_from("anyvisor_hypervisors")
    plugins.names_from("anyvisor_hypervisors")
    assert [problem.name for problem in plugins.problems] == ["Mine"]


def test_a_refused_plugin_leaves_none_of_its_hooks_behind():
    class Half:
        @hookimpl
        def anyvisor_devices(self):
            return ()

        @hookimpl
        def anyvisor_gdt(self, colour):
            return colour

    plugins = Plugins()
    with pytest.warns(PluginWarning, match="Half: refused"):
        plugins.register(Half())
    assert not plugins.hook.anyvisor_devices.get_hookimpls()
    assert not plugins.hook.anyvisor_gdt.get_hookimpls()


def test_registering_a_plugin_twice_keeps_the_first():
    class Twice:
        @hookimpl
        def anyvisor_devices(self):
            return ()

    plugin, plugins = Twice(), Plugins()
    plugins.register(plugin)
    with pytest.warns(PluginWarning, match="refused"):
        plugins.register(plugin)
    assert len(plugins.hook.anyvisor_devices.get_hookimpls()) == 1


def test_an_optional_hook_that_nobody_specified_is_no_problem():
    class Both:
        @hookimpl(optionalhook=True)
        def anyvisor_of_tomorrow(self): ...

        @hookimpl
        def anyvisor_gdt(self):
            return 1

    plugins = Plugins(strict=True)
    plugins.register(Both())
    plugins.manager.check_pending()
    assert plugins.infos[0].hooks == ("anyvisor_gdt",)


def test_a_hook_without_its_decorator_is_reported():
    class Bare:
        def anyvisor_gdt(self):
            return 1

        anyvisor_msrs = None

    plugins = Plugins()
    with pytest.warns(PluginWarning, match="plugin Bare: anyvisor_gdt has no @hookimpl before it"):
        plugins.register(Bare())
    assert len(plugins.problems) == 1


def test_a_plugin_that_imported_the_specifications_is_not_taken_to_implement_them():
    plugins = Plugins(strict=True)
    plugins.register(type("Curious", (), {"anyvisor_gdt": staticmethod(hookspecs.anyvisor_gdt)})())
    assert not plugins.infos[0].hooks


def test_a_hook_may_be_implemented_under_another_name():
    class Renamed:
        @hookimpl(specname="anyvisor_gdt")
        def mine(self):
            return "mine"

    plugins = Plugins(strict=True)
    plugins.register(Renamed(), "renamed")
    with crediting() as credits_:
        assert plugins.hook.anyvisor_gdt(config=None, layout=None, kernel=None) == "mine"
    assert [(each.hook, each.plugin) for each in credits_] == [("anyvisor_gdt", "renamed")]


def test_who_collects_credits_outside_is_not_told_of_those_inside():
    plugins = with_plugin(anyvisor_gdt=hookimpl(lambda: 1))
    with crediting() as outer:
        with crediting() as inner:
            plugins.hook.anyvisor_gdt(config=None, layout=None, kernel=None)
        with crediting(beside=True) as beside:
            plugins.hook.anyvisor_gdt(config=None, layout=None, kernel=None)
    assert (len(outer), len(inner), len(beside)) == (1, 1, 1)
