"""The bytes of every tiny x86_64 guest are what GNU's assembler makes of the assembly beside them, in each mode.

The assembly is in the comments on the lines of a `bytes([...])`, in Intel syntax. Names in it are those of the module
(that of a region stands for its start), and `xcx` is the CX, ECX or RCX of the mode: see
`anyvisor.testing.x86_64.guests`. Every module of `anyvisor.testing` is looked through, and a guest may be put together
from several such listings.
"""

import ast
import functools
import importlib
import inspect
import io
import pkgutil
import re
import shutil
import subprocess
import tokenize
from pathlib import Path

import pytest

import anyvisor.testing
from anyvisor.memory import Region
from anyvisor.testing.bench import CODE
from anyvisor.testing.guest import TinyGuest
from anyvisor.x86_64.modes import LONG, PROTECTED, REAL

BITS = {REAL: 16, PROTECTED: 32, LONG: 64}
PREFIX = {16: "", 32: "e", 64: "r"}
MODULES = sorted(
    each.name for each in pkgutil.walk_packages(anyvisor.testing.__path__, "anyvisor.testing.") if not each.ispkg
)


def guests_in(value, name):
    """Each tiny guest in a value, by name: the value itself, or those of a table."""
    if isinstance(value, TinyGuest):
        yield name, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from guests_in(each, f"{name}[{key!r}]")
    elif isinstance(value, tuple | list):
        for index, each in enumerate(value):
            yield from guests_in(each, f"{name}[{index}]")
    elif inspect.isclass(value):
        for key, each in vars(value).items():
            yield from guests_in(each, f"{name}.{key}")


def own_names(module):
    """What a module defines itself, in its source's order."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign | ast.ClassDef):
            yield node.target.id if isinstance(node, ast.AnnAssign) else node.name


@functools.cache
def listings(module):
    """Each `bytes([...])` of a module: its value, and the comments beside it."""
    source = inspect.getsource(module)
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node).startswith("bytes(["):
            lines = range(node.lineno, node.end_lineno + 1)
            assembly = "\n".join(comments[line] for line in lines if line in comments)
            try:
                found.append((eval(compile(ast.Expression(node), module.__file__, "eval"), vars(module)), assembly))
            except NameError:  # of a function's own
                continue
    return found


def all_guests():
    for path in MODULES:
        module = importlib.import_module(path)
        for name in own_names(module):
            for full_name, guest in guests_in(vars(module).get(name), name):
                for mode, code in guest.code.items():
                    short = path.removeprefix("anyvisor.testing.")
                    yield pytest.param(module, code, mode, id=f"{short}.{full_name}-{mode}")


GUESTS = list(all_guests())


def beside(code, module):
    """The assembly beside that code: of one listing, or of several that it is put together from."""
    if not code:
        yield ""
    for value, assembly in listings(module):
        if value and code.startswith(value):
            yield from (f"{assembly}\n{rest}" for rest in beside(code[len(value) :], module))


def as_gnu_reads_it(assembly, bits, names):
    """The comments without remarks, and with the module's numbers and the mode's registers in them."""

    def number(found):
        try:
            value = eval(found[0], names)
        except (NameError, AttributeError):
            return found[0]
        value = value.start if isinstance(value, Region) else value
        return str(int(value)) if isinstance(value, int) else found[0]

    text = re.sub(r"\b[A-Z][A-Z0-9_]+(\.\w+)*\b", number, re.sub(r" +\(.*\)$", "", assembly, flags=re.MULTILINE))
    text = re.sub(r"\bx(ax|bx|cx|dx|si|di|bp|sp)\b", lambda found: PREFIX[bits] + found[1], text)
    return re.sub(r"\b(byte|word|dword|qword) \[", r"\1 ptr [", text)


def assemble(text, bits, folder, _cache={}):  # noqa: B006
    """The bytes of a program at CODE; what GNU says in place of them when it is none."""
    if (text, bits) not in _cache:
        source, thing, image = (folder / name for name in ("guest.s", "guest.o", "guest.bin"))
        source.write_text(f".intel_syntax noprefix\n.code{bits}\n{text}\n")
        try:
            for command in (
                ["as", "--64", "-o", thing, source],
                ["ld", f"-Ttext={CODE:#x}", "-e", "0", "--oformat=binary", "-o", image, thing],
            ):
                subprocess.run(command, check=True, capture_output=True, text=True)
            _cache[text, bits] = image.read_bytes()
        except subprocess.CalledProcessError as error:
            _cache[text, bits] = error.stderr
    return _cache[text, bits]


@pytest.mark.skipif(not (shutil.which("as") and shutil.which("ld")), reason="install binutils to have guests assembled")
@pytest.mark.parametrize(("module", "code", "mode"), GUESTS)
def test_the_bytes_are_those_of_the_assembly_beside_them(module, code, mode, tmp_path):
    assert code
    texts = [as_gnu_reads_it(assembly, BITS[mode], vars(module)) for assembly in beside(code, module)]
    assert texts, f"no bytes([...]) of {module.__name__} has these bytes: {code.hex(' ')}"
    made = {text: assemble(text, BITS[mode], tmp_path) for text in texts}
    assert code in made.values(), "\n".join(
        f"{text}\n-> {found.hex(' ') if isinstance(found, bytes) else found}\nand not {code.hex(' ')}"
        for text, found in made.items()
    )


def test_the_guests_of_the_suite_are_found():
    found = {each.id.partition(".")[0] + "." + each.id.split(".")[1] for each in GUESTS}
    assert {"x86_64.guests", "x86_64.ports", "x86_64.strings"} <= found
    assert len(GUESTS) > 100


@pytest.mark.parametrize(
    ("code", "mode", "right"), [("4889C8", LONG, True), ("89C8", LONG, False), ("89C8", REAL, True)]
)
def test_the_assembler_tells_modes_apart(code, mode, right, tmp_path):
    text = as_gnu_reads_it("mov xax, xcx", BITS[mode], {})
    assert (assemble(text, BITS[mode], Path(tmp_path)) == bytes.fromhex(code)) is right
