"""Which plugins are loaded, in which order, and what happens to those that are not."""

import sys
import threading
import warnings

import pytest

from anyvisor.errors import ConfigError, PluginError
from anyvisor.plugins import (
    DEFAULTS,
    PluginChoice,
    PluginWarning,
    choose_plugins,
    choosing,
    chosen,
    default_plugins,
    load_plugins,
)
from gdt_plugins import GDT, gdt, install_gdt, names
from test_plugins import install

# -- left out ----------------------------------------------------------------------------------------------------------


def test_a_blocked_plugin_is_not_even_imported(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "stranger_loud", "raise SystemExit('imported')")
    plugins = load_plugins(choice=PluginChoice(blocked=("stranger_loud",)))
    assert not plugins.problems
    assert "stranger_loud" not in sys.modules
    (blocked,) = plugins.blocked
    assert (blocked.name, blocked.module, blocked.distribution, blocked.version) == (
        "stranger_loud",
        "stranger_loud",
        "stranger_loud",
        "1.2.3",
    )


@pytest.mark.parametrize("module", DEFAULTS)
@pytest.mark.parametrize("installed", [True, False])
def test_each_of_our_own_can_be_left_out(module, installed):
    name = module.removeprefix("anyvisor_")
    plugins = load_plugins(installed=installed, choice=PluginChoice(blocked=(name,)))
    assert name not in names(plugins)
    assert len(plugins.infos) >= len(DEFAULTS) - 1
    assert [(info.name, info.module) for info in plugins.blocked] == [(name, module)]


def test_a_block_of_nothing_is_a_warning_with_the_likely_name():
    with pytest.warns(PluginWarning, match="plugin unicron: there is none of that name.* did you mean unicorn"):
        plugins = load_plugins(choice=PluginChoice(blocked=("unicron",)))
    assert "unicorn" in names(plugins)


def test_who_loads_only_our_own_is_not_told_of_blocks_of_others():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_plugins(installed=False, choice=PluginChoice(blocked=("a_stranger",)))


def test_the_environment_blocks_by_name(monkeypatch, no_environment):
    monkeypatch.setenv("ANYVISOR_BLOCK", " kvm, ,unicorn,")
    assert PluginChoice.from_environment() == PluginChoice(blocked=("kvm", "unicorn"))
    assert {"kvm", "unicorn"}.isdisjoint(names(load_plugins(installed=False)))


# -- first -------------------------------------------------------------------------------------------------------------


def test_a_plugin_that_is_named_comes_before_all_others_whatever_those_say(tmp_path, monkeypatch):
    install_gdt(tmp_path, monkeypatch, "stranger_pushy", "tryfirst=True")
    (tmp_path / "stranger_named.py").write_text(GDT.format(name="named", options="trylast=True"))
    assert gdt(load_plugins()) == "stranger_pushy"
    assert gdt(load_plugins(choice=PluginChoice(first=("stranger_named",)))) == "named"


def test_wrappers_of_a_named_plugin_are_the_outermost(tmp_path, monkeypatch):
    wrapper = "from anyvisor import hookimpl\n@hookimpl(wrapper=True{})\ndef anyvisor_gdt(): return (yield) + '{}'\n"
    install(tmp_path, monkeypatch, "stranger_wrap", wrapper.format(", tryfirst=True", "-inner"))
    (tmp_path / "stranger_outer.py").write_text(wrapper.format("", "-outer"))
    install_gdt(tmp_path, monkeypatch, "stranger_gdt")
    assert gdt(load_plugins(choice=PluginChoice(first=("stranger_outer",)))) == "stranger_gdt-inner-outer"


def test_what_is_named_is_a_module_or_an_attribute_of_one(tmp_path, monkeypatch):
    source = (
        "from anyvisor import hookimpl\nclass Mine:\n    @hookimpl\n    def anyvisor_gdt(self): return 7\nmine = Mine()"
    )
    install(tmp_path, monkeypatch, "stranger_holder", source)
    assert gdt(load_plugins(choice=PluginChoice(first=("stranger_holder:mine",)))) == 7


def test_an_installed_plugin_that_is_named_is_loaded_once_and_keeps_its_name_and_origin(tmp_path, monkeypatch):
    install_gdt(tmp_path, monkeypatch, "stranger_gdt")
    plugins = load_plugins(choice=PluginChoice(first=("anyvisor_pc", "stranger_gdt", "stranger_gdt")))
    assert names(plugins)[-2:] == ["pc", "stranger_gdt"]
    assert len(names(plugins)) == len(set(names(plugins)))
    assert plugins.infos[-1].distribution == "stranger_gdt"
    assert not plugins.problems


@pytest.mark.parametrize(
    "module", ["no_such_module_anywhere", "os:no_such_name", "", ":", ".relative", "./steps.py", "a-b"]
)
def test_a_named_plugin_that_cannot_be_imported_is_the_users_mistake(module):
    with pytest.raises(ConfigError, match=f"plugin {module} cannot be imported: .*PYTHONPATH"):
        load_plugins(choice=PluginChoice(first=(module,)))


