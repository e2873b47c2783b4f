"""The web configuration read again: whatever goes wrong, the server goes on, and no door is opened by mistake."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from flowrra_exporter.errors import UsageError
from flowrra_exporter.web import background
from flowrra_exporter.web.access.web_config import load_web_config
from flowrra_exporter.web.background import Background

from flowrra import Flowrra
from tests.exporter.certificates import Issuer
from tests.exporter.conftest import FREE_PORT, TARGETS, Run, Serve, until
from tests.exporter.web.test_authentication import basic, changed, hashed

TLS = "tls_server_config: {cert_file: server.crt, key_file: server.key, %s}"
STRANGE = {
    "a date that is none": "basic_auth_users: {anna: 2024-13-45}",
    "a burst of 400 digits": f"rate_limit: {{interval: 1s, burst: {'9' * 400}}}",
    "a burst of 5,000 digits": f"rate_limit: {{interval: 1s, burst: {'9' * 5000}}}",
    "a burst of 5,000 hexadecimal digits": f"rate_limit: {{interval: 1s, burst: 0x{'f' * 5000}}}",
    "an interval of 5,000 digits": f"rate_limit: {{interval: 0x{'f' * 5000}, burst: 1}}",
    "a key of 5,000 digits": f"0x{'f' * 5000}: 1",
    "a NUL in a path": 'tls_server_config: {cert_file: "a\\0b", key_file: server.key}',
    "a surrogate in a path": 'tls_server_config: {cert_file: "\\ud800", key_file: server.key}',
    "an issuer that is not ASCII": TLS % "client_auth_type: VerifyClientCertIfGiven, client_ca: blåbär",
    "a text that doubles itself": "a: &a [x, x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(24))
    + "basic_auth_users: *y",
    "a text within itself": "basic_auth_users: &a [*a]",
    "digits of another script": f"basic_auth_users: {{anna: '$2b$1٣${hashed('x')[7:]}'}}",
    "more than a file can have": "#" * 2_000_000,
    "no UTF-8": "basic_auth_users: {anna: \udcff}",
}


def write(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(text.encode("utf-8", "surrogateescape"))
    os.replace(fresh, path)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    Issuer(tmp_path, "issuer").issue("server")
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users: {{anna: {hashed('right')}}}")
    return path


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE)
def test_whatever_is_in_the_file_is_one_short_error(config: Path, text: str) -> None:
    write(config, text)
    with pytest.raises(UsageError) as caught:
        load_web_config(config)
    assert str(caught.value).startswith(str(config))
    assert len(str(caught.value)) < len(str(config)) + 300


@pytest.mark.slow
async def test_whatever_is_in_the_file_the_server_goes_on_and_the_next_one_holds(
    serve: Serve, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Flowrra() as app:
        service = await serve(app, web_config_file=config)
        for n, (name, text) in enumerate(STRANGE.items()):
            write(config, text)
            await until(lambda n=n: caplog.text.count("the web configuration stays as it was") > n, 10)  # type: ignore[misc]
            assert (await service.get("/livez", Authorization=basic("anna", "right"))).status == 200, name
            assert (await service.get("/livez")).status == 401, name
        scrape = await service.get(Authorization=basic("anna", "right"))
        assert scrape.value("flowrra_exporter_web_config_in_order") == 0
        write(config, f"basic_auth_users: {{anna: {hashed('newer')}}}")
        await changed(service, "/livez", 200, Authorization=basic("anna", "newer"))
        scrape = await service.get(Authorization=basic("anna", "newer"))
        assert scrape.value("flowrra_exporter_web_config_in_order") == 1


@pytest.mark.slow
def test_after_a_reload_that_failed_a_signal_drains(run: Run, config: Path) -> None:
    command = run(f"--web.listen-address={FREE_PORT}", f"--web.config.file={config}", "told:app")
    command.ready()
    write(config, STRANGE["a date that is none"])
    command.wait_for_line("the web configuration stays as it was")
    command.signal()
    assert command.wait() == 0
    assert "SIGTERM: shutting down" in command.log
    assert "the app has stopped" in command.log


@pytest.mark.slow
async def test_files_that_could_not_be_read_are_read_later_though_they_stay_the_same(
    serve: Serve, config: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There may have been no thread for it, and no descriptor."""
    from flowrra_exporter.web.access import reload

    monkeypatch.setattr(reload, "_AGAIN_SECONDS", 0.1)
    started = threading.Thread.start

    def no_thread(self: threading.Thread) -> None:
        if self.name.startswith("asyncio_"):
            raise RuntimeError("can't start new thread")
        started(self)

    async with Flowrra() as app:
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        service = await serve(app, web_config_file=config)
        write(config, f"basic_auth_users: {{anna: {hashed('newer')}}}")
        await until(lambda: "reading the web configuration again failed with RuntimeError" in caplog.text, 10)
        assert (await service.get("/livez", Authorization=basic("anna", "right"))).status == 200
        monkeypatch.setattr(threading.Thread, "start", started)
        await changed(service, "/livez", 200, Authorization=basic("anna", "newer"))
        scrape = await service.get(Authorization=basic("anna", "newer"))
        assert (scrape.value("flowrra_exporter_background_errors_total", work="web_config") or 0) >= 1
        assert scrape.value("flowrra_exporter_background_errors_total", work="event_loop") == 0


