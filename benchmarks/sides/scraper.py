"""Scrapes a URL at a steady rate over one connection, as Prometheus does, without compression.

    scraper.py URL RATE SECONDS [BODY]

BODY is a file for the last answer. Prints the milliseconds of each scrape as a list.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit


def scrape(url: str, rate: float, seconds: float) -> tuple[list[float], bytes]:
    """The milliseconds of each scrape, and the last answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    milliseconds: list[float] = []
    body = b""
    started = time.perf_counter()
    for number in range(round(rate * seconds)):
        time.sleep(max(0.0, started + number / rate - time.perf_counter()))
        asked = time.perf_counter()
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        body = answer.read()
        milliseconds.append(1000 * (time.perf_counter() - asked))
        assert answer.status == 200, f"{url} answered {answer.status}: {body[:200]!r}"
    time.sleep(max(0.0, started + seconds - time.perf_counter()))
    return milliseconds, body


if __name__ == "__main__":
    url, rate, seconds, *rest = sys.argv[1:]
    times, text = scrape(url, float(rate), float(seconds))
    if rest and rest[0]:
        Path(rest[0]).write_bytes(text)
    print(json.dumps(times))
