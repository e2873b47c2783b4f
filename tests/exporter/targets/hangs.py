"""Never finishes its import."""

import time

print("importing", flush=True)
while True:
    time.sleep(0.1)
