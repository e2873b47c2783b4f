"""A live endpoint: what Prometheus would get from it, what is wrong with that, and what the probes beside it say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urljoin, urlsplit, urlunsplit

from flowrra_exporter.check_command.client import Answer, Client, Unanswered, Unreachable, credentials_of
from flowrra_exporter.check_command.exporter_series import broker_findings, exporter_findings
from flowrra_exporter.check_command.exposition import Exposition
from flowrra_exporter.check_command.findings import Finding, error, ok, warning
from flowrra_exporter.check_command.formats import Asked, content_type, openmetrics_finding, text_findings
from flowrra_exporter.paths import PROBE_PATHS

_SUBJECT = "endpoint"
_SLOW_SECONDS = 1.0
_KUBELET_SECONDS = 1.0


class EndpointCheck:
    """Lints the metrics at ``url``, and asks the probes next to it; ``timeout`` (seconds) is for each answer."""

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        place = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")
        self._url = urlunsplit(place)
        self._shown = urlunsplit(place._replace(query=""))  # which may hold a token
        self._credentials = credentials_of(parts)
        self._timeout = timeout

    async def findings(self) -> AsyncIterator[Finding]:
        """What is right and wrong, in the order of the requests."""
        async with Client(self._timeout, self._credentials) as client:
            try:
                answer = await client.get(self._url, Asked.TEXT.value)
            except Unanswered as failure:
                yield error(_SUBJECT, f"{self._shown} can't be scraped: {failure}")
                if isinstance(failure, Unreachable):
                    return
            else:
                async for finding in self._metrics(client, answer):
                    yield finding
            async for finding in _probe_findings(client, self._shown):
                yield finding

    async def _metrics(self, client: Client, answer: Answer) -> AsyncIterator[Finding]:
        if answer.status != 200:
            yield error(_SUBJECT, f"{self._shown} answers {answer.status}{self._why(answer.status)}; expected 200")
            return
        yield ok(_SUBJECT, f"{self._shown} answers 200")
        if answer.redirected_to:
            yield warning(_SUBJECT, f"it redirects to {answer.redirected_to}: each scrape takes two requests")
        yield content_type(Asked.TEXT, answer.headers.get("Content-Type"))
        try:
            text = answer.text()
        except Unanswered as failure:
            yield error(Asked.TEXT.subject, str(failure))
            return
        exposition = Exposition(text)
        yield _costs(exposition, answer)
        findings = (*text_findings(exposition), *exporter_findings(exposition), *broker_findings(exposition))
        for finding in findings:
            yield finding
        async for finding in self._openmetrics(client):
            yield finding

    def _why(self, status: int) -> str:
        if status != 401:
            return ""
        if self._credentials:
            return ": it doesn't take the user and password of the URL"
        return ": it wants to know who asks (user:password@ in the URL)"

    async def _openmetrics(self, client: Client) -> AsyncIterator[Finding]:
        subject = Asked.OPENMETRICS.subject
        try:
            answer = await client.get(self._url, Asked.OPENMETRICS.value)
            text = answer.text()
        except Unanswered as failure:
            yield error(subject, str(failure))
            return
        if answer.status != 200:
            yield error(subject, f"answers {answer.status}; expected 200")
            return
        header = answer.headers.get("Content-Type", "")
        yield content_type(Asked.OPENMETRICS, header)
        if header.partition(";")[0].strip().lower() != "text/plain":
            yield openmetrics_finding(text)


def _costs(exposition: Exposition, answer: Answer) -> Finding:
    size = f"{len(answer.body)} bytes"
    if answer.transferred != len(answer.body):
        size += f" ({answer.transferred} as gzip)"
    message = f"a scrape has {exposition.series} series, {size}, and takes {answer.seconds:.3f} s"
    if answer.seconds > _SLOW_SECONDS:
        return warning(_SUBJECT, f"{message}; expected less than {_SLOW_SECONDS:g} s")
    return ok(_SUBJECT, message)


async def _probe_findings(client: Client, metrics_url: str) -> AsyncIterator[Finding]:
    """The state of each probe: beside the metrics, where the exporter is mounted below a prefix, or at the root."""
    for path in PROBE_PATHS:
        try:
            answer = await _ask_probe(client, metrics_url, path)
        except Unanswered as failure:
            yield error(path, str(failure))
        else:
            yield _probe_state(path, answer)


async def _ask_probe(client: Client, metrics_url: str, path: str) -> Answer:
    beside, at_root = urljoin(metrics_url, path[1:]), urljoin(metrics_url, path)
    answer = await client.get(f"{beside}?verbose", "text/plain")
    if answer.status == 404 and beside != at_root:
        answer = await client.get(f"{at_root}?verbose", "text/plain")
    return answer


def _probe_state(path: str, answer: Answer) -> Finding:
    text = answer.body.decode(errors="replace")
    if answer.status == 404:
        return warning(path, "isn't served here")
    if answer.status == 503:
        failed = [line.removeprefix("[-]") for line in text.splitlines() if line.startswith("[-]")]
        return error(path, f"answers 503: {'; '.join(failed) or text}")
    if answer.status != 200:
        return error(path, f"answers {answer.status}; expected 200 or 503")
    if answer.seconds > _KUBELET_SECONDS:
        return warning(path, f"answers 200 after {answer.seconds:.1f} s; the kubelet waits 1 s by default")
    return ok(path, "answers 200")
