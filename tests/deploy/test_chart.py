"""The chart: what its schema refuses, and, where helm is installed, what its templates refuse and write."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.kubernetes.files import CHART
from prove.manifests import VARIANTS, WRONG, WRONG_TOGETHER, find_helm, mistakes_in, render
from tests.conftest import PROOFS_ALONE

SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def values(*changes: str) -> Any:
    """The chart's values with changes such as ``worker.replicas=3``, as Helm does it: maps merge, null takes away."""
    found = yaml.safe_load((CHART / "values.yaml").read_text())
    for change in changes:
        path, _, text = change.partition("=")
        wanted: Any = json.loads(text)
        for key in reversed(path.split(".")):
            wanted = {key: wanted}
        found = merged(found, wanted)
    return found


def merged(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    both = {key: merged(below.get(key), value) for key, value in above.items()}
    return {key: value for key, value in {**below, **both}.items() if value is not None}


def refused_at(found: Any) -> list[str]:
    """The places of what the schema refuses, as Helm writes them."""
    return [
        "".join(f"/{part}" for part in error.path) for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(found)
    ]


@pytest.mark.parametrize("change", WRONG)
def test_the_schema_refuses_what_kubernetes_would(change: str) -> None:
    assert WRONG[change] in refused_at(values(change))


@pytest.mark.parametrize("title", VARIANTS)
def test_the_schema_takes_what_is_right(title: str) -> None:
    assert refused_at(values(*VARIANTS[title])) == []


@pytest.mark.parametrize("change", WRONG_TOGETHER)
def test_what_is_wrong_together_is_no_matter_of_the_schema(change: str) -> None:
    """Else it had a place there, and a better error."""
    assert refused_at(values(change)) == []


def test_no_value_of_the_chart_can_be_taken_away() -> None:
    """Helm takes a null for "without the chart's own", of which templates make text such as `<nil>`."""

    def look(known: dict[str, Any], found: dict[str, Any], place: str) -> None:
        if "$ref" in known:
            known = SCHEMA["definitions"][known["$ref"].rpartition("/")[2]]
        if "properties" not in known or place.endswith("/resources"):
            return  # what Kubernetes reads; a container without a limit is one, too
        for key, value in found.items():
            assert key in known["required"], f"{place}/{key}"
            if isinstance(value, dict):
                look(known["properties"][key], value, f"{place}/{key}")

    look(SCHEMA, values(), "")


# ── what Helm makes of it ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def helm() -> str:
    """Where it is installed, also if tools must be there: the proof `manifests` can't do without it."""
    found = find_helm()
    if found is None:
        pytest.skip(PROOFS_ALONE)
    return found


def written(helm: str, *changes: str, release: str = "shop") -> list[dict[str, Any]]:
    ended = render(helm, *changes, release=release)
    assert ended.returncode == 0, ended.stderr
    return [each for each in yaml.safe_load_all(ended.stdout) if each]


def specs(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each["spec"] for each in documents if each["kind"] == kind]


@pytest.mark.slow
@pytest.mark.parametrize("title", VARIANTS)
def test_what_is_made_of_right_values_is_valid(helm: str, title: str) -> None:
    assert mistakes_in(written(helm, *VARIANTS[title]), "1.31") == []


@pytest.mark.parametrize("change", WRONG_TOGETHER)
def test_values_that_are_wrong_together_are_refused_with_their_names(helm: str, change: str) -> None:
    ended = render(helm, change)
    assert ended.returncode != 0
    assert WRONG_TOGETHER[change] in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("release", ["123", "my.shop"])
def test_a_release_whose_name_no_service_may_have_is_refused_or_named_otherwise(helm: str, release: str) -> None:
    assert "set fullnameOverride" in render(helm, release=release).stderr
    assert mistakes_in(written(helm, 'fullnameOverride="shop"', release=release), "1.31") == []


def test_peers_of_ones_own_take_the_place_of_the_charts(helm: str) -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"team": "obs"}}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}]
    policies = specs(written(helm, f"networkPolicy.scrapedFrom={json.dumps(peers)}"), "NetworkPolicy")
    assert [policy["ingress"][0]["from"] for policy in policies] == [peers, peers]


def test_the_pods_live_longer_than_their_drains(helm: str) -> None:
    deployments = specs(written(helm, "shutdownTimeout=300", "stopMargin=20"), "Deployment")
    pods = [each["template"]["spec"] for each in deployments]
    drains = {"worker": 300, "observer": 5}
    for pod in pods:
        [container] = pod["containers"]
        assert f"--shutdown.timeout={drains[container['name']]}" in container["args"]
        assert pod["terminationGracePeriodSeconds"] == drains[container["name"]] + 20
    assert len(pods) == 2


def test_a_web_configuration_file_is_mounted_where_the_command_looks_for_it(helm: str) -> None:
    for spec in specs(written(helm, 'webConfig={"secretName":"shop-web","key":"web.yaml"}'), "Deployment"):
        pod = spec["template"]["spec"]
        [container] = pod["containers"]
        [mount] = [each for each in container["volumeMounts"] if each["name"] == "web-config"]
        [volume] = [each for each in pod["volumes"] if each["name"] == "web-config"]
        assert f"--web.config.file={mount['mountPath']}/web.yaml" in container["args"]
        assert volume["secret"] == {"secretName": "shop-web"}


def test_a_worker_that_serves_nothing_has_no_web_configuration_file(helm: str) -> None:
    written_without = written(
        helm, "worker.exporter=false", 'webConfig.secretName="shop-web"', "observer.enabled=false"
    )
    assert "web-config" not in yaml.safe_dump_all(written_without)
    assert "--web.config.file" not in yaml.safe_dump_all(written_without)


@pytest.mark.parametrize("path", ["/tmp", "/etc/flowrra-exporter/", "/data/"])
def test_a_path_that_is_mounted_already_is_refused(helm: str, path: str) -> None:
    mounts = json.dumps([{"name": "data", "mountPath": each} for each in ("/data", path)])
    ended = render(helm, 'volumes=[{"name":"data","emptyDir":{}}]', f"volumeMounts={mounts}")
    assert f"volumeMounts has the path {path} twice" in ended.stderr
