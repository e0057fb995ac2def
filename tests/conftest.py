"""For all tests: a busy machine turns nothing red, and neither does a session that was begun in the background.

No example is judged by the clock. And a shell without job control starts what is in the background with Ctrl-C ignored,
nohup with SIGHUP, which a training rightly inherits; the tests that send these signals need them back.
"""

import signal

from hypothesis import settings

settings.register_profile("patient", deadline=None, print_blob=True)
settings.load_profile("patient")

for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)