@pytest.mark.slow
async def test_an_emptied_file_opens_no_door(serve: Serve, config: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nor does one that has lost its users: half of a file is no wish."""
    async with Flowrra() as app:
        service = await serve(app, web_config_file=config)
        for n, text in enumerate(("", "# nothing\n", "basic_auth_users:\n", "rate_limit: {interval: 1s, burst: 9}")):
            write(config, text)
            await until(lambda n=n: len(kept(caplog)) > n, 10)  # type: ignore[misc]
            assert (await service.get()).status == 401
        assert "basic_auth_users is gone; expected 'basic_auth_users: {}' if it is to be gone" in kept(caplog)[-1]
        write(config, "basic_auth_users: {}")
        assert (await changed(service, "/metrics", 200)).status == 200


def kept(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.ERROR and "the web configuration stays as it was" in record.getMessage()
    ]


@pytest.mark.slow
async def test_an_emptied_file_takes_no_encryption_away(
    serve: Serve, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write(config, TLS % "")
    async with Flowrra() as app:
        service = await serve(app, web_config_file=config)
        assert service.url.startswith("https:")
        write(config, f"basic_auth_users: {{anna: {hashed('right')}}}")
        await until(lambda: bool(kept(caplog)), 10)
        assert "tls_server_config is gone" in kept(caplog)[-1]
        write(config, "tls_server_config: {}")
        await until(lambda: "read the web configuration again" in caplog.text, 10)
        assert (await service.get()).status == 200


@pytest.mark.slow
def test_sighup_reads_the_file_again_and_ends_nothing(run: Run, config: Path) -> None:
    command = run(f"--web.listen-address={FREE_PORT}", f"--web.config.file={config}", "told:app")
    command.ready()
    command.signal(signal.SIGHUP)
    command.wait_for_line("read the web configuration again")
    write(config, STRANGE["a date that is none"])
    command.signal(signal.SIGHUP)
    command.wait_for_line("the web configuration stays as it was")
    assert command.get("/livez", Authorization=basic("anna", "right")).status == 200
    command.signal()
    assert command.wait() == 0
    assert "the app has stopped" in command.log


@pytest.mark.slow
def test_sighup_without_a_file_is_a_line(run: Run) -> None:
    command = run(f"--web.listen-address={FREE_PORT}", "told:app")
    command.ready()
    for _ in range(3):
        command.signal(signal.SIGHUP)
    command.wait_for_line("there is no web configuration file to be read again")
    assert command.get("/livez").status == 200
    command.signal()
    assert command.wait() == 0


SERVER_GONE = """
import os, signal, sys, threading, time
from flowrra_exporter.command import Command
from flowrra_exporter.app.lifecycle import Phase
from flowrra_exporter.settings import Address, Settings

command = Command("told:app", Settings(web_listen_address=(Address("127.0.0.1", 0),)))

def end() -> None:
    while command._exporter.lifecycle.status.phase is not Phase.RUNNING:
        time.sleep(0.01)
    command._exporter.server.stop()
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=end, daemon=True).start()
sys.exit(command.run())
"""


@pytest.mark.slow
def test_a_signal_drains_the_app_though_the_server_is_gone() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SERVER_GONE],
        cwd=TARGETS,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "SIGTERM: shutting down" in ended.stdout
    assert "the app has stopped" in ended.stdout


async def test_work_beside_the_server_is_begun_again_whatever_it_raises(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also after a cancellation that nobody asked for, and after it has simply ended."""
    monkeypatch.setattr(background, "_FIRST_PAUSE_SECONDS", 0.01)
    turns: list[Any] = [MemoryError(), asyncio.CancelledError(), OSError("disk"), None, ValueError()]
    sound = asyncio.Event()

    async def work() -> None:
        if turns:
            turn = turns.pop(0)
            if turn is not None:
                raise turn
            return
        sound.set()
        await asyncio.Event().wait()

    supervised = Background("the work", "work", work)
    task = asyncio.create_task(supervised.run())
    await asyncio.wait_for(sound.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert supervised.errors == 4
    said = [record.getMessage() for record in caplog.records if record.name.endswith("background")]
    assert said == [
        "the work failed with MemoryError, and is tried again",
        "the work failed 1 times more, and is tried again each time",
    ]
