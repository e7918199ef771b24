"""Resource descriptors, judged by iasl's, and read back into words."""

import pytest
from aml_judges import compiled_terms, needs_acpica

from anyvisor.errors import PlanError
from anyvisor.x86_64.acpi.aml import Name
from anyvisor.x86_64.acpi.aml_resources import IO, Interrupt, IRQNoFlags, Memory32Fixed, QWordMemory, ResourceTemplate
from anyvisor.x86_64.acpi.resource_words import resource_words

DESCRIPTORS = [
    ("IO (Decode16, 0x3F8, 0x3F8, 1, 8)", IO(0x3F8, 8), "ports 0x3f8-0x3ff"),
    ("IO (Decode16, 0xFFFF, 0xFFFF, 1, 1)", IO(0xFFFF, 1), "port 0xffff"),
    ("IO (Decode16, 0xFF01, 0xFF01, 1, 255)", IO(0xFF01, 255), "ports 0xff01-0xffff"),
    ("IRQNoFlags () {4}", IRQNoFlags(4), "IRQ 4"),
    ("IRQNoFlags () {0, 15}", IRQNoFlags(15, 0), "IRQ 0 15"),
    (
        "Memory32Fixed (ReadWrite, 0xFFFFF000, 0x1000)",
        Memory32Fixed(0xFFFFF000, 0x1000),
        "memory 0xfffff000-0xffffffff",
    ),
    (
        "QWordMemory (ResourceConsumer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite, "
        "0, 0xFFFFFFFFFFFFF000, 0xFFFFFFFFFFFFFFFF, 0, 0x1000)",
        QWordMemory((1 << 64) - 0x1000, 0x1000),
        "memory 0xfffffffffffff000-0xffffffffffffffff",
    ),
    ("Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) {16}", Interrupt(16), "interrupt 16 (edge)"),
    (
        "Interrupt (ResourceConsumer, Level, ActiveLow, Shared) {5, 4294967295}",
        Interrupt(5, 0xFFFFFFFF, level=True, active_low=True, shared=True),
        "interrupt 5 4294967295 (level low shared)",
    ),
]


@needs_acpica
@pytest.mark.parametrize(("asl", "ours", "words"), DESCRIPTORS, ids=[words for _, _, words in DESCRIPTORS])
def test_descriptors_have_the_bytes_that_iasl_gives_them_and_read_back_as_words(asl, ours, words, tmp_path):
    theirs = compiled_terms(tmp_path, f"Name (TMPL, ResourceTemplate () {{{asl}}})")
    assert theirs.hex(" ") == Name("TMPL", ResourceTemplate(ours)).hex(" ")
    assert resource_words(ours + b"\x79\x00") == words


@needs_acpica
def test_a_template_holds_many(tmp_path):
    everything = "\n".join(asl for asl, _, _ in DESCRIPTORS)
    asl = f"Name (ALL, ResourceTemplate () {{{everything}}}) Name (NONE, ResourceTemplate () {{}})"
    every = [ours for _, ours, _ in DESCRIPTORS]
    ours = Name("ALL", ResourceTemplate(*every)) + Name("NONE", ResourceTemplate())
    assert compiled_terms(tmp_path, asl).hex(" ") == ours.hex(" ")
    assert resource_words(b"".join(every) + b"\x79\x00") == ", ".join(words for _, _, words in DESCRIPTORS)


@pytest.mark.parametrize(
    "make",
    [
        lambda: IO(0x10000, 1),
        lambda: IO(0xFFFF, 2),
        lambda: IO(-1, 1),
        lambda: IO(0x60, 0),
        lambda: IO(0x60, 256),
        lambda: IRQNoFlags(16),
        lambda: IRQNoFlags(-1),
        lambda: Memory32Fixed(0xFFFFF000, 0x1001),
        lambda: Memory32Fixed(-1, 1),
        lambda: Memory32Fixed(0, 0),
        lambda: QWordMemory(0, 0),
        lambda: QWordMemory(1 << 64, 1),
        lambda: QWordMemory((1 << 64) - 1, 2),
        Interrupt,
        lambda: Interrupt(1 << 32),
        lambda: Interrupt(*range(256)),
    ],
)
def test_what_no_descriptor_can_name_is_refused(make):
    with pytest.raises(PlanError, match="AML: "):
        make()


def test_an_interrupt_named_twice_is_one():
    assert IRQNoFlags(4, 4) == IRQNoFlags(4)


THEIRS = {
    "WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 0, 255, 0, 256)": "buses 0x0-0xff",
    "WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange, 0, 0xD00, 0xFFFF, 0, 0xF300)": (
        "ports 0xd00-0xffff"
    ),
    "DWordMemory (, , MinFixed, MaxFixed, Cacheable, ReadWrite, 0, 0xA0000, 0xBFFFF, 0, 0x20000)": (
        "memory 0xa0000-0xbffff"
    ),
    "IO (Decode16, 0x3F0, 0x3F8, 8, 8)": "ports 0x3f0-0x3f7 or up to 0x3f8",
    "FixedIO (0x92, 1)": "port 0x92",
    "IRQ (Level, ActiveLow, Shared) {5, 10}": "IRQ 5 10",
    "DMA (Compatibility, NotBusMaster, Transfer8) {2}": "DMA 2",
    "StartDependentFn (0, 0) {IRQNoFlags () {3}} StartDependentFn (1, 1) {IRQNoFlags () {4}} EndDependentFn ()": (
        "IRQ 3, IRQ 4"
    ),
    "VendorShort () {1, 2}": "resource 0x70 of 2 bytes",
}


@needs_acpica
@pytest.mark.parametrize("asl", THEIRS)
def test_descriptors_of_others_read_as_words(asl, tmp_path):
    body = compiled_terms(tmp_path, f"Name (TMPL, ResourceTemplate () {{{asl}}})")
    descriptors = body[9:]  # behind Name, TMPL, Buffer, a length of one byte and a size of two
    assert resource_words(descriptors) == THEIRS[asl]


@pytest.mark.parametrize(
    "broken",
    [b"", b"\x22", b"\x22\x10\x00", b"\x86\xff\xff\x00", b"\x47\x01\x00", b"\x89\x02\x00\x00\x09"],
)
def test_what_is_no_list_of_descriptors_has_no_words(broken):
    assert resource_words(broken) is None
