"""What all tests share: hypothesis has no deadlines, as the machines that run the tests are noisy."""

from hypothesis import settings

settings.register_profile("noisy", deadline=None)
settings.load_profile("noisy")
