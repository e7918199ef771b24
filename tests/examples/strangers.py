"""A stranger's project, installed by pip into a fresh virtual environment beside this anyvisor."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 50


class Stranger:
    """A virtual environment with one project installed. It sees what this one has, anyvisor and pytest among it."""

    def __init__(self, project: Path, directory: Path):
        self.project = project
        self.directory = directory
        venv.create(directory, with_pip=False)
        self._see_ours()
        pip = [sys.executable, "-m", "pip", "--python", self.program("python"), "install", "--quiet", "--no-deps"]
        self.run([*pip, "--no-build-isolation", "--no-index", "--disable-pip-version-check", project])

    def _see_ours(self) -> None:
        """Unlike a plain path, a site directory brings its own .pth files: an editable anyvisor is found, too."""
        theirs = Path(self.output("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        line = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        (theirs / "zz_ours.pth").write_text(line)

    def program(self, name: str) -> Path:
        return self.directory / "bin" / name

    def output(self, program: str, *arguments: str | Path) -> str:
        """What a program of the environment prints; a failure shows all that it said."""
        return self.run([self.program(program), *arguments])

    def anyvisor(self, *arguments: str) -> str:
        return self.output("python", "-m", "anyvisor", *arguments)

    def tests(self) -> str:
        """The project's own tests, run there as its author would."""
        options = ["-q", "-p", "no:cacheprovider", "-W", "error"]
        return self.output("python", "-m", "pytest", *options, self.project / "tests")

    def run(self, command: list[str | Path]) -> str:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))}
        done = subprocess.run(
            command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS,
            cwd=self.directory, env=clean,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout}"
        return done.stdout
