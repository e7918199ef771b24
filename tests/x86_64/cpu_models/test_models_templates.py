"""Templates: what they can say, and that an error names the file and the line."""

import re

import pytest

from anyvisor.errors import ConfigError
from anyvisor.toml_lines import Lines
from anyvisor.x86_64.cpu_models import Cache, RegisterBits, cpu_model, model_names
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.msrs import Msr

FULL = """\
extends = "haswell"
description = "a processor of our own"
vendor = "GenuineIntel"
brand = "Our Own CPU"
family = 6
model = 0x3C
stepping = 1
physical_bits = 40
linear_bits = 48
max_leaf = 0xD
max_extended_leaf = 0x8000_0008
features = [
    "adx",   # one a line
    "RDSEED",
]
optional = ["smap"]
remove = ["rdrand", "avx2*"]

[hypervisor]
leaves = "none"
timing = false

[[cache]]
level = 1
type = "data"
size = "32K"
ways = 8

[[cache]]
level = 2
size = 262144
ways = 8
line = 64
inclusive = true

[[leaf]]
leaf = 0x7
subleaf = 0
edx = { mask = 0xF0, value = 0x10 }
ecx = 0

[[msr]]
index = "IA32_SPEC_CTRL"
value = 1

[[msr]]
index = 0x1A0
value = 0x801
"""


@pytest.fixture
def template(tmp_path):
    """Write a template and read it."""

    def write(text, name="mine.toml"):
        path = tmp_path / name
        path.write_text(text)
        return cpu_model(str(path)).template

    return write


def test_a_template_says_all_that_can_be_said(template):
    read = template(FULL)
    assert (read.description, read.vendor, read.brand) == ("a processor of our own", "GenuineIntel", "Our Own CPU")
    assert (read.family, read.model, read.stepping) == (6, 0x3C, 1)
    assert (read.physical_bits, read.linear_bits, read.max_leaf, read.max_extended_leaf) == (40, 48, 0xD, 0x80000008)
    assert {Feature.ADX, Feature.RDSEED, Feature.BMI2} <= read.features
    assert not {Feature.RDRAND, Feature.AVX2} & (read.features | read.optional)
    assert Feature.SMAP in read.optional
    assert (read.hypervisor_leaves, read.timing_leaf) == ("none", False)
    assert read.caches == (Cache(1, "data", 32768, 8), Cache(2, "unified", 262144, 8, 64, True))
    (patch,) = read.leaves
    assert (patch.leaf, patch.subleaf) == (7, 0)
    assert patch.registers == {"edx": RegisterBits(0xF0, 0x10), "ecx": RegisterBits(0xFFFFFFFF, 0)}
    assert {each.index: each.value for each in read.msrs} == {Msr.SPEC_CTRL: 1, Msr.MISC_ENABLE: 0x801}


def test_a_template_adds_to_what_it_extends_and_replaces_single_values(template):
    base = cpu_model("haswell").template
    child = template('extends = "haswell"\nmodel = 60\nfeatures = ["adx"]\nremove = ["fma"]')
    assert child.features == base.features - {Feature.FMA} | {Feature.ADX}
    assert (child.model, child.stepping, child.brand) == (60, base.stepping, base.brand)
    assert child.caches == base.caches
    assert child.optional == base.optional


def test_a_feature_that_is_asked_for_is_optional_no_longer(template):
    assert Feature.MD_CLEAR in cpu_model("haswell").template.optional
    child = template('extends = "haswell"\nfeatures = ["md_clear"]')
    assert Feature.MD_CLEAR in child.features - child.optional


def test_what_one_template_removes_a_child_can_ask_for_again(template, tmp_path):
    template('extends = "haswell"\nremove = ["fma"]', "less.toml")
    assert Feature.FMA in template('extends = "less.toml"\nfeatures = ["fma"]').features
    assert Feature.FMA not in template('extends = "./less.toml"').features


def test_msrs_of_a_child_replace_those_of_the_same_number(template):
    template('extends = "haswell"\n[[msr]]\nindex = 0x1A0\nvalue = 1\n[[msr]]\nindex = 0x48\nvalue = 2', "a.toml")
    child = template('extends = "./a.toml"\n[[msr]]\nindex = "misc_enable"\nvalue = 3')
    assert {each.index: each.value for each in child.msrs} == {0x1A0: 3, 0x48: 2}


@pytest.mark.parametrize("name", model_names())
def test_every_model_has_a_description_and_a_name_of_a_file(name):
    model = cpu_model(name)
    assert model.description[0].isupper() and not model.description.endswith(".")
    assert model.name == name


def test_models_come_in_an_order_that_reads_well():
    assert model_names()[:6] == ("host", "minimal", "x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4")
    assert list(model_names()[6:]) == sorted(model_names()[6:])


