"""The probes next to the metrics: whether they answer, and in what state."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urljoin

from flowrra_exporter.check_command.client import Answer, Client, Unanswered
from flowrra_exporter.check_command.findings import Finding, error, ok, warning
from flowrra_exporter.paths import PROBE_PATHS

_KUBELET_SECONDS = 1.0


async def probe_findings(client: Client, metrics_url: str) -> AsyncIterator[Finding]:
    """The state of each probe: beside the metrics, where the exporter is mounted below a prefix, or at the root."""
    for path in PROBE_PATHS:
        try:
            answer = await _ask(client, metrics_url, path)
        except Unanswered as failure:
            yield error(path, str(failure))
        else:
            yield _state(path, answer)


async def _ask(client: Client, metrics_url: str, path: str) -> Answer:
    beside, at_root = urljoin(metrics_url, path[1:]), urljoin(metrics_url, path)
    answer = await client.get(f"{beside}?verbose", "text/plain")
    if answer.status == 404 and beside != at_root:
        answer = await client.get(f"{at_root}?verbose", "text/plain")
    return answer


def _state(path: str, answer: Answer) -> Finding:
    subject, text = path, answer.body.decode(errors="replace")
    if answer.status == 404:
        return warning(subject, "isn't served here")
    if answer.status == 503:
        failed = [line.removeprefix("[-]") for line in text.splitlines() if line.startswith("[-]")]
        return error(subject, f"answers 503: {'; '.join(failed) or text}")
    if answer.status != 200:
        return error(subject, f"answers {answer.status}; expected 200 or 503")
    if answer.seconds > _KUBELET_SECONDS:
        return warning(subject, f"answers 200 after {answer.seconds:.1f} s; the kubelet waits 1 s by default")
    return ok(subject, "answers 200")
