"""For all tests: no example is judged by the clock, so that a busy machine turns nothing red."""

from hypothesis import settings

settings.register_profile("patient", deadline=None, print_blob=True)
settings.load_profile("patient")
