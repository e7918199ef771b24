"""Which plugin boots an image: by its looks, in the order of the plugins, or by order of the user."""

import attrs
import pytest
from kernel_images import PACKERS, XLOADFLAGS, Patch, bzimage, elf, pvh_note

from anyvisor import assemble, generic_facts
from anyvisor.config import MachineConfig, Raw
from anyvisor.errors import ConfigError, KernelImageError
from anyvisor.facts import Capability
from anyvisor.plugins import PluginChoice, choosing, load_plugins
from anyvisor.x86_64.e820 import E820Type
from anyvisor.x86_64.entry_checks import check_plan
from anyvisor.x86_64.gdt import BOOT_GDT, FLAT32_GDT
from anyvisor.x86_64.pvh import Handover
from anyvisor.x86_64.state import Regs, Sregs
from multiboot_kernels import elf32 as multiboot_elf32

I386 = Patch(XLOADFLAGS, "H", 0)
IMAGES = {
    "bzimage64": bzimage(payload=PACKERS["gzip"](elf(notes=pvh_note()))),
    "bzimage32": bzimage(payload=PACKERS["gzip"](elf(bits=32, notes=pvh_note())), patches=[I386]),
    "elf64": elf(),
    "elf64 pvh": elf(notes=pvh_note()),
    "elf32": elf(bits=32),
    "elf32 pvh": elf(bits=32, notes=pvh_note()),
    "multiboot": multiboot_elf32(),
}
BY_LOOKS = {
    "bzimage64": "linux64", "bzimage32": "linux32", "elf64": "linux64", "elf64 pvh": "linux64", "elf32": "linux32",
    "elf32 pvh": "pvh", "multiboot": "multiboot",
}  # fmt: skip
SPEAKS = {
    "bzimage64": {"linux64", "linux32", "pvh"},
    "bzimage32": {"linux32", "pvh"},
    "elf64": {"linux64"},
    "elf64 pvh": {"linux64", "pvh"},
    "elf32": {"linux32"},
    "elf32 pvh": {"linux32", "pvh"},
    "multiboot": {"linux32", "multiboot"},
}
PROVIDERS = {"linux64": "linux", "linux32": "linux", "pvh": "pvh", "multiboot": "multiboot", "raw": "raw"}


@pytest.fixture
def planned(tmp_path):
    plugins = load_plugins(installed=False)

    def plan(data, facts=None, **more):
        (tmp_path / "kernel").write_bytes(data)
        config = MachineConfig(kernel=tmp_path / "kernel", **{"memory": "64M", "tables": "none", **more})
        return assemble(config, facts or generic_facts(), plugins)

    return plan


def taken_by(plan):
    """Who provided the kernel, what it is told, and its registers."""
    hooks = ("anyvisor_load_kernel", "anyvisor_boot_params", "anyvisor_registers")
    return [step.provided_by for hook in hooks for step in plan.steps if step.hook == hook]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_booted_by_its_looks(image, planned):
    plan = planned(IMAGES[image])
    assert taken_by(plan) == [PROVIDERS[BY_LOOKS[image]]] * 3
    assert check_plan(plan) == []
    fields = plan.vcpus[0].state(Sregs).fields
    long_mode = BY_LOOKS[image] == "linux64"
    assert (fields["cr0"].pg, bool(fields["efer"].lma)) == (long_mode, long_mode)
    assert plan.blob("GDT").content == (BOOT_GDT if long_mode else FLAT32_GDT).to_bytes()
    assert any(blob.name == "page tables" for blob in plan.blobs) is long_mode


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("protocol", ["linux64", "linux32", "pvh", "multiboot"])
def test_an_image_is_booted_by_what_it_speaks_and_refused_otherwise(image, protocol, planned):
    if protocol in SPEAKS[image]:
        plan = planned(IMAGES[image], protocol=protocol)
        assert taken_by(plan) == [PROVIDERS[protocol]] * 3
        assert check_plan(plan) == []
    else:
        with pytest.raises(KernelImageError):
            planned(IMAGES[image], protocol=protocol)


@pytest.mark.parametrize("image", IMAGES)
def test_any_file_is_booted_raw_on_demand(image, planned):
    assert taken_by(planned(IMAGES[image], protocol="raw", raw=Raw(mode="protected"))) == ["raw"] * 3


def test_a_protocol_that_nobody_speaks_is_a_mistake_in_the_configuration(planned):
    with pytest.raises(ConfigError, match="no plugin boots a kernel by 'efi'"):
        planned(IMAGES["elf64"], protocol="efi")


def test_without_the_plugin_of_its_protocol_an_image_is_left_to_the_next(tmp_path):
    (tmp_path / "kernel").write_bytes(IMAGES["elf32 pvh"])
    config = MachineConfig(kernel=tmp_path / "kernel", memory="64M", tables="none")
    with choosing(PluginChoice(blocked=("pvh",))):
        plan = assemble(config, generic_facts(), load_plugins(installed=False))
    assert taken_by(plan) == ["linux"] * 3


def test_files_that_are_nothing_are_refused_by_the_last_that_is_asked(planned):
    for protocol in (None, "linux64", "linux32", "pvh"):
        with pytest.raises(KernelImageError, match="looks like gzip-compressed"):
            planned(b"\x1f\x8b" + bytes(600), protocol=protocol)


def test_a_mode_that_the_host_has_not_is_named(planned):
    facts = attrs.evolve(generic_facts(), modes=("long", "real"))
    with pytest.raises(ConfigError, match=r"linux32 starts a kernel in protected mode, .* backend has long, real"):
        planned(IMAGES["elf32"], facts)


def test_a_pvh_kernel_is_told_of_memory_initrd_and_acpi(planned, tmp_path):
    (tmp_path / "initrd").write_bytes(b"i" * 5000)
    plan = planned(IMAGES["elf64 pvh"], protocol="pvh", initrd=tmp_path / "initrd", tables="acpi", command_line="a b")
    address = plan.vcpus[0].state(Regs).rbx
    handover = Handover.read(plan.read, address)
    assert handover.command_line(plan.read) == "a b"
    (module,) = handover.modules
    assert plan.read(module.paddr, module.size) == b"i" * 5000
    assert plan.read(handover.rsdp_paddr, 8) == b"RSD PTR "
    assert {each.type for each in handover.memmap} >= {E820Type.RAM, E820Type.RESERVED}
    assert plan.blob("PVH start info").guest_address == address == 0x6000


def test_a_slow_processor_is_spared_the_unpacking_only_where_the_entry_allows_it(planned):
    fast = generic_facts()
    slow = attrs.evolve(fast, capabilities=fast.capabilities - {Capability.NATIVE})

    def first_piece(protocol, facts):
        plan = planned(IMAGES["bzimage64"], facts, protocol=protocol)
        return next(blob.name for blob in plan.blobs if blob.name.startswith("kernel"))

    assert [first_piece("linux64", each) for each in (fast, slow)] == ["kernel", "kernel segment 0"]
    assert [first_piece("linux32", each) for each in (fast, slow)] == ["kernel", "kernel"]
    assert [first_piece("pvh", each) for each in (fast, slow)] == ["kernel segment 0", "kernel segment 0"]
