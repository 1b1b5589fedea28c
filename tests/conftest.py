"""What every test shares: reproducible hypothesis runs that are not cut off on a loaded machine."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("planish", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("planish")
