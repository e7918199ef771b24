"""Files out of the packages of the host's distribution, Debian or a descendant of it, kept in a cache.

A package is unpacked beside the cache's entries, never installed, and moved into place when it is complete. What is in
the cache is used for good: neither apt nor the network is asked again. Remove it to get newer packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from anyvisor.apt import TOOLS, Apt, unpack
from anyvisor.closing import Closing
from anyvisor.errors import KernelImageError

CACHE_VARIABLE = "ANYVISOR_CACHE"


def cache_dir() -> Path:
    """Where anyvisor keeps what it fetched: `$ANYVISOR_CACHE`, or `anyvisor` in the user's own cache directory."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).absolute()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "anyvisor"
    except RuntimeError as error:
        raise KernelImageError(f"there is no cache directory: {error}; set {CACHE_VARIABLE} to one") from error


class Packages(Closing):
    """Debian packages by name, out of the cache or fetched into it. A context manager.

    `tell` is given a line for each thing that is fetched; apt shows its progress on the file descriptor `progress`, if
    that is one. Packages of other `architectures` than the host's own have names such as `busybox-static:i386`.
    KernelImageError, with the way out, for what cannot be had.
    """

    def __init__(
        self,
        directory: os.PathLike[str] | str | None = None,
        tell: Callable[[str], None] = lambda line: None,  # noqa: ARG005
        progress: int = -1,
        architectures: Sequence[str] = (),
    ):
        self.directory = cache_dir() if directory is None else Path(directory).absolute()
        self.tell = tell
        self._progress = progress if progress >= 0 else subprocess.DEVNULL
        self._architectures = tuple(architectures)
        self._stack = ExitStack()
        self._apt: Apt | None = None

    def close(self) -> None:
        """Remove what apt needed to fetch packages; may be called twice."""
        self._apt = None
        self._stack.close()

    def files(self, *names: str, holding: str = "*") -> Path:
        """The directory with the files of the first of these packages that there is.

        An empty kernel package gives the files of its kernel. `holding` is a pattern of a file that must be in there.
        """
        for name in names:
            if os.path.exists(link := self.directory / name):  # noqa: PTH110 - it is False where we may not look
                return link.resolve()
        with self._scratch(names[0], ".new-") as folder:
            name, deb = self._download(names, folder)
            files = folder / "files"
            unpack(deb, files)
            if not any(files.glob(holding)):
                raise KernelImageError(f"{deb.name} has no {holding} in it, so it is of no use here")
            return self._keep(name, files, deb.stem)

    def keep(self, name: str, content: bytes) -> Path:
        """A file of that name and content in the cache; it is made if it is not there, or holds anything else."""
        path = self.directory / name
        if _content(path) != content:
            with self._scratch(name, ".new-") as folder:
                (folder / name).write_bytes(content)
                (folder / name).replace(path)
        return path

    def _download(self, names: Sequence[str], folder: Path) -> tuple[str, Path]:
        self._apt = apt = self._apt or self._begin(names[0])
        if not apt.has_own_lists:
            try:
                return self._download_by(apt, names, folder)
            except KernelImageError as error:
                self.tell(f"{error}; fetching newer lists of packages, which the system does not see")
            apt.update()
        return self._download_by(apt, names, folder)

    def _download_by(self, apt: Apt, names: Sequence[str], folder: Path) -> tuple[str, Path]:
        name, package = apt.find(names)
        size_bytes, host = apt.source(package)
        self.tell(f"fetching {package} ({size_bytes / 1e6:.0f} MB) from {host} into {self.directory}")
        return name, apt.download(package, folder)

    def _begin(self, name: str) -> Apt:
        if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
            raise KernelImageError(f"{name} cannot be fetched: this is no Debian system, it has no {missing[0]}")
        scratch = self._stack.enter_context(self._scratch("what apt needs", ".apt-"))
        return Apt(scratch, self._progress, self._architectures)

    def _keep(self, name: str, files: Path, title: str) -> Path:
        finished = self.directory / title
        try:
            files.rename(finished)
        except OSError:
            if not finished.is_dir():  # else somebody was faster, with the same files
                raise
        link = files.with_name("link")
        link.symlink_to(title)
        link.replace(self.directory / name)
        return finished

    @contextmanager
    def _scratch(self, name: str, prefix: str) -> Iterator[Path]:
        """A directory in the cache that is gone afterwards; KernelImageError where `name` cannot be kept there."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.directory, prefix=prefix) as folder:
                yield Path(folder)
        except OSError as error:
            way_out = f"make room, or set {CACHE_VARIABLE} to a directory that can be written"
            raise KernelImageError(f"cannot keep {name} in {self.directory}: {error.strerror}; {way_out}") from error


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
