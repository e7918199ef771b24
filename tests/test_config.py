import os

import pytest

from anyvisor.config import MachineConfig, Topology
from anyvisor.errors import ConfigError


def test_sizes_are_bytes_or_text():
    assert MachineConfig(memory="512M").memory == MachineConfig(memory=512 << 20).memory == 512 << 20
    assert MachineConfig(memory="2G").memory == 2 << 30
    assert MachineConfig(memory="2GiB").memory == 2 << 30


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"memory": 0}, "too little"),
        ({"memory": 4096}, "too little"),
        ({"memory": "lots"}, "not a size"),
        ({"memory": -(1 << 30)}, "too little"),
        ({"memory": (64 << 20) + 1}, "not a whole number of 4096-byte pages; use 67108864"),
        ({"memory": "65T"}, "at most 64T"),
        ({"vcpus": 0}, "give 1 to 254"),
        ({"vcpus": 255}, "give 1 to 254"),
        ({"vcpus": "2"}, "not a number of vCPUs"),
        ({"vcpus": True}, "not a number of vCPUs"),
        ({"kernel": 5}, "5 is not the path of a file"),
        ({"command_line": 5}, "5 is not text"),
        ({"topology": None}, "None is none; give a Topology"),
        ({"topology": {"cores": 1}}, "give a Topology"),
        ({"vcpus": 4, "topology": Topology(sockets=3)}, "make 3 vCPUs, but vcpus is 4"),
        ({"command_line": "a\0b"}, "one line"),
        ({"command_line": "quiet\nroot"}, "one line"),
        ({"command_line": "rööt"}, "not ASCII"),
    ],
)
def test_wrong_values_are_refused_with_the_way_out(values, message):
    with pytest.raises(ConfigError, match=message):
        MachineConfig(**values)


def test_topology_counts_are_positive():
    with pytest.raises(ConfigError, match=r"topology\.cores: 0"):
        Topology(cores=0)


def test_topology_follows_the_vcpus_unless_given():
    assert MachineConfig(vcpus=3).topology == Topology(cores=3)
    assert MachineConfig(vcpus=3).replace(vcpus=2).topology == Topology(cores=2)
    assert MachineConfig(vcpus=4, topology=Topology(2, 1, 2)).replace(memory="1G").topology == Topology(2, 1, 2)


def test_toml_is_read_with_paths_relative_to_it(tmp_path):
    file = tmp_path / "vm.toml"
    file.write_text('kernel = "vmlinuz"\nmemory = "1G"\nvcpus = 4\n[topology]\nsockets = 2\ncores = 2\n')
    config = MachineConfig.from_toml(file)
    assert config.kernel == tmp_path / "vmlinuz"
    assert (config.memory, config.vcpus, config.topology) == (1 << 30, 4, Topology(2, 2, 1))


def test_what_is_left_to_the_backend_is_neither_yes_nor_no(tmp_path):
    assert (MachineConfig().unpack, MachineConfig().deterministic) == (None, False)
    file = tmp_path / "vm.toml"
    for text, unpack, deterministic in [("", None, False), ("unpack = false\ndeterministic = true", False, True)]:
        file.write_text(text)
        config = MachineConfig.from_toml(file)
        assert (config.unpack, config.deterministic) == (unpack, deterministic)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("memry = 1", ["memry"]),
        ('vcpus = "two"', ["vcpus"]),
        ("vcpus = true", ["vcpus"]),
        ("[topology]\ncores = 1.5", ["topology", "cores"]),
        ("kernel = 7", ["kernel"]),
        ("unpack = 1", ["unpack"]),
        ("deterministic = 'yes'", ["deterministic", "true or false"]),
        ("memory = '3 bushels'", ["memory", "bushels"]),
        ("vcpus =", ["not TOML"]),
        ("a=" + "[" * 20_000, ["not TOML"]),
        ("memory=" + "9" * 5000, ["not TOML"]),
    ],
)
def test_toml_errors_name_the_file_and_the_place(tmp_path, text, parts):
    file = tmp_path / "vm.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        MachineConfig.from_toml(file)
    assert str(file) in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_a_missing_configuration_is_told(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        MachineConfig.from_toml(tmp_path / "none.toml")


def test_a_configuration_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="no regular file"):
        MachineConfig.from_toml(tmp_path / "pipe")
