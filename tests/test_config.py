import os
from uuid import UUID

import pytest

from anyvisor.config import Identity, MachineConfig, NumaNode, Raw, Topology
from anyvisor.errors import ConfigError
from anyvisor.topology import distances

TWO_BY_TWO = Topology(sockets=2, threads=2)


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
        ({"vcpus": 0}, "give 1 to 4096"),
        ({"vcpus": 4097}, "give 1 to 4096"),
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
        ({"tables": "apci"}, "tables: 'apci' is none of acpi, mptable, both, none"),
        ({"protocol": ""}, "protocol: '' is not a name"),
        ({"cpu": None}, "cpu: None is not a name"),
    ],
)
def test_wrong_values_are_refused_with_the_way_out(values, message):
    with pytest.raises(ConfigError, match=message):
        MachineConfig(**values)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Raw("0x7c00", "reel"), "mode: 'reel' is none of real, protected, long"),
        (lambda: Raw("7c00"), r"raw: '7c00' is not an address; write it as 0x7c00"),
        (lambda: Raw(-1), "raw: -1 is not a guest-physical address"),
        (lambda: Raw(1 << 52), "give 0 to 0xfffffffffffff"),
        (lambda: Identity(uuid="1234"), "identity.uuid: '1234' is no UUID"),
        (lambda: Identity(product="x" * 65), "identity.product: has 65 characters, SMBIOS readers take 64"),
        (lambda: Identity(serial="ä"), "identity.serial: 'ä' has characters that are not printable"),
        (lambda: Identity(serial=7), "identity.serial: 7 is not text"),
        (lambda: NumaNode("1.5K"), "numa: memory"),
        (lambda: NumaNode(4097), "numa: memory: 4097 bytes is not a whole number of 4096-byte pages"),
        (lambda: NumaNode(-4096), "numa: memory: -4096 bytes is not a whole number"),
        (lambda: NumaNode("1G", "3-0"), "numa: '3-0' is not a list of numbers below 4096"),
        (lambda: NumaNode("1G", "0-4000000000"), "numa: '0-4000000000' is not a list of numbers below 4096"),
        (lambda: MachineConfig(numa=5), "numa: 5 is no list of nodes; give a NumaNode for each"),
        (lambda: MachineConfig(raw="0x7c00"), r"raw: '0x7c00' is none; give a Raw\(address, mode, entry\)"),
        (lambda: MachineConfig(identity="x"), r"identity: 'x' is none; give an? Identity\(manufacturer, "),
        (lambda: MachineConfig(tables=["acpi"]), r"tables: \['acpi'\] is none of acpi, mptable, both, none"),
        (lambda: NumaNode("1G", "0-x"), "numa: '0-x' is not a list of numbers"),
        (lambda: NumaNode("1G", [-1]), "numa: -1 is not a number from 0 up"),
    ],
)
def test_wrong_parts_are_refused_with_the_way_out(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([NumaNode("1G", "0-3")], "the nodes have 1G of RAM together, but memory is 2G"),
        ([NumaNode("2G", "0-2")], "vCPU 3 is in no node"),
        ([NumaNode("2G", "0-4")], "node 0 has vCPU 4, but there are 4, numbered from 0"),
        ([NumaNode("1G", "0-3"), NumaNode("1G", "3")], "vCPU 3 is in node 0 and in node 1"),
        ([NumaNode("1G", "0-3", (10,)), NumaNode("1G")], "node 0 has 1 distances, and there are 2 nodes"),
        ([NumaNode("1G", "0-3", (11, 20)), NumaNode("1G")], "node 0 is 11 from itself; that is always 10"),
        ([NumaNode("1G", "0-3", (10, 255)), NumaNode("1G")], "node 0 is 255 from node 1; give 11 to 254"),
        ([NumaNode("1G", "0-3", (10, 10)), NumaNode("1G")], "node 0 is 10 from node 1"),
        (["2G"], "node 0 is '2G'; give a NumaNode"),
    ],
)
def test_numa_nodes_share_out_the_memory_and_the_vcpus_once(nodes, message):
    with pytest.raises(ConfigError, match=message):
        MachineConfig(memory="2G", vcpus=4, numa=nodes)


def test_nodes_are_far_from_each_other_unless_it_is_said():
    nodes = (NumaNode("1G", "0-1,3"), NumaNode("1G", (2,), (31, 10)))
    assert nodes[0].vcpus == (0, 1, 3)
    assert distances(MachineConfig(memory="2G", vcpus=4, numa=nodes).numa) == ((10, 20), (31, 10))


def test_a_kernel_without_acpi_is_told_not_to_look_for_it():
    assert MachineConfig().command_line == "console=ttyS0 panic=-1 pci=off"
    assert MachineConfig(tables="mptable").command_line.endswith(" acpi=off")
    assert MachineConfig().replace(tables="none").command_line == MachineConfig(tables="none").command_line
    assert MachineConfig(command_line="mine").replace(tables="none").command_line == "mine"
    wanted = {each: MachineConfig(tables=each) for each in ("acpi", "mptable", "both", "none")}
    assert [name for name, config in wanted.items() if config.wants_acpi] == ["acpi", "both"]
    assert [name for name, config in wanted.items() if config.wants_mptable] == ["mptable", "both"]
    assert [name for name, config in wanted.items() if config.wants_smbios] == ["acpi", "mptable", "both"]


