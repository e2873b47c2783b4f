"""The Compose file: valid, its mounts are there, and its Prometheus and Alertmanager take their configuration."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.end_to_end.processes import tool

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / "deploy" / "compose"
SCHEMA = json.loads((HERE / "schemas" / "compose-spec.json").read_text())


def compose() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())  # type: ignore[no-any-return]


def services() -> dict[str, Any]:
    return compose()["services"]  # type: ignore[no-any-return]


def test_it_is_valid_against_the_schema() -> None:
    jsonschema.Draft7Validator(SCHEMA).validate(compose())


def test_a_misspelt_key_is_not_valid() -> None:
    wrong = compose()
    wrong["services"]["worker"]["stop_grace"] = "40s"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(SCHEMA).validate(wrong)


def test_what_is_mounted_is_there() -> None:
    for service in services().values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (FOLDER / source).exists(), source
            else:
                assert source in compose()["volumes"]


@pytest.mark.parametrize("name", ["worker", "observer"])
def test_a_container_lives_longer_than_the_drain(name: str) -> None:
    service = services()[name]
    [drain] = [each for each in service["command"] if each.startswith("--shutdown.timeout=")]
    assert int(service["stop_grace_period"].removesuffix("s")) >= int(drain.partition("=")[2]) + 5


def test_ports_are_open_to_this_machine_alone() -> None:
    for service in services().values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_the_addresses_that_its_head_names_are_published() -> None:
    """Each by a service of which there is one, so that the address stays."""
    named = set(re.findall(r"http://localhost:(\d+)", (FOLDER / "compose.yaml").read_text()))
    published = {port.split(":")[1] for service in services().values() for port in service.get("ports", ())}
    assert named == published - {""}


def test_a_service_that_is_scraped_as_any_number_of_containers_takes_any_port() -> None:
    """A port of the machine can be given once: with one of its own, `--scale worker=2` fails."""
    jobs = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    scaled = {name for job in jobs for found in job.get("dns_sd_configs", ()) for name in found["names"]}
    assert scaled == {"worker"}
    for name in scaled:
        for port in services()[name].get("ports", ()):
            assert port.split(":")[1] == "", port


def test_no_image_is_whatever_is_latest() -> None:
    for name, service in services().items():
        assert "build" in service or service["image"] == "flowrra-exporter" or re.search(r":v?\d", service["image"]), (
            name
        )


@pytest.mark.tools
def test_prometheus_takes_its_configuration_and_the_rules(tmp_path: Path) -> None:
    mounts = [each.split(":") for each in services()["prometheus"]["volumes"] if each.startswith(".")]
    for source, target, *_ in mounts:
        shutil.copy(FOLDER / source, tmp_path / Path(target).name)
    ended = subprocess.run(
        [tool("promtool"), "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("SUCCESS") == 4  # of the configuration, its files of rules, and each of the two
