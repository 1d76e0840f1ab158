"""Settings for every test."""

from hypothesis import HealthCheck, settings

# The same examples in every run: a test that fails, fails for everyone. No deadline: machines differ.
settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")
