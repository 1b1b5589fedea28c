"""What every test shares: reproducible hypothesis runs that are not cut off on a loaded machine, and torch on one thread."""

from __future__ import annotations

import os

# Test processes run side by side, and threads of torch that spin for each other on busy cores make them up to 80 times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import HealthCheck, settings

settings.register_profile("planish", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("planish")