WRONG = {
    "no TOML": ("family = 6\nmodel = = 2\n", 2, "not TOML"),
    "an unknown key": ('family = 6\n\nfeeatures = ["fma"]\n', 3, "no key 'feeatures'; near it: features"),
    "an unknown key far from any": ("family = 6\nzzz = 1\n", 2, "the keys are extends, from_host, description"),
    "an unknown feature": ('features = [\n  "fma",\n  "avx21",\n]\n', 3, "no feature 'avx21'; near it: avx2"),
    "a feature in other words": ('remove = ["sse4.2"]\n', 1, "no feature 'sse4.2'; near it: sse4_2"),
    "a feature that is a number": ("features = [\n 'fma',\n 5]\n", 3, "features are text in quotes"),
    "a pattern to add": ('features = ["avx*"]\n', 1, "only `remove` has them"),
    "a pattern of nothing": ('remove = ["fma",\n"zz*"]\n', 2, r"no feature 'zz\*'"),
    "a feature in two lists": ('features = ["fma"]\n\nremove = ["FMA"]\n', 3, "fma is both in `features` and in"),
    "a feature optional and not": ('features = ["fma"]\noptional = ["fma"]\n', 2, "fma is both in `features`"),
    "features that are no list": ('\nfeatures = "fma"\n', 2, "features is not a list; write it as [...]"),
    "a family too large": ("stepping = 1\nfamily = 271\n", 2, r"family: 0x10f \(271\) does not fit; give 0 to 270"),
    "a stepping too large": ("stepping = 16\n", 1, "give 0 to 15"),
    "a negative model": ("\n\nmodel = -1\n", 3, "does not fit"),
    "a model in quotes": ('model = "6"\n', 1, "'6' is not a whole number"),
    "a model that is true": ("model = true\n", 1, "True is not a whole number"),
    "too many address bits": ("physical_bits = 53\n", 1, "give 32 to 52"),
    "a vendor too long": ('\nvendor = "GenuineIntelX"\n', 2, "not 1 to 12 plain ASCII characters"),
    "a brand too long": (f'brand = "{"x" * 48}"\n', 1, "not 1 to 47"),
    "a brand not of ASCII": ('brand = "Prozeßor"\n', 1, "plain ASCII"),
    "a description of two lines, then": ('description = """a\nb"""\nvendor = 5\n', 3, "5 is not text in quotes"),
    "hypervisor leaves of nobody": ('[hypervisor]\nleaves = "xen"\n', 2, "'xen' is none of host, none"),
    "a hypervisor's unknown key": ("[hypervisor]\ntimings = true\n", 2, "hypervisor has no key 'timings'; near it: t"),
    "timing that is a number": ("[hypervisor]\ntiming = 1\n", 2, "neither true nor false"),
    "a hypervisor that is a word": ('hypervisor = "kvm"\n', 1, "hypervisor is not a table; write it as [hypervisor]"),
    "a hypervisor that is nothing": ("\nhypervisor = 0\n", 2, "hypervisor is not a table; write it as [hypervisor]"),
    "from_host in quotes": ('from_host = "yes"\n', 1, "neither true nor false"),
    "a cache without ways": ('[[cache]]\nlevel = 1\nsize = "4K"\n', 1, "there is no 'ways'; it is needed here"),
    "a second cache of no size": (
        '[[cache]]\nlevel = 1\nsize = "4K"\nways = 4\n[[cache]]\nlevel = 2\nsize = "big"\nways = 1\n',
        7,
        "'big' is no size",
    ),
    "a cache that does not come out even": (
        'cache = [\n{ level = 1, size = "5000", ways = 3 }]\n',
        2,
        "no whole number",
    ),
    "a cache of a strange type": (
        '[[cache]]\nlevel = 1\ntype = "trace"\n',
        3,
        "'trace' is none of data, instruction, unified",
    ),
    "a register too large": ("[[leaf]]\nleaf = 7\nebx = 0x1_0000_0000\n", 3, "does not fit; give 0x0 to 0xffffffff"),
    "a mask too large": ("[[leaf]]\nleaf = 7\nebx = { mask = 0x1_0000_0000, value = 0 }\n", 3, "not a number of 32"),
    "a value outside its mask": (
        "[[leaf]]\nleaf = 7\n[[leaf]]\nleaf = 1\necx = { mask = 1, value = 3 }\n",
        5,
        "the value 0x3 has bits outside the mask 0x1",
    ),
    "a mask without a value": ("[[leaf]]\nleaf = 7\n\nebx = { mask = 1 }\n", 4, "give a number, or { mask = ..."),
    "a leaf of no number": ("[[leaf]]\nebx = 1\n", 1, "there is no 'leaf'"),
    "a leaf's unknown register": ("[[leaf]]\nleaf = 7\nrax = 1\n", 3, "leaf has no key 'rax'; near it: eax"),
    "a leaf that is a number": ("leaf = [7]\n", 1, "leaf is not a table; write it as"),
    "an unknown MSR": ('[[msr]]\nindex = "MISC_ENABEL"\nvalue = 1\n', 2, "no MSR 'MISC_ENABEL'; near it: MISC_ENABLE"),
    "an MSR's value too large": ("[[msr]]\nindex = 1\nvalue = 0x1_0000_0000_0000_0000\n", 3, "does not fit"),
    "one MSR's table": ("family = 6\n[msr]\nindex = 1\nvalue = 1\n", 2, "msr is not a list; write it as [[msr]]"),
    "a huge number": (f"\nmodel = {'9' * 999}\n", 2, "model: this number does not fit; give 0 to 255"),
    "an MSR without a value": ("[[msr]]\nindex = 1\n", 1, "there is no 'value'"),
    "a parent that there is not": ('\nextends = "haswel"\n', 2, "no CPU model 'haswel'; near it: haswell"),
    "a parent's file that there is not": ('extends = "./gone.toml"\n', 1, "gone.toml: No such file"),
    "a parent that is a number": ("extends = 5\n", 1, "5 is not text"),
    "itself as parent": ('family = 6\nextends = "./mine.toml"\n', 2, "goes round in a circle"),
}


