"""Fixtures for the whole suite: the real servers, and one profile for generated cases."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.servers.fixtures"]

# Two busy cores make single cases slow now and then; that is no fault of the case.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("tests")
