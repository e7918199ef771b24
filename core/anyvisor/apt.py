"""The host's own apt, asked for packages without root, and without a change to the system.

Some facts about apt. It verifies what it downloads. It needs no root for that, as long as what it writes lies elsewhere
than usual. All its settings can come from the file that APT_CONFIG names: one with the host's own settings, and other
directories at its end, leaves the system as it was. The hooks that a host runs after an update are left out of it. A
fresh container knows no package before `apt-get update`, and a list that is old names files that the mirror has no
more; for both there are lists of our own. A kernel's name without a version, such as linux-image-amd64, is an empty
package that depends on the kernel of the day.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from anyvisor.errors import KernelImageError

TOOLS = ("apt-get", "apt-cache", "apt-config", "dpkg-deb")
"""The programs that are called."""

_HOOKS = re.compile(r"^\w+::\S*(?:Invoke|Hooks)\b")
_KERNEL = re.compile(r"Depends: (linux-(?:image|binary)-\S+)")
_URI = re.compile(r"^'(?P<uri>\S+)' \S+ (?P<size_bytes>\d+)", re.MULTILINE)
_UNFIT = re.compile('["\x00-\x1f\ud800-\udfff]')
_COMPLAINT = re.compile(r"^(?:E:|W:|tar:|dpkg-deb: error:) *(.*)$", re.MULTILINE)


class Apt:
    """The host's apt, told to write into `scratch` and nowhere else.

    Packages of other `architectures` than the host's own have names such as `busybox-static:i386`.
    """

    def __init__(self, scratch: Path, progress: int, architectures: Sequence[str] = ()):
        self.has_own_lists = False
        self._architectures = architectures
        self._scratch = scratch
        self._progress = progress
        self._trouble = ""
        self._environment = {"APT_CONFIG": str(scratch / "apt.conf")}
        self._configure({"Dir::Cache": str(scratch)})

    def update(self) -> None:
        """Fetch package lists of our own; what goes wrong is told when a package is not in them."""
        (self._scratch / "lists" / "partial").mkdir(parents=True)
        self._configure({"Dir::Cache": str(self._scratch), "Dir::State::lists": str(self._scratch / "lists")})
        self.has_own_lists = True
        done = self._call("apt-get", "update", show=True)
        self._trouble = _complaint(done) if done.stderr else ""

    def find(self, names: Sequence[str]) -> tuple[str, str]:
        """The first of these names that apt knows, and the package that has its files."""
        for name in names:
            if package := self._follow(name):
                return name, package
        if self._trouble:
            raise KernelImageError(f"apt has no lists of packages: {self._trouble}")
        raise KernelImageError(f"apt knows no {names[0]}{' or another such package' if names[1:] else ''}")

    def source(self, package: str) -> tuple[int, str]:
        """The size of a package in bytes, and which host it comes from."""
        done = self._call("apt-get", "--print-uris", "download", package)
        found = _URI.search(done.stdout)
        if not found:
            raise KernelImageError(f"apt cannot download {package}: {_complaint(done)}")
        return int(found["size_bytes"]), urlsplit(found["uri"]).hostname or "this machine"

    def download(self, package: str, folder: Path) -> Path:
        """Download a package, which apt verifies."""
        done = self._call("apt-get", "download", package, folder=folder, show=True)
        found = list(folder.glob("*.deb"))
        if done.returncode or not found:
            raise KernelImageError(f"apt cannot download {package}: {_complaint(done)}")
        return found[0]

    def _follow(self, name: str) -> str | None:
        """The kernel that an empty package depends on, any other package itself; None if there is no such package."""
        seen: list[str] = []
        while name not in seen:
            seen.append(name)
            done = self._call("apt-cache", "depends", name)
            if done.returncode:
                return None
            kernel = _KERNEL.search(done.stdout) if name.startswith("linux-") else None
            name = kernel[1] if kernel else name
        return name

    def _configure(self, changes: Mapping[str, str]) -> None:
        if unfit := _UNFIT.search(str(self._scratch)):
            raise KernelImageError(
                f"apt cannot write into {self._scratch}: its settings have no way to say {unfit[0]!r}"
            )
        (self._scratch / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        done = _run("apt-config", "dump", failed="cannot ask apt for its settings")
        lines = [line for line in done.stdout.splitlines() if not _HOOKS.match(line)]
        ours = {
            "Dir::Etc::main": "/dev/null",  # all of it is in here already
            "Dir::Etc::parts": "/dev/null",
            "Acquire::Languages": "none",
            "Acquire::GzipIndexes": "true",
            "Acquire::Retries": "1",
            "APT::Sandbox::User": "root",  # apt's own user cannot write where we may
            **changes,
        }
        lines += [f'{name} "{value}";' for name, value in ours.items()]
        lines += [f'APT::Architectures:: "{each}";' for each in self._architectures]
        Path(self._environment["APT_CONFIG"]).write_text("\n".join(lines) + "\n")

    def _call(self, *command: str, folder: Path | None = None, show: bool = False) -> subprocess.CompletedProcess[str]:
        return _call(*command, folder=folder, output=self._progress if show else subprocess.PIPE, **self._environment)


def unpack(deb: Path, into: Path) -> None:
    """Unpack a package's files; nothing is installed and none of its scripts run."""
    _run("dpkg-deb", "--extract", str(deb), str(into), failed=f"cannot unpack {deb.name}")


def _run(*command: str, failed: str) -> subprocess.CompletedProcess[str]:
    done = _call(*command)
    if done.returncode:
        raise KernelImageError(f"{failed}: {_complaint(done)}")
    return done


def _call(
    *command: str, folder: Path | None = None, output: int = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        check=False,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C", **environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    """Why a command of Debian's says that it failed, in a line."""
    if found := _COMPLAINT.findall(done.stderr):
        full = [line for line in found if "No space left" in line]  # tar has much to say before that
        return " ".join((full or found)[0].split())
    return f"{done.args[0]} ended with {done.returncode}: {' '.join(done.stderr.split())[:200]}"
