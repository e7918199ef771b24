"""Long descriptions made short: neighbouring lines that say the same of other numbers become one line.

>>> print(fold("\\n".join(f"processor {number}: enabled, at {0x1000 * number:#x}" for number in range(1, 9))))
processor 1-8: enabled, at 0x1000, 0x2000 ... 0x8000

A line belongs together with the lines below it that are indented further, so whole paragraphs are folded too. Numbers
that are the same in all of a run stay as they are. Decimal numbers and numbered names become the ranges that they are
in, of which a long list is cut short and says how many numbers there were. Hexadecimal numbers are folded only where
each is as far from the next, so none of them is lost.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

import attrs

FEWEST = 3
"""As many neighbours as are worth folding."""
MOST_RANGES = 6
"""Of one column of numbers; of more the last is shown, and how many there are."""
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|\b[A-Z][0-9A-F]{2,3}\b|\d+")
"""Numbers, and ACPI's names that are a letter and a hexadecimal number."""
_COLUMNS = re.compile(r" {2,}")


def fold(text: str) -> str:
    """The text with runs of lines, or of indented paragraphs, that differ only in numbers told as one."""
    return "\n".join(_lines(_folded(_paragraphs(text.splitlines()))))


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as text: `0-3, 8`; they are sorted, and told once.

    >>> ranges([4, 0, 1, 2])
    '0-2, 4'
    """
    return ", ".join(
        f"{first}-{last}" if first != last else str(first) for first, last in _ranges(sorted(set(numbers)))
    )


@attrs.frozen
class Paragraph:
    """A line and those below it that are indented further. `skeleton` is what is left of it without its numbers."""

    line: str
    inner: tuple[Paragraph, ...]
    skeleton: tuple[object, ...]
    numbers: tuple[str, ...]

    @classmethod
    def of(cls, line: str, inner: tuple[Paragraph, ...]) -> Paragraph:
        """The paragraph of a line."""
        words = _COLUMNS.sub("  ", line.strip())
        numbers = (*_NUMBER.findall(line), *(number for each in inner for number in each.numbers))
        return cls(line, inner, (_NUMBER.sub(_kind, words), *(each.skeleton for each in inner)), numbers)


def _kind(number: re.Match[str]) -> str:
    """What stands in a skeleton for a number: names count on only from names that begin with the same letter."""
    return f"#{number[0][0]}" if _is_name(number[0]) else "#x" if _is_hex(number[0]) else "#"


def _paragraphs(lines: Sequence[str]) -> tuple[Paragraph, ...]:
    found = []
    start = 0
    while start < len(lines):
        end = start + 1
        while end < len(lines) and _indent(lines[end]) > _indent(lines[start]):
            end += 1
        found.append(Paragraph.of(lines[start], _paragraphs(lines[start + 1 : end])))
        start = end
    return tuple(found)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _lines(paragraphs: Iterable[Paragraph]) -> Iterable[str]:
    for each in paragraphs:
        yield each.line
        yield from _lines(each.inner)


def _folded(paragraphs: Iterable[Paragraph]) -> list[Paragraph]:
    folded: list[Paragraph] = []
    for _, alike in itertools.groupby(paragraphs, key=lambda each: each.skeleton):
        for run in _runs(list(alike)):
            if len(run) >= FEWEST:
                texts = iter([_column(column) for column in zip(*(each.numbers for each in run), strict=True)])
                folded.append(_filled(run[0], texts))
            else:
                folded += [Paragraph.of(each.line, tuple(_folded(each.inner))) for each in run]
    return folded


def _filled(paragraph: Paragraph, texts: Iterable[str]) -> Paragraph:
    """The paragraph with other texts for its numbers, in their order."""
    rest = iter(texts)
    line = _NUMBER.sub(lambda _: next(rest), paragraph.line)
    return Paragraph.of(line, tuple(_filled(each, rest) for each in paragraph.inner))


def _runs(alike: list[Paragraph]) -> Iterable[list[Paragraph]]:
    """Paragraphs of one skeleton, cut where their numbers do not go on as they did."""
    run: list[Paragraph] = []
    for each in alike:
        if run and not _goes_on(run, each):
            yield run
            run = []
        run.append(each)
    if run:
        yield run


def _goes_on(run: list[Paragraph], following: Paragraph) -> bool:
    """Whether every number of a paragraph follows those before it as they followed each other."""
    before = run[-2].numbers if len(run) > 1 else None
    for index, (last, new) in enumerate(zip(run[-1].numbers, following.numbers, strict=True)):
        step = _step(last, new)
        known = _step(before[index], last) if before else step
        if step < 0 or (step == 0) != (known == 0) or (step != known and _is_hex(new)):
            return False
    return True


def _step(before: str, after: str) -> int:
    return _value(after) - _value(before)


def _value(number: str) -> int:
    if _is_hex(number):
        return int(number, 16)
    return int(number[1:], 16) if _is_name(number) else int(number)


def _is_hex(number: str) -> bool:
    return number.startswith("0x")


def _is_name(number: str) -> bool:
    return number[0].isalpha()


def _column(numbers: Sequence[str]) -> str:
    """What a column of numbers becomes."""
    first, second, last = numbers[0], numbers[1], numbers[-1]
    if first == last:
        return first
    if _is_hex(first):
        return f"{first}, {second} ... {last}" if len(numbers) > FEWEST else ", ".join(numbers)
    texts = {_value(number): number for number in numbers}
    parts = [texts[low] if low == high else f"{texts[low]}-{texts[high]}" for low, high in _ranges(list(texts))]
    if len(parts) > MOST_RANGES:
        parts = [*parts[: MOST_RANGES - 2], f"... {parts[-1]} ({len(numbers)} numbers)"]
    return ", ".join(parts)


def _ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours among sorted numbers, as first and last."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] + 1 == number:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found
