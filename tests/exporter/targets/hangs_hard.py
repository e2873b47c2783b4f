"""Never finishes its import, and can't be talked out of it: C code runs that sees no signal."""

import hashlib
import threading

threading.Timer(0.2, print, ["importing"], {"flush": True}).start()  # by then the main thread is deep in C
hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)
