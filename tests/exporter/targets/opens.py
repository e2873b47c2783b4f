"""An app that opens as many files as each line of standard input says, keeps them, and says whether it could."""

import os
import sys
import threading

from flowrra import Flowrra

app = Flowrra()
kept: list[int] = []


def obey() -> None:
    for line in sys.stdin:
        try:
            kept.extend(os.open("/dev/null", os.O_RDONLY) for _ in range(int(line)))
            print("opened", line, flush=True)
        except OSError as error:
            print("failed:", error, flush=True)


threading.Thread(target=obey, daemon=True).start()
