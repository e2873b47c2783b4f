"""A live endpoint: what Prometheus would get from it, and what is wrong with that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

from flowrra_exporter.check_command.client import Answer, Client, Unanswered, Unreachable, credentials_of
from flowrra_exporter.check_command.exporter_series import broker_findings, exporter_findings
from flowrra_exporter.check_command.exposition import Exposition
from flowrra_exporter.check_command.findings import Finding, error, ok, warning
from flowrra_exporter.check_command.formats import Asked, content_type, openmetrics_finding, text_findings
from flowrra_exporter.check_command.probes import probe_findings

_SUBJECT = "endpoint"
_SLOW_SECONDS = 1.0


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
            async for finding in probe_findings(client, self._shown):
                yield finding

    async def _metrics(self, client: Client, answer: Answer) -> AsyncIterator[Finding]:
        if answer.status != 200:
            why = ": it wants to know who asks (user:password@ in the URL)" if answer.status == 401 else ""
            yield error(_SUBJECT, f"{self._shown} answers {answer.status}{why}; expected 200")
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
