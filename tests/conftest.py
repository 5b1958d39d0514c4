"""Fixtures for the whole suite: the real servers, and the profiles of generated cases."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.servers.fixtures", "tests.behaviour.table"]

# Two busy cores make single cases slow now and then; that is no fault of the case.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
# The same cases each time: a change is to blame for what fails, not the dice.
settings.register_profile("ci", settings.get_profile("tests"), derandomize=True, database=None)
# Other cases each night; how many: tests/hostile/cases.py.
settings.register_profile("nightly", settings.get_profile("tests"))
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "tests")
)
