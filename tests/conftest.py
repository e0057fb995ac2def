"""For all tests: a busy machine turns nothing red, and neither does a session that was begun in the background.

No example is judged by the clock. And a shell without job control starts what is in the background with Ctrl-C ignored,
which a training rightly inherits; the tests that press Ctrl-C need it back.
"""

import signal

from hypothesis import settings

settings.register_profile("patient", deadline=None, print_blob=True)
settings.load_profile("patient")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
