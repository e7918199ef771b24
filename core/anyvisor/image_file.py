"""A kernel image as bytes that can be asked for: a file of the host, or what was unpacked from one.

Image files are untrusted input. Reads here are exact, so a file that ends too early is an error with an
offset and never a short answer. What goes to the guest stays a `FileSlice` and is not read at all.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import attrs

from anyvisor.errors import KernelImageError
from anyvisor.plan import FileSlice


@attrs.frozen
class ImageFile:
    """`size_bytes` bytes of an image: in the file `path`, or in `unpacked` when they came out of it."""

    path: Path
    size_bytes: int
    unpacked: bytes | bytearray | None = attrs.field(default=None, repr=False)

    @classmethod
    def open(cls, path: os.PathLike[str] | str, kind: str = "kernel") -> ImageFile:
        """The image in a file; KernelImageError when it is absent, unreadable, empty or no regular file."""
        try:
            found = Path(path).stat()
            if stat.S_ISREG(found.st_mode):
                with Path(path).open("rb"):
                    pass
        except OSError as error:
            raise KernelImageError(f"cannot open the {kind}: {error.strerror}", path=path) from error
        except ValueError as error:
            raise KernelImageError(f"cannot open the {kind}: {error}", path=path) from error
        if not stat.S_ISREG(found.st_mode):
            is_a = "a directory" if stat.S_ISDIR(found.st_mode) else "a device, pipe or socket"
            raise KernelImageError(f"is {is_a}; give the {kind} as a regular file", path=path)
        if not found.st_size:
            raise KernelImageError(f"is empty; give the {kind} as a file with something in it", path=path)
        return cls(Path(path), found.st_size)

    def has(self, offset: int, size_bytes: int) -> bool:
        """Whether `size_bytes` bytes from `offset` are all in the image."""
        return offset >= 0 and size_bytes >= 0 and offset + size_bytes <= self.size_bytes

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Exactly `size_bytes` bytes from `offset`; KernelImageError when the image ends before."""
        if not self.has(offset, size_bytes):
            raise self.error(f"the image ends after {self.size_bytes} bytes, it is cut short", offset)
        if self.unpacked is not None:
            return bytes(memoryview(self.unpacked)[offset : offset + size_bytes])
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                data = file.read(size_bytes)
        except OSError as error:
            raise self.error(f"cannot read the image: {error.strerror}", offset) from error
        if len(data) != size_bytes:
            raise self.error("the file became shorter while it was read", offset)
        return data

    def start(self, size_bytes: int) -> bytes:
        """The first `size_bytes` bytes, or all when there are fewer."""
        return self.read(0, min(size_bytes, self.size_bytes))

    def content(self, offset: int, size_bytes: int) -> bytes | FileSlice:
        """A part of the image for a `Blob`: a reference where the bytes are in the file as they are."""
        if self.unpacked is not None or not self.has(offset, size_bytes):
            return self.read(offset, size_bytes)
        return FileSlice(self.path, offset, size_bytes)

    def error(self, reason: str, offset: int | None = None) -> KernelImageError:
        """The error that says what is wrong with this image, and where."""
        place = "" if self.unpacked is None else "in the unpacked kernel: "
        return KernelImageError(place + reason, path=self.path, offset=offset)