@pytest.mark.parametrize(("text", "line", "message"), WRONG.values(), ids=WRONG)
def test_an_error_names_the_file_and_the_line(template, tmp_path, text, line, message):
    with pytest.raises(ConfigError) as caught:
        template(text)
    found = str(caught.value)
    assert found.startswith(f"{tmp_path / 'mine.toml'}:")
    assert found.startswith(f"{tmp_path / 'mine.toml'}:{line}: "), found
    assert message in found or re.search(message, found), found
    assert len(found) < 300 + len(str(tmp_path)) and "\n" not in found


def test_an_error_in_a_parent_names_both_files(template, tmp_path):
    (tmp_path / "parent.toml").write_text('family = 6\nfeatures = ["fmaa"]')
    with pytest.raises(ConfigError, match=r"mine.toml:3: extends: .*parent.toml:2: features: there is no .*fmaa"):
        template('family = 6\nmodel = 1\nextends = "./parent.toml"')


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "deep.toml").write_text(f"features = {'[' * 5000}{']' * 5000}")
    for name, message in (
        ("absent.toml", "No such file"),
        ("deep.toml", "nested too deep"),
        ("bytes.toml", "no text in UTF-8"),
        (".", "Is a directory"),
    ):
        with pytest.raises(ConfigError, match=message):
            cpu_model(f"{tmp_path}/{name}")


@pytest.mark.parametrize(("name", "meant"), [("x86_64-v3", "x86-64-v3"), ("hasswell", "haswell"), ("Zen4", "zen4")])
def test_a_name_that_there_is_not_gets_those_near_it(name, meant):
    with pytest.raises(ConfigError, match=f"no CPU model '{name}'; near it: .*{meant}"):
        cpu_model(name)


def test_a_name_like_no_other_gets_all(tmp_path):
    with pytest.raises(ConfigError, match=r"there are host, minimal, x86-64-v1.*a path has a / in it"):
        cpu_model("q")


def test_a_built_in_model_is_read_once():
    assert cpu_model("zen3") is cpu_model("zen3")


def test_a_file_is_read_again_when_it_or_one_that_it_extends_has_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parent.toml").write_text("family = 6")
    (tmp_path / "child.toml").write_text('extends = "./parent.toml"')
    first = cpu_model("child.toml")
    assert cpu_model("child.toml") is first
    (tmp_path / "parent.toml").write_text("family = 15")
    assert cpu_model("child.toml").template.family == 15
    (tmp_path / "child.toml").write_text("family = 16")
    assert cpu_model("child.toml").template.family == 16
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "child.toml").write_text("family = 21")
    monkeypatch.chdir(tmp_path / "other")
    assert cpu_model("child.toml").template.family == 21


# -- where things stand --------------------------------------------------------------------------------------

TOML = '''\
# features = ["comment"]
title = "features = [\\"not here\\"]"
"quoted" = 5
features = [ # a comment ]
  "a", "b",

  "c",
]
text = """
features = ["nor here"]
"""
dotted.inner = 7
[[leaf]]
leaf = 1
[[leaf]]
eax = { mask = 0xFF,
        value = 0x10 }
'''


@pytest.mark.parametrize(
    ("key", "value", "place", "line"),
    [
        ("features", "a", {}, 5),
        ("features", "c", {}, 7),
        ("features", "absent", {}, 4),
        ("features", None, {}, 4),
        ("quoted", 5, {}, 3),
        ("title", None, {}, 2),
        ("dotted", 7, {}, 12),
        ("leaf", 1, {"table": "leaf"}, 14),
        ("eax", None, {"table": "leaf", "index": 1}, 16),
        ("eax", 16, {"table": "leaf", "index": 1}, 17),
        ("ebx", None, {"table": "leaf", "index": 1}, 15),
        ("nothing", None, {}, None),
        ("nothing", None, {"table": "absent"}, None),
    ],
)
def test_a_key_and_a_value_are_found_on_their_line(key, value, place, line):
    assert Lines(TOML).find(key, value, **place) == line
