"""--print-config: the settings in force, as YAML that --config.file takes; and --version."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from flowrra_exporter import __version__
from flowrra_exporter.config_file import read_config_file
from flowrra_exporter.settings import OPTIONS, Settings

from tests.exporter.commands import run_command

KEYS = [option.flag.removeprefix("--") for option in OPTIONS]


def test_the_defaults_are_printed_in_the_order_of_the_flags_and_no_app_is_needed() -> None:
    ended = run_command("--print-config")
    assert (ended.status, ended.err) == (0, "")
    printed = yaml.safe_load(ended.out)
    assert list(printed) == KEYS
    assert printed["web.listen-address"] == [":9464"]
    assert printed["max-series"] == 20_000
    assert printed["web.api"] is True
    assert printed["probe.max-pending"] is None


def test_nothing_is_imported_or_served() -> None:
    ended = run_command("--print-config", "raises:app")
    assert (ended.status, ended.err) == (0, "")
    assert list(yaml.safe_load(ended.out)) == KEYS


def test_a_flag_wins_over_a_variable_over_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "flowrra.yaml"
    file.write_text("max-series: 1\nshutdown.timeout: 1\nprobe.failure-grace: 1\n")
    ended = run_command(
        "--print-config",
        f"--config.file={file}",
        "--max-series=3",
        FLOWRRA_EXPORTER_MAX_SERIES="2",
        FLOWRRA_EXPORTER_SHUTDOWN_TIMEOUT="2",
    )
    printed = yaml.safe_load(ended.out)
    assert printed["max-series"] == 3
    assert printed["shutdown.timeout"] == 2.0
    assert printed["probe.failure-grace"] == 1.0
    assert printed["loop.block-threshold"] == 5.0


def test_what_is_printed_can_be_read_back(tmp_path: Path) -> None:
    flags = [
        "--web.listen-address=127.0.0.1:0",
        "--web.listen-address=[::1]:80",
        "--no-web.api",
        "--histogram.run-duration-bounds=0.1,1,10",
        "--probe.max-pending=7",
        "--log.level=debug",
        "--otel.endpoint=http://collector:4318",
    ]
    file = tmp_path / "flowrra.yaml"
    file.write_text(run_command("--print-config", *flags).out)
    assert read_config_file(str(file)).mistakes == []
    again = run_command("--print-config", f"--config.file={file}")
    assert (again.status, again.err) == (0, "")
    assert again.out == file.read_text()
    settings = Settings(**read_config_file(str(file)).values)
    assert settings.histogram_run_duration_bounds == (0.1, 1.0, 10.0)
    assert settings.web_api is False


@pytest.mark.slow
def test_secrets_are_hidden_and_what_hides_them_is_not_taken_for_one(tmp_path: Path) -> None:
    for secret in ("user:s3cret", "s3cret"):
        ended = run_command("--print-config", f"--otel.endpoint=http://{secret}@collector:4318")
        assert "s3cret" not in ended.out
        assert yaml.safe_load(ended.out)["otel.endpoint"] == "http://***@collector:4318"
    file = tmp_path / "flowrra.yaml"
    file.write_text(ended.out)
    refused = run_command("--print-config", f"--config.file={file}")
    assert refused.status == 2
    assert "otel.endpoint: got ***, which stands for a secret; expected the secret itself" in refused.err


def test_a_wrong_flag_is_an_error_here_too_and_shows_no_secret() -> None:
    ended = run_command("--print-config", "--otel.endpoint=ftp://user:s3cret@collector")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("flowrra-exporter: --otel.endpoint: got 'ftp://…'; expected a URL")


def test_the_version() -> None:
    ended = run_command("--version")
    assert (ended.status, ended.out, ended.err) == (0, f"flowrra-exporter, version {__version__}\n", "")
