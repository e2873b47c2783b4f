"""What the console costs: pages and views are shared by all who look, and what is kept is bounded."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from flowrra_exporter.web.console import routes
from flowrra_exporter.web.console.charts import Series, Span, chart

from flowrra import Flowrra
from tests.exporter.conftest import Serve
from tests.exporter.contract import ContractApp


async def test_however_many_look_the_app_is_asked_about_once_a_second(serve: Serve) -> None:
    app = ContractApp()
    service = await serve(app)
    await asyncio.gather(*(service.get(f"/?unknown={number}") for number in range(40)))
    await asyncio.gather(*(service.get(path) for path in ("/queues", "/workers", "/names") * 5))
    assert 1 <= app.calls["health_check"] <= 4


async def test_forms_of_pages_are_kept_up_to_a_bound(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    keep = routes.ConsoleRoutes._keep

    def counted(self: routes.ConsoleRoutes, *arguments: object) -> None:
        keep(self, *arguments)  # type: ignore[arg-type]
        made.append(len(self._kept))

    monkeypatch.setattr(routes.ConsoleRoutes, "_keep", counted)
    monkeypatch.setattr(routes, "_MOST_KEPT", 8)
    service = await serve(ContractApp())
    for number in range(20):
        assert (await service.get(f"/names?q={number}")).status == 200
    assert len(made) == 20
    assert max(made) == 8


async def test_a_parameter_without_end_is_cut_off(serve: Serve) -> None:
    app = Flowrra()

    @app.task()
    async def work() -> None: ...

    async with app:
        answer = await (await serve(app)).get(f"/names?q={'x' * 5000}")
    assert answer.status == 200
    assert "x" * 513 in answer.text
    assert "x" * 514 not in answer.text


def test_a_chart_says_in_words_what_it_shows() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    spans = [Span(now - timedelta(minutes=minutes), 60.0) for minutes in (2, 1, 0)]
    failed, retried = Series("failed", "failed", [0.0, 3.0, 1.0]), Series("retried", "retried", [0.0, 0.0, 0.0])
    made = chart("Failures", now, 3600, spans, [failed, retried])
    assert 'aria-label="Failures. failed: 1.0/s now, at most 3.0/s 60 s ago; retried: none."' in made
    assert made.count("<rect ") == 2  # none for what didn't happen
