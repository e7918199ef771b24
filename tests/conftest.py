"""Fixtures that all tests share, and what they may rely on."""

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

settings.register_profile("anyvisor", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("anyvisor")  # a shared machine is slow at times, and that is no failure

IN_CI = os.environ.get("CI") == "true"
