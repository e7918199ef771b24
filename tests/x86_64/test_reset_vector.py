import subprocess

import pytest

from anyvisor.memory import Region
from anyvisor.plan import DeviceSpec
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.reset_vector import reset_code, reset_register, reset_vector

I8042 = DeviceSpec("i8042", "i8042", ports=(Region(0x60, 1), Region(0x64, 1)))
PM = DeviceSpec("acpi-pm", "acpi-pm", ports=(Region(0x600, 0x20),))
SOURCE = ".code16\nmov $0x60c, %dx\nmov $1, %al\nout %al, %dx\n1: hlt\njmp 1b\n"


@pytest.mark.parametrize(
    ("devices", "register"), [([I8042, PM], (0x60C, 1)), ([PM], (0x60C, 1)), ([I8042], (0x64, 0xFE)), ([], None)]
)
def test_power_management_resets_the_machine_before_the_keyboard_controller_does(devices, register):
    assert reset_register(devices) == register


def test_the_code_is_what_the_assembler_makes(tmp_path):
    made = tmp_path / "code.o"
    subprocess.run(["as", "-o", made, "-"], input=SOURCE, text=True, check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", made, tmp_path / "code"], check=True)
    assert reset_code([PM]) == (tmp_path / "code").read_bytes()


def test_it_lies_where_real_mode_starts_and_only_if_there_is_something_to_reset_with():
    layout = Layout.for_memory(64 << 20)
    (blob,) = reset_vector(layout, [PM])
    assert (blob.guest_address, blob.region.end <= 0x100000) == (0xF000 * 16 + 0xFFF0, True)
    assert reset_vector(layout, []) == ()
