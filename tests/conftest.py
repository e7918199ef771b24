"""Fixtures that all tests share, and what they may rely on."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

IN_CI = os.environ.get("CI") == "true"
