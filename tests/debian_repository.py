"""A repository of Debian packages made for a test, and an apt that knows this one and nothing else.

Packages are built by dpkg-deb, and the apt is the host's real one with directories of its own. It is told so by
APT_CONFIG, as users tell theirs of a proxy.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOOLS = ("apt-get", "dpkg-deb")


class Repository:
    """Packages in a directory, its index, and `environment`: what makes apt take them from there."""

    def __init__(self, directory: Path, uri: str = ""):
        self.packages = directory / "packages"
        self.state = directory / "state"
        self.config = directory / "apt.conf"
        for each in (self.packages, self.state / "lists" / "partial", self.state / "archives" / "partial"):
            each.mkdir(parents=True)
        (self.state / "status").touch()
        self.index: dict[str, str] = {}
        self.sources = directory / "sources.list"
        self.comes_from(uri or f"file:{self.packages}")
        self.configure()

    @property
    def environment(self) -> dict[str, str]:
        return {"APT_CONFIG": str(self.config)}

    def comes_from(self, uri: str) -> None:
        self.sources.write_text(f"deb [trusted=yes] {uri} ./\n")

    def configure(self, *more: str) -> None:
        state = self.state
        lines = [
            f'Dir::State "{state}"; Dir::State::lists "{state}/lists"; Dir::State::status "{state}/status";',
            f'Dir::Cache "{state}"; Dir::Etc::sourcelist "{self.sources}"; Dir::Etc::sourceparts "/dev/null";',
            'Dir::Etc::preferences "/dev/null"; Dir::Etc::preferencesparts "/dev/null"; APT::Architecture "amd64";',
            'APT::Sandbox::User "root";',
        ]
        self.config.write_text("\n".join([*lines, *more, ""]))

    def add(
        self,
        name: str,
        files: dict[str, bytes],
        *,
        version: str = "1.0",
        depends: str = "",
        architecture: str = "amd64",
    ) -> Path:
        """Build a package with these files and list it."""
        tree = self.state / "build" / name
        for path, content in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(content)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n"
        control += "Maintainer: A Test <test@example.org>\n"
        control += f"Depends: {depends}\n" if depends else ""
        control += "Description: made for a test\n"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN" / "control").write_text(control)
        deb = self.packages / f"{name}_{version}_{architecture}.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, deb], check=True, capture_output=True)
        shutil.rmtree(tree)
        self.list(name if architecture == "amd64" else f"{name}:{architecture}", control, deb)
        return deb

    def list(self, name: str, control: str, deb: Path) -> None:
        """Put a package, as its file is now, into the index."""
        data = deb.read_bytes()
        checksum = hashlib.sha256(data).hexdigest()
        self.index[name] = f"{control}Filename: ./{deb.name}\nSize: {len(data)}\nSHA256: {checksum}\n"
        (self.packages / "Packages").write_text("\n".join(self.index.values()))

    def update(self) -> None:
        """What root does by `apt-get update`: from now on the system's own lists know the packages."""
        environment = {**os.environ, **self.environment}
        subprocess.run(["apt-get", "update"], check=True, capture_output=True, env=environment)


def make_repository(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A repository whose packages this test's apt knows, once it has been updated."""
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        reason = f"no {missing[0]} here: this needs Debian's apt and dpkg"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    made = Repository(directory)
    monkeypatch.setenv("APT_CONFIG", str(made.config))
    return made
