"""--config.file: what it takes, and that each mistake is named with its file, line, key and what was expected."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flowrra_exporter.config_file import read_config_file
from flowrra_exporter.settings import OPTIONS, Address

from tests.exporter.command.test_settings import VALID
from tests.exporter.commands import run_command
from tests.exporter.conftest import FREE_PORT, Run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "flowrra.yaml"


@pytest.mark.slow
def test_the_command_runs_with_it(run: Run, file: Path) -> None:
    file.write_text(f'# the flags\nweb.listen-address: ["{FREE_PORT}"]\nweb.telemetry-path: /internal/metrics\n')
    command = run(f"--config.file={file}", "plain:app")
    command.ready()
    assert command.get("/internal/metrics").status == 200
    assert command.get("/metrics").status == 404


def test_it_can_be_named_by_a_variable(file: Path) -> None:
    file.write_text("max-series: 5\n")
    ended = run_command("--print-config", FLOWRRA_EXPORTER_CONFIG_FILE=str(file))
    assert "max-series: 5\n" in ended.out


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.flag)
def test_every_flag_can_stand_in_it(file: Path, option: object) -> None:
    name, flag = option.name, option.flag  # type: ignore[attr-defined]
    text, value = VALID[name]
    file.write_text(f'{flag.removeprefix("--")}: "{text}"\n')
    found = read_config_file(str(file))
    assert found.mistakes == []
    assert found.values == {name: value}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("# nothing\n", {}),
        ("---\n", {}),
        ("\ufeffmax-series: 5\n", {"max_series": 5}),
        ("web.listen-address: :80\n", {"web_listen_address": (Address("", 80),)}),
        ("web.listen-address:\n- :80\n- '[::1]:81'\n", {"web_listen_address": (Address("", 80), Address("::1", 81))}),
        ("histogram.loop-lag-bounds: [0.1, 1]\n", {"histogram_loop_lag_bounds": (0.1, 1.0)}),
        ("histogram.loop-lag-bounds: 0.1,1\n", {"histogram_loop_lag_bounds": (0.1, 1.0)}),
        ("web.api: no\n", {"web_api": False}),
        ("probe.max-pending: null\n", {}),
        ("probe.listen-address: []\n", {"probe_listen_address": ()}),
    ],
)
def test_the_forms_of_a_value(file: Path, text: str, values: dict[str, object]) -> None:
    file.write_text(text)
    assert read_config_file(str(file)) == (str(file), values, [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("max-series: 5\nmax-serie: 5\n", 2, "'max-serie': no such key; expected 'max-series'"),
        ("--max-series: 5\n", 1, "'--max-series': no such key; expected 'max-series'"),
        ("no-web.api: true\n", 1, "'no-web.api': no such key; expected 'web.api'"),
        ("zzz: 5\n", 1, "'zzz': no such key; expected a flag without its dashes"),
        ("config.file: other.yaml\n", 1, "'config.file': no such key"),
        ("\n\nmax-series: many\n", 3, "max-series: got 'many'; expected a whole number above 0"),
        ("max-series: true\n", 1, "max-series: got 'true'; expected a whole number above 0"),
        ("max-series:\n", 1, "max-series: got nothing; expected a whole number above 0"),
        ("max-series: [1, 2]\n", 1, "max-series: got a list; expected a whole number above 0"),
        ("max-series: {a: 1}\n", 1, "max-series: got a mapping; expected a whole number above 0"),
        ("max-series: 1\nmax-series: 2\n", 2, "max-series: stands here a second time; expected each key once"),
        ("web.api: perhaps\n", 1, "web.api: got 'perhaps'; expected true or false"),
        ("log.level: off\n", 1, "log.level: got 'off'; expected one of debug, info, warning, error"),
        ("shutdown.timeout: .inf\n", 1, "shutdown.timeout: got '.inf'; expected a number of seconds above 0"),
        ("web.listen-address: []\n", 1, "web.listen-address: got an empty list; expected host:port"),
        ("web.listen-address:\n- :80\n- [x]\n", 3, "web.listen-address: got a list; expected host:port"),
        ("otel.endpoint: ftp://user:s3cret@host\n", 1, "otel.endpoint: got 'ftp://…'; expected a URL"),
        ("- max-series: 5\n", 1, "holds a list; expected a mapping of flags"),
        ("max-series\n", 1, "holds a text; expected a mapping of flags"),
        ("max-series: 5\nweb.api: [\n", 3, "is no YAML: "),
        ("max-series: 5\n---\nmax-series: 6\n", 2, "is no YAML: "),
        ("max-series: *nowhere\n", 1, "is no YAML: found undefined alias"),
    ],
)
def test_a_mistake_names_file_line_and_key_and_what_was_expected(file: Path, text: str, line: int, reason: str) -> None:
    file.write_text(text)
    ended = run_command(f"--config.file={file}", "plain:app")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"flowrra-exporter: {file}:{line}: {reason}")
    assert ended.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "can't be read: No such file or directory"),
        (b"max-series: \xff\n", "is not UTF-8 at byte 12"),
        (b"#" * 1_000_001, "is larger than 1000000 bytes"),
        (b"[" * 100_000, "is no YAML: RecursionError"),
        (b"max-series: \x00\n", "is no YAML: ReaderError"),
    ],
)
def test_a_file_that_can_not_be_read_is_one_clear_line(file: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        file.write_bytes(content)
    ended = run_command(f"--config.file={file}", "plain:app")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"flowrra-exporter: {file}: {reason}")
    assert ended.err.count("\n") == 1


def test_nothing_in_it_is_run(file: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    file.write_text(f"max-series: !!python/object/apply:os.mkdir ['{made}']\n")
    ended = run_command(f"--config.file={file}", "plain:app")
    assert ended.status == 2
    assert "max-series: got a list" in ended.err
    assert not made.exists()


def test_of_several_mistakes_the_first_is_named_and_the_others_are_counted(file: Path) -> None:
    file.write_text("max-series: 0\nweb.api: perhaps\nnonsense: 1\n")
    ended = run_command(f"--config.file={file}", "plain:app")
    assert ended.err.startswith(f"flowrra-exporter: {file}:1: max-series: got '0'")
    assert ended.err.endswith("(and 2 more: flowrra-exporter check lists all)\n")


def test_the_example_of_the_documentation_is_right(file: Path) -> None:
    document = (Path(__file__).parents[3] / "docs" / "command.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    file.write_text(example)
    found = read_config_file(str(file))
    assert found.mistakes == []
    assert set(found.values) == {
        *("web_listen_address", "web_api", "max_series"),
        "histogram_run_duration_bounds",
    }
