"""Leaves a thread behind that keeps the process alive."""

import threading
import time

from plain import duck as duck

threading.Thread(target=time.sleep, args=(600,)).start()