def test_a_raw_image_is_entered_at_its_first_byte_unless_it_is_said():
    assert Raw("0x7c00", "real").entry == 0x7C00
    assert Raw(0x8000, entry="0x8004").entry == 0x8004


def test_topology_counts_are_positive():
    with pytest.raises(ConfigError, match=r"topology\.cores: 0"):
        Topology(cores=0)


def test_what_a_kernel_needs_can_be_given_in_its_order():
    config = MachineConfig("vmlinuz", "initrd", "quiet", "1G", 2)
    assert config == MachineConfig(kernel="vmlinuz", initrd="initrd", command_line="quiet", memory="1G", vcpus=2)


def test_topology_follows_the_vcpus_unless_given():
    assert MachineConfig(vcpus=3).topology == Topology(cores=3)
    assert MachineConfig(vcpus=3).replace(vcpus=2).topology == Topology(cores=2)
    assert MachineConfig(vcpus=4, topology=TWO_BY_TWO).replace(memory="1G", vcpus=4).topology == TWO_BY_TWO


def test_toml_is_read_with_paths_relative_to_it(tmp_path):
    file = tmp_path / "vm.toml"
    file.write_text('kernel = "vmlinuz"\nmemory = "1G"\nvcpus = 4\n[topology]\nsockets = 2\ncores = 2\n')
    config = MachineConfig.from_toml(file)
    assert config.kernel == tmp_path / "vmlinuz"
    assert (config.memory, config.vcpus, config.topology) == (1 << 30, 4, Topology(sockets=2, cores=2))


def test_every_part_of_a_machine_can_stand_in_a_file(tmp_path):
    file = tmp_path / "vm.toml"
    file.write_text(
        """
        vcpus = 4
        memory = "2G"
        tables = "both"
        cpu = "models/mine.toml"
        protocol = "raw"
        [raw]
        address = 0x7c00
        mode = "real"
        [topology]
        sockets = 2
        dies = 2
        [identity]
        product = "Enterprise"
        uuid = "8c0b1d2e-3f40-4a5b-9c6d-7e8f90a1b2c3"
        [[numa]]
        memory = "1G"
        vcpus = "0-1"
        distances = [10, 15]
        [[numa]]
        memory = 1073741824
        vcpus = [2, 3]
        """
    )
    config = MachineConfig.from_toml(file)
    assert config.numa == (NumaNode("1G", (0, 1), (10, 15)), NumaNode("1G", (2, 3)))
    assert config.identity == Identity(product="Enterprise", uuid=UUID("8c0b1d2e-3f40-4a5b-9c6d-7e8f90a1b2c3"))
    assert (config.topology, config.tables) == (Topology(sockets=2, dies=2), "both")
    assert (config.raw, config.protocol) == (Raw(0x7C00, "real"), "raw")
    assert config.cpu == str(tmp_path / "models" / "mine.toml")


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
        ("tables = 'apci'", ["tables", "acpi, mptable"]),
        ("[identity]\nuuid = 'x'", ["identity.uuid"]),
        ("[identity]\nname = 'x'", ["identity", "name"]),
        ("[raw]\nmode = 'reel'", ["real, protected, long"]),
        ("[[numa]]\nmemory = '1G'\nvcpus = 7", ["numa", "not a list of numbers"]),
        ("numa = 7", ["numa"]),
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


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("vcpus = 4\n\n[topology]\nsockets = 3", 3),
        ("\n[topology]\nsockets = 1\ncores = 1.5", 4),
        ("\ntopology = { cores = 0 }", 2),
        ("[topology]\nsockets = 2\n# none\ncores = 0", 4),
        ("\n\nmemry = 1", 3),
        ("\nvcpus = true", 2),
        ("memory = '1G'\ntables = 'apci'", 2),
        ("[identity]\n\nuuid = 'x'", 3),
        ("[raw]\naddress = 0\nmode = 'reel'", 3),
        ("[[numa]]\nmemory = '1G'\n[[numa]]\nmemory = '1G'\nvcpuss = [0]", 5),
        ("vcpus = 1\n[[numa]]\nvcpus = [0]", 2),
        ("memory = '1G'\n[[numa]]\nmemory = '2G'\nvcpus = [0]", 2),
    ],
)
def test_toml_errors_say_which_line(tmp_path, text, line):
    file = tmp_path / "vm.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        MachineConfig.from_toml(file)
    assert str(caught.value).startswith(f"{file}:{line}: ")


def test_of_two_mistakes_in_a_file_each_has_its_line(tmp_path):
    file = tmp_path / "vm.toml"
    file.write_text("[identity]\nname = 'x'\nmanufacturer = 3\n")
    with pytest.raises(ConfigError, match=r"vm.toml:3: 3 is not text .*; line 2: unknown name"):
        MachineConfig.from_toml(file)


def test_a_missing_configuration_is_told(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        MachineConfig.from_toml(tmp_path / "none.toml")


def test_a_configuration_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="no regular file"):
        MachineConfig.from_toml(tmp_path / "pipe")