@pytest.mark.parametrize("code", ["def (", "import no_such_module_anywhere", "1/0"])
def test_a_named_plugin_that_is_there_and_broken_has_no_advice_on_its_name(tmp_path, monkeypatch, code):
    (tmp_path / "stranger_wrong.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="plugin stranger_wrong cannot be imported: ") as caught:
        load_plugins(choice=PluginChoice(first=("stranger_wrong",)))
    assert "PYTHONPATH" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("def anyvisor_gtd(): ...", "there is no hook anyvisor_gtd"),
        ("def anyvisor_gdt(colour): ...", "refused.*colour"),
        ("def is_odd(number): ...", "implements no hook, so it does nothing"),
    ],
)
def test_whatever_else_is_wrong_with_a_named_plugin_is_an_error_too(tmp_path, monkeypatch, code, cause):
    mark = "@hookimpl" if code.startswith("def anyvisor") else ""
    (tmp_path / "stranger_wrong.py").write_text(f"from anyvisor import hookimpl\n{mark}\n{code}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger_wrong", raising=False)
    with pytest.raises(PluginError, match=f"plugin stranger_wrong.*{cause}"):
        load_plugins(choice=PluginChoice(first=("stranger_wrong",)))


# -- strict ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("1/0", "cannot be imported: ZeroDivisionError"),
        ("import sys; sys.exit('no')", "cannot be imported: SystemExit: no"),
        ("from anyvisor import hookimpl\n@hookimpl\ndef anyvisor_gdt(colour): ...", "refused: .*colour"),
        ("from anyvisor import hookimpl\n@hookimpl\ndef anyvisor_gtd(): ...", "did you mean anyvisor_gdt"),
        ("def anyvisor_gdt(): ...", "no @hookimpl before it"),
        ("ANYVISOR_API = 99", "it needs version 99"),
    ],
)
def test_what_is_a_warning_is_an_error_when_strict_with_the_same_words(
    tmp_path, monkeypatch, no_environment, code, cause
):
    install(tmp_path, monkeypatch, "stranger_broken", code)
    words = rf"plugin stranger_broken \(of stranger_broken 1\.2\.3\): .*{cause}"
    with pytest.warns(PluginWarning, match=words):
        lenient = load_plugins()
    assert len(lenient.problems) == 1
    monkeypatch.delitem(sys.modules, "stranger_broken", raising=False)
    monkeypatch.setenv("ANYVISOR_STRICT", "1")
    with pytest.raises(PluginError, match=words):
        load_plugins()


def test_a_plugin_that_fails_later_is_named_with_its_distribution_and_an_error_when_strict(tmp_path, monkeypatch):
    code = "from anyvisor import hookimpl\n@hookimpl\ndef anyvisor_hypervisors(): return ['toy']\n"
    install(tmp_path, monkeypatch, "stranger_list", code)
    words = r"plugin stranger_list \(of stranger_list 1\.2\.3\): anyvisor_hypervisors must .* not a list"
    with pytest.warns(PluginWarning, match=words):
        load_plugins().names_from("anyvisor_hypervisors")
    with pytest.raises(PluginError, match=words):
        load_plugins(choice=PluginChoice(strict=True)).names_from("anyvisor_hypervisors")


@pytest.mark.parametrize(("value", "strict"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_strict_and_trace_are_switched_on_by_anything_but_0(monkeypatch, no_environment, value, strict):
    monkeypatch.setenv("ANYVISOR_STRICT", value)
    monkeypatch.setenv("ANYVISOR_TRACE", value)
    assert PluginChoice.from_environment() == PluginChoice(strict=strict, trace=strict)


# -- of the process ----------------------------------------------------------------------------------------------------


def test_the_processs_plugins_follow_the_choice_and_are_made_once_for_each(no_environment):
    plain = default_plugins()
    choice = PluginChoice(blocked=("unicorn",))
    with choosing(choice):
        assert chosen() == choice
        without = default_plugins()
        assert without is default_plugins() is not plain
        choose_plugins(chosen().also(blocked=["kvm"], first=["anyvisor_pc"]))
        assert chosen() == PluginChoice(blocked=("unicorn", "kvm"), first=("anyvisor_pc",))
    assert default_plugins() is plain
    assert "unicorn" in names(plain)
    assert "unicorn" not in names(without)


def test_a_choice_holds_in_every_thread(no_environment):
    found = []
    with choosing(PluginChoice(blocked=("unicorn",))):
        thread = threading.Thread(target=lambda: found.append(default_plugins()))
        thread.start()
        thread.join()
        assert found == [default_plugins()]


def test_load_plugins_takes_what_was_chosen_for_the_process():
    with choosing(PluginChoice(blocked=("kvm",))):
        assert "kvm" not in names(load_plugins(installed=False))
        assert "kvm" in names(load_plugins(installed=False, choice=PluginChoice()))
