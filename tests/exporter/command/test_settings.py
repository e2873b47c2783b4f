"""Flags and environment: forms, precedence, and errors that name where the bad value stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from flowrra_exporter.errors import UsageError
from flowrra_exporter.metrics.collectors import NAMES
from flowrra_exporter.paths import OTHER_PATHS
from flowrra_exporter.settings import OPTIONS, Address, Settings, load_settings


def test_the_defaults() -> None:
    settings = load_settings({}, {})
    assert settings == Settings()
    assert settings.web_listen_address == (Address("", 9464),)
    assert settings.web_telemetry_path == "/metrics"
    assert (settings.log_level, settings.log_format) == ("info", "text")
    assert (settings.shutdown_timeout, settings.loop_block_threshold) == (30.0, 5.0)
    assert settings.debug is False


VALID = {
    "web_listen_address": ("127.0.0.1:0", (Address("127.0.0.1", 0),)),
    "web_telemetry_path": ("/internal/metrics", "/internal/metrics"),
    "web_config_file": ("web.yml", Path("web.yml")),
    "web_console": ("false", False),
    "web_api": ("false", False),
    "web_show_task_data": ("true", True),
    "web_actions": ("true", True),
    "web_external_url": ("https://flowrra.example.com/jobs", "https://flowrra.example.com/jobs"),
    "max_series": ("500", 500),
    **{f"collector_{name}": ("false", False) for name in NAMES},
    "histogram_run_duration_bounds": ("0.1,1,10", (0.1, 1.0, 10.0)),
    "histogram_queue_wait_bounds": ("1", (1.0,)),
    "histogram_loop_lag_bounds": ("0.5,1e3", (0.5, 1000.0)),
    "log_level": ("DEBUG", "debug"),
    "log_format": ("json", "json"),
    "collector_python_timeout": ("1.5", 1.5),
    "shutdown_timeout": ("2.5", 2.5),
    "loop_block_threshold": ("1", 1.0),
    "probe_listen_address": ("127.0.0.1:0", (Address("127.0.0.1", 0),)),
    "probe_failure_grace": ("0", 0.0),
    "probe_max_pending": ("1000", 1000),
    "probe_max_queue_age": ("60", 60.0),
    "otel_metrics": ("true", True),
    "otel_traces": ("true", True),
    "otel_endpoint": ("http://collector:4318", "http://collector:4318"),
    "otel_protocol": ("grpc", "grpc"),
    "otel_interval": ("15", 15.0),
    "otel_temporality": ("delta", "delta"),
    "observe": ("true", True),
    "probe_require_workers": ("true", True),
    "probe_fail_when_stuck": ("true", True),
    "debug": ("true", True),
}


def test_every_collector_has_a_switch() -> None:
    switches = {option.name for option in OPTIONS if option.switch and option.name.startswith("collector_")}
    assert switches == {f"collector_{name}" for name in NAMES}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.flag)
def test_every_flag_is_an_environment_variable_too_and_wins_over_it(option: object) -> None:
    name, flag, variable = option.name, option.flag, option.variable  # type: ignore[attr-defined]
    text, value = VALID[name]
    assert flag.lstrip("-").replace(".", "_").replace("-", "_") == name
    assert variable == f"FLOWRRA_EXPORTER_{name.upper()}"
    assert getattr(load_settings({}, {variable: text}), name) == value
    assert getattr(load_settings({name: (text,)}, {variable: "nonsense"}), name) == value


def test_an_empty_variable_counts_as_unset() -> None:
    assert load_settings({}, {"FLOWRRA_EXPORTER_SHUTDOWN_TIMEOUT": " "}).shutdown_timeout == 30.0


@pytest.mark.parametrize("text", [":1,:2", ":1 :2", " :1 , :2 "])
def test_a_variable_can_hold_several_addresses(text: str) -> None:
    settings = load_settings({}, {"FLOWRRA_EXPORTER_WEB_LISTEN_ADDRESS": text})
    assert settings.web_listen_address == (Address("", 1), Address("", 2))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":9464", Address("", 9464)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("localhost:80", Address("localhost", 80)),
        ("[::]:9464", Address("::", 9464)),
        ("[::1]:65535", Address("::1", 65535)),
    ],
)
def test_the_forms_of_an_address(text: str, address: Address) -> None:
    (found,) = load_settings({"web_listen_address": (text,)}, {}).web_listen_address
    assert found == address
    assert str(found) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("web_listen_address", text) for text in ("9464", "host", "host:", ":http", ":70000", ":-1", "::1:80")),
        *(("web_listen_address", text) for text in ("[::1]", "[]:80", "[::1:80", ":٣", "a:b:80")),
        *(("web_telemetry_path", text) for text in ("metrics", "/", "/a b", "/a/", "//a", '/"', *OTHER_PATHS)),
        *(
            ("web_telemetry_path", text)
            for text in ("/livez/x", "/api", "/api/x", "/tasks/x", "/actions/x", "/confirm/x")
        ),
        ("web_external_url", "flowrra.example.com"),
        ("log_level", "loud"),
        ("log_format", "xml"),
        *(("shutdown_timeout", text) for text in ("0", "-1", "nan", "inf", "5s", "", "1e10")),
        ("loop_block_threshold", "never"),
        ("debug", "perhaps"),
    ],
)
def test_a_bad_value_is_refused_by_a_line_that_names_its_place_and_the_right_form(name: str, text: str) -> None:
    (option,) = (option for option in OPTIONS if option.name == name)
    with pytest.raises(UsageError) as from_flag:
        load_settings({name: (text,)}, {})
    assert str(from_flag.value) == f"{option.flag}: got {text!r}; expected {option.kind.expected}"
    if text:
        with pytest.raises(UsageError) as from_variable:
            load_settings({}, {option.variable: text})
        assert str(from_variable.value).startswith(f"{option.variable}: got ")


@pytest.mark.parametrize(
    "arguments",
    [
        {"shutdown_timeout": 0},
        {"loop_deadline": float("nan")},
        {"web_listen_address": ()},
        {"max_concurrent_scrapes": 0},
        {"web_telemetry_path": "nowhere"},
        {"web_telemetry_path": None},
        {"web_api": "no"},
        {"web_actions": "false"},
        {"web_console": None},
        {"web_show_task_data": 1},
        {"web_listen_address": "127.0.0.1:0"},
        {"web_listen_address": ("127.0.0.1", 0)},
        {"web_listen_address": Address("127.0.0.1", 0)},
        {"web_listen_address": (Address("127.0.0.1", 70000),)},
        {"web_listen_address": (Address("127.0.0.1", True),)},
        {"web_config_file": "web.yml"},
        {"max_series": "5"},
        {"max_series": 1.5},
        {"max_series": True},
        {"shutdown_timeout": "5"},
        {"shutdown_timeout": 1e10},
        {"histogram_run_duration_bounds": (1, "2")},
        {"log_level": 5},
    ],
)
def test_settings_made_in_python_are_checked_too(arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(arguments))):
        Settings(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["ftp://a", "https://", "https://anna@a", "https://a?b=c"])
def test_an_external_url_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="external-url: got"):
        load_settings({"web_external_url": (text,)}, {})
