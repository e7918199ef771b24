"""The tables of the page on planted faults, as its text has them; a test compares them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from faults.fault import HOSTS, SVM, Fault
from faults.linux import BZIMAGE, PACKED, SLOW
from faults.near_misses import NEAR_MISSES
from faults.table import FAULTS

NAMED, RUNS, NOT_TRIED = "named", "runs", "-"


def cell(fault: Fault, host: str) -> str:
    """What becomes of a fault on a host, in a word."""
    if host not in fault.hosts:
        return NOT_TRIED
    if host in fault.misnamed:
        return f"`{fault.misnamed[host][0]}`"
    return RUNS if host in fault.runs else NAMED


def rows(faults: Iterable[Fault]) -> Iterator[str]:
    """The rows of a table of faults."""
    for each in faults:
        checked = f"`{each.checked}`" if each.checked else NOT_TRIED
        cells = (f"`{each.name}`", each.words, f"`{each.causes[0]}`", checked, *(cell(each, host) for host in HOSTS))
        yield f"| {' | '.join(cells)} |"


def reasons() -> Iterator[str]:
    """Why faults do not show, or are misnamed, and where."""
    found: dict[tuple[str, str], list[str]] = {}
    for each in (*FAULTS, *BZIMAGE, *PACKED, *SLOW):
        for host, why in each.runs.items():
            found.setdefault((host, why), []).append(f"`{each.name}`")
        for host, (_, why) in each.misnamed.items():
            found.setdefault((host, why), []).append(f"`{each.name}`")
    for (host, why), names in sorted(found.items(), key=lambda item: HOSTS.index(item[0][0])):
        yield f"| {host} | {why} | {', '.join(names)} |"


def near_misses() -> Iterator[str]:
    """The rows of the table of near misses."""
    for each in NEAR_MISSES:
        cause = each.causes[0]
        said = "it comes to its end" if cause == RUNS else f"`{cause}`" if cause else "nothing"
        yield f"| `{each.name}` | {each.words} | {said} |"


def count() -> str:
    """How many faults there are, and how many cells are right of those in which one shows."""
    every = (*FAULTS, *BZIMAGE, *PACKED, *SLOW)
    tried = [(fault, host) for fault in every for host in fault.hosts]
    shown = [(fault, host) for fault, host in tried if host not in fault.runs]
    right = [(fault, host) for fault, host in shown if host not in fault.misnamed]
    inside = sum(host == SVM for _, host in right)
    return (
        f"There are {len(every)} faults, tried in {len(tried)} places. In {len(shown)} of them the fault shows, and in "
        f"{len(right)} of these the first cause names it, {inside} of them on real KVM; in the other "
        f"{len(tried) - len(shown)} the guest runs to its end all the same."
    )


def tables() -> dict[str, list[str]]:
    """The tables by the headings above them, in their order."""
    return {
        "A small kernel": list(rows(FAULTS)),
        "Debian's kernel": list(rows((*BZIMAGE, *PACKED, *SLOW))),
        "Faults that do not show": list(reasons()),
        "Near misses": list(near_misses()),
    }


if __name__ == "__main__":
    for heading, table in tables().items():
        print(f"## {heading}", *table, "", sep="\n")
    print(count())
