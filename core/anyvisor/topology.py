"""How a machine's processors and memory are divided: packages, dies, cores and threads, and NUMA nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs

from anyvisor.errors import ConfigError
from anyvisor.memory import PAGE_BYTES, format_size, parse_size

MAX_VCPUS = 4096
"""The most vCPUs that any hypervisor runs; each backend has a limit of its own."""
LOCAL_DISTANCE, REMOTE_DISTANCE, MAX_DISTANCE = 10, 20, 254
"""Of a node to itself, by default to another, and the longest one with a path (ACPI 6.5, 5.2.17: 255 is none)."""


def _check_positive(_: object, attribute: attrs.Attribute[int], count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigError(f"topology.{attribute.name}: {count!r} must be a whole number from 1 up")


@attrs.frozen(kw_only=True)
class Topology:
    """How vCPUs are told apart: `sockets` packages of `dies` dies of `cores` cores of `threads` hardware threads each.

    vCPUs are numbered threads first, then cores, dies and packages.
    """

    sockets: int = attrs.field(default=1, validator=_check_positive)
    dies: int = attrs.field(default=1, validator=_check_positive)
    cores: int = attrs.field(default=1, validator=_check_positive)
    threads: int = attrs.field(default=1, validator=_check_positive)

    @property
    def vcpus(self) -> int:
        """How many vCPUs that makes."""
        return self.sockets * self.dies * self.cores * self.threads

    def __str__(self) -> str:
        dies = f"{self.dies} dies x " if self.dies > 1 else ""
        return f"{self.sockets} sockets x {dies}{self.cores} cores x {self.threads} threads"


def _size(text: str | int) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError(f"numa: memory: {error}") from error


def _numbers(values: str | Iterable[int]) -> tuple[int, ...]:
    """Numbers from 0 up, given one by one or as text such as `0-3,8`."""
    try:
        numbers = tuple(_ranges(values) if isinstance(values, str) else values)
    except (TypeError, ValueError) as error:
        words = f"numa: {values!r} is not a list of numbers below {MAX_VCPUS}"
        raise ConfigError(f'{words}; give [0, 1] or "0-1"') from error
    for each in numbers:
        if isinstance(each, bool) or not isinstance(each, int) or each < 0:
            raise ConfigError(f"numa: {each!r} is not a number from 0 up")
    return numbers


def _ranges(text: str) -> Iterator[int]:
    for part in filter(None, text.replace(" ", "").split(",")):
        first, _, last = part.partition("-")
        run = range(int(first), int(last or first) + 1)
        if not run or run[-1] >= MAX_VCPUS:
            raise ValueError(part)
        yield from run


@attrs.frozen
class NumaNode:
    """A NUMA node: `memory` bytes of RAM (or text such as `2G`) that are near to the vCPUs with those numbers.

    RAM is given to nodes in their order, from address 0 up. `distances` are those to every node, in their order,
    10 to itself; without them another node is at 20. A node may have no vCPUs, or no memory.
    """

    memory: int = attrs.field(converter=_size)
    vcpus: tuple[int, ...] = attrs.field(default=(), converter=_numbers)
    distances: tuple[int, ...] = attrs.field(default=(), converter=_numbers)

    def __attrs_post_init__(self) -> None:
        if self.memory < 0 or self.memory % PAGE_BYTES:
            raise ConfigError(f"numa: memory: {self.memory} bytes is not a whole number of {PAGE_BYTES}-byte pages")


def distances(nodes: Sequence[NumaNode]) -> tuple[tuple[int, ...], ...]:
    """How far each node is from each, a row a node; 10 is near."""
    return tuple(
        node.distances or tuple(LOCAL_DISTANCE if at == number else REMOTE_DISTANCE for at in range(len(nodes)))
        for number, node in enumerate(nodes)
    )


def check_numa(nodes: Any, memory_bytes: int, vcpus: int) -> None:
    """ConfigError when nodes do not share out that RAM and those vCPUs, each exactly once."""
    for number, node in enumerate(nodes):
        if not isinstance(node, NumaNode):
            raise ConfigError(f"numa: node {number} is {node!r}; give a NumaNode(memory, vcpus, distances)")
        _check_distances(node, number, len(nodes))
    shared_out = sum(node.memory for node in nodes)
    if shared_out != memory_bytes:
        have, wanted = format_size(shared_out), format_size(memory_bytes)
        raise ConfigError(f"numa: the nodes have {have} of RAM together, but memory is {wanted}; make them agree")
    owners: dict[int, int] = {}
    for number, node in enumerate(nodes):
        for vcpu in node.vcpus:
            if vcpu >= vcpus:
                raise ConfigError(f"numa: node {number} has vCPU {vcpu}, but there are {vcpus}, numbered from 0")
            if vcpu in owners:
                raise ConfigError(
                    f"numa: vCPU {vcpu} is in node {owners[vcpu]} and in node {number}; take it out of one"
                )
            owners[vcpu] = number
    if missing := [vcpu for vcpu in range(vcpus) if vcpu not in owners]:
        raise ConfigError(f"numa: vCPU {missing[0]} is in no node; every vCPU belongs to one")


def _check_distances(node: NumaNode, number: int, count: int) -> None:
    if not node.distances:
        return
    if len(node.distances) != count:
        raise ConfigError(f"numa: node {number} has {len(node.distances)} distances, and there are {count} nodes")
    for other, distance in enumerate(node.distances):
        if other == number and distance != LOCAL_DISTANCE:
            raise ConfigError(f"numa: node {number} is {distance} from itself; that is always {LOCAL_DISTANCE}")
        if other != number and not LOCAL_DISTANCE < distance <= MAX_DISTANCE:
            raise ConfigError(
                f"numa: node {number} is {distance} from node {other}; give {LOCAL_DISTANCE + 1} to {MAX_DISTANCE}"
            )
