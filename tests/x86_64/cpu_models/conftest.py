import sys
from pathlib import Path

import pytest

from anyvisor.x86_64.cpu_models import cpu_model

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the judges of the tests next door


@pytest.fixture
def model(tmp_path):
    """A model from the text of its template."""

    def make(text):
        path = tmp_path / "template.toml"
        path.write_text(text)
        return cpu_model(str(path))

    return make
