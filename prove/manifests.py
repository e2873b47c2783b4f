"""The manifests and the chart, by the tools that clusters use: Helm, kustomize, the schemas of Kubernetes and others.

Needs helm (FLOWRRA_HELM may hold its path), kubectl, node and npm, which installs the schemas of the Prometheus
operator and of KEDA into a folder that goes away.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from benchmarks.harness import ROOT
from prove.proof import Proof

TITLE = "The manifests and the chart are valid, also against the schemas of what isn't Kubernetes' own"
KUBERNETES = ("1.31", "1.37")
CHART = ROOT / "deploy" / "helm" / "flowrra-exporter"
MANIFESTS = ROOT / "deploy" / "kubernetes"
FOREIGN = ("monitoring.coreos.com", "keda.sh")
SCHEMAS = ("@kubernetes-models/prometheus-operator@6.0.0", "@kubernetes-models/keda@0.4.2")
# Values as `helm --set-json` takes them.
EVERYTHING = ("monitors.enabled=true", "rules.enabled=true", "dashboards.enabled=true")
VARIANTS: dict[str, tuple[str, ...]] = {
    "as it comes": (),
    "with everything": EVERYTHING,
    "with KEDA": (*EVERYTHING, 'autoscaling.kind="keda"'),
    "with the HPA": (*EVERYTHING, 'autoscaling.kind="hpa"'),
    "plain workers behind the observer": (*EVERYTHING, "worker.exporter=false"),
    "without a Secret": ('broker.secretName=""',),
    "workers alone": (*EVERYTHING, "observer.enabled=false", "networkPolicy.enabled=false"),
    "with names that YAML could take for numbers": (
        'broker={"secretName":"123","urlKey":"1e3","observerUrlKey":"true"}',
        'autoscaling={"kind":"hpa","queue":"42"}',
        'nameOverride="null"',
    ),
    "with large numbers": ('autoscaling={"kind":"hpa","maxReplicas":1000000}', "shutdownTimeout=1000000"),
    "with a web configuration file and files of its own": (
        *EVERYTHING,
        'webConfig.secretName="shop-web"',
        'volumes=[{"name":"authority","configMap":{"name":"authority"}},{"name":"schedules","persistentVolumeClaim":'
        '{"claimName":"schedules"}}]',
        'volumeMounts=[{"name":"authority","mountPath":"/etc/authority","readOnly":true},'
        '{"name":"schedules","mountPath":"/data","subPath":"shop"}]',
        'monitors.endpoint={"scheme":"https","tlsConfig":{"insecureSkipVerify":true},"basicAuth":'
        '{"username":{"name":"shop-scrape","key":"user"},"password":{"name":"shop-scrape","key":"password"}}}',
    ),
    "with peers of its own": (
        'networkPolicy.scrapedFrom=[{"ipBlock":{"cidr":"10.0.0.0/8"}},{"podSelector":{"matchLabels":{"team":"42"}}}]',
    ),
}
LONG_NAME = "q" * 64
# What the schema refuses, and where.
WRONG = {
    "shutdownTimeout=-1": "/shutdownTimeout",
    "wroker.replicas=3": "",
    'app="shop"': "/app",
    "stopMargin=0": "/stopMargin",
    'nameOverride="My_App"': "/nameOverride",
    'fullnameOverride="my.shop"': "/fullnameOverride",
    'image.tag="sha256:0"': "/image/tag",
    "image.pullPolicy=null": "/image",
    'imagePullSecrets=["registry"]': "/imagePullSecrets/0",
    "broker.secretName=123": "/broker/secretName",
    'broker.secretName="My_Secret"': "/broker/secretName",
    'broker.urlKey="a/b"': "/broker/urlKey",
    'env=[{"name":"A","value":1}]': "/env/0/value",
    "worker.replicas=null": "/worker",
    'worker.resources.limits.memory="much"': "/worker/resources/limits/memory",
    'worker.podAnnotations={"team":42}': "/worker/podAnnotations/team",
    'worker.podDisruptionBudget.maxUnavailable="a few"': "/worker/podDisruptionBudget/maxUnavailable",
    'observer.nodeSelector={"zone":"a b"}': "/observer/nodeSelector/zone",
    "networkPolicy.scrapedFrom=null": "/networkPolicy",
    "networkPolicy.scrapedFrom=[]": "/networkPolicy/scrapedFrom",
    'networkPolicy.scrapedFrom={"namespaceSelector":{"matchLabels":{"team":"obs"}}}': "/networkPolicy/scrapedFrom",
    'networkPolicy.scrapedFrom=[{"podSelector":{},"ipBlock":{"cidr":"10.0.0.0/8"}}]': "/networkPolicy/scrapedFrom/0",
    'webConfig.secretName="My_Secret"': "/webConfig/secretName",
    "webConfig.key=null": "/webConfig",
    'volumes=[{"name":"authority"}]': "/volumes/0",
    'volumes=[{"name":"a_b","emptyDir":{}}]': "/volumes/0/name",
    'volumeMounts=[{"name":"authority","mountPath":"data"}]': "/volumeMounts/0/mountPath",
    'monitors.interval="0s"': "/monitors/interval",
    'monitors.endpoint={"interval":"5s"}': "/monitors/endpoint/interval",
    'monitors.labels={"app.kubernetes.io/name":"shop"}': "/monitors/labels",
    'autoscaling.kind="vpa"': "/autoscaling/kind",
    "autoscaling.kind=null": "/autoscaling",
    "autoscaling.queue=null": "/autoscaling",
    'autoscaling.prometheusAddress="http://prometheus #9090"': "/autoscaling/prometheusAddress",
}
# What the templates refuse, as the values are in order one by one, and what they say.
WRONG_TOGETHER = {
    'monitors.interval="5s"': "monitors.scrapeTimeout is 10s and monitors.interval 5s",
    "autoscaling.minReplicas=30": "autoscaling.minReplicas is 30 and autoscaling.maxReplicas 20",
    f'autoscaling={{"kind":"hpa","queue":"{LONG_NAME}"}}': f'autoscaling.queue is "{LONG_NAME}"',
    'autoscaling={"kind":"hpa","queue":"_mail"}': 'autoscaling.queue is "_mail"',
    'worker.extraArgs=["--shutdown.timeout=300"]': "worker.extraArgs has --shutdown.timeout=300",
    'worker={"exporter":false,"extraArgs":["--shutdown-timeout","300"]}': "worker.extraArgs has --shutdown-timeout",
    'observer.extraArgs=["--web.listen-address=:80"]': "observer.extraArgs has --web.listen-address=:80",
    'volumes=[{"name":"tmp","emptyDir":{}}]': 'volumes has "tmp" twice',
    'volumeMounts=[{"name":"data","mountPath":"/data"}]': 'volumeMounts has "data", which is none of volumes',
    'env=[{"name":"FLOWRRA_BROKER_URL","value":"redis://redis"}]': "env has FLOWRRA_BROKER_URL",
}
# How Helm says that it was the schema, the checks, or itself, as a map can't be text.
REFUSALS = ("don't meet the specifications of the schema", "checks.yaml", "failed parsing --set")
# Any value may be given any of these: it is refused, or what is made of it is valid.
ODD = ("null", '""', '"true"', '"42"', '"a: b # c"', "1000000", "[]", "{}")
# Prints what is wrong with the documents in a file, one line for each.
VALIDATE = """
import fs from "node:fs";
for (const document of JSON.parse(fs.readFileSync(process.argv[2]))) {
  const models = document.apiVersion.startsWith("keda") ? "keda" : "prometheus-operator";
  const module = await import(`@kubernetes-models/${models}/${document.apiVersion}/${document.kind}`);
  try { new module[document.kind](document).validate(); }
  catch (error) { console.log(`${document.kind}: ${error.message}`); }
}
"""


def run(proof: Proof) -> None:
    helm = find_helm()
    missing = [name for name in ("kubectl", "node", "npm") if shutil.which(name) is None]
    if helm is None or missing:
        proof.not_shown(f"not installed: {', '.join([*missing, *([] if helm else ['helm'])])}")
        return
    proof.line(f"helm {_do(helm, 'version', '--short').strip()}, schemas of Kubernetes {', '.join(KUBERNETES)}")
    proof.line(", ".join(SCHEMAS))
    with tempfile.TemporaryDirectory(prefix="flowrra-prove-manifests-") as name:
        folder = Path(name)
        installed = _run("npm", "install", "--silent", "--no-audit", "--no-fund", *SCHEMAS, folder=folder)
        if installed.returncode:
            proof.not_shown(f"npm can't install the schemas: {installed.stderr[-300:]}")
            return
        (folder / "validate.mjs").write_text(VALIDATE)
        linted = _run(helm, "lint", "--strict", str(CHART))
        proof.truth("helm lint --strict finds nothing", linted.returncode == 0, linted.stdout.strip().splitlines()[-1])
        for title, values in VARIANTS.items():
            rendered = render(helm, *values)
            proof.truth(f"the chart {title} can be rendered", rendered.returncode == 0, rendered.stderr[-300:])
            _judge(proof, f"the chart {title}", yaml.safe_load_all(rendered.stdout), folder)
        proof.truth("the chart and the plain manifest scale by the same queries", _scaled_alike(helm))
        for value, said in (*((value, f"at '{place}'") for value, place in WRONG.items()), *WRONG_TOGETHER.items()):
            refused = render(helm, value)
            proof.truth(f"a wrong value is refused: {value}", refused.returncode != 0 and said in refused.stderr)
        for release in ("123", "my.shop"):
            refused = render(helm, release=release)
            named = refused.returncode != 0 and f'named "{release}-flowrra-exporter"' in refused.stderr
            proof.truth(f"a release whose name no Service may have is refused: {release}", named)
        _judge_odd_values(proof, helm, folder)
        _judge(proof, "kustomize", yaml.safe_load_all(_do("kubectl", "kustomize", str(MANIFESTS))), folder)
        for path in ("plain-worker.yaml", "autoscaling/keda.yaml", "autoscaling/hpa.yaml"):
            _judge(proof, path, yaml.safe_load_all((MANIFESTS / path).read_text()), folder)
        spoilt = [{"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": {}, "spec": {"x": 1}}]
        proof.truth("a wrong PodMonitor is told from a right one", bool(_custom(spoilt, folder)))


def _scaled_alike(helm: str) -> bool:
    rendered = render(helm, 'autoscaling.kind="keda"', 'fullnameOverride="shop"')
    asked = []
    for text in (rendered.stdout, (MANIFESTS / "autoscaling/keda.yaml").read_text()):
        [scaled] = [each for each in yaml.safe_load_all(text) if each and each["kind"] == "ScaledObject"]
        triggers = scaled["spec"]["triggers"]
        asked.append({each["name"]: (each["metricType"], each["metadata"]) for each in triggers})
    return asked[0] == asked[1]


def find_helm() -> str | None:
    """The path of helm, if there is one."""
    return os.environ.get("FLOWRRA_HELM") or shutil.which("helm")


def render(helm: str, *values: str, release: str = "shop") -> subprocess.CompletedProcess[str]:
    """What helm makes of the chart and values such as `worker.replicas=3`, whose right side is JSON."""
    options = [word for value in values for word in ("--set-json", value)]
    return _run(helm, "template", release, str(CHART), "--namespace", "default", *options)


def _judge_odd_values(proof: Proof, helm: str, folder: Path) -> None:
    """One value after the other, and what is made of all that are taken at once: most of it is the same."""
    tried, refused, unclear, made = 0, 0, [], dict[str, None]()
    for place in _places(yaml.safe_load((CHART / "values.yaml").read_text())):
        for kind, odd in itertools.product(("keda", "hpa") if place.startswith("autoscaling") else ("none",), ODD):
            # Without rules and dashboards: they are long, and the same with all values.
            rendered = render(helm, "monitors.enabled=true", f'autoscaling.kind="{kind}"', f"{place}={odd}")
            tried, refused = tried + 1, refused + (rendered.returncode != 0)
            if rendered.returncode and not any(each in rendered.stderr for each in REFUSALS):
                unclear.append(f"{place}={odd}")
            made.update(dict.fromkeys(rendered.stdout.split("\n---\n")))
    proof.truth("an odd value that is refused is refused by schema or checks", not unclear, "; ".join(unclear[:3]))
    title = f"of {tried} odd values {refused} are refused, and what is made of the others"
    _judge(proof, title, (yaml.safe_load(text) for text in made), folder)


def _places(values: dict[str, Any], above: str = "") -> Iterator[str]:
    """The path of each value, and of each map of them, as --set-json takes it."""
    for key, value in values.items():
        place = above + key.replace(".", r"\.")
        yield place
        if isinstance(value, dict):
            yield from _places(value, f"{place}.")


def _judge(proof: Proof, title: str, found: Iterable[Any], folder: Path) -> None:
    documents = [each for each in found if each]
    custom = [each for each in documents if each["apiVersion"].startswith(FOREIGN)]
    mistakes = [
        *_custom(custom, folder),
        *(error for version in KUBERNETES for error in mistakes_in(documents, version)),
    ]
    kinds = Counter(each["kind"] for each in documents)
    told = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    proof.truth(f"{title} is valid", not mistakes, "; ".join(mistakes[:3]) or told)


def mistakes_in(documents: Iterable[dict[str, Any]], version: str) -> list[str]:
    """What the schemas of that Kubernetes say of its own kinds; nothing of others'."""
    mistakes = []
    for document in documents:
        if document["apiVersion"].startswith(FOREIGN):
            continue
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            mistakes.append(f"{document['kind']}: {error.message}")
    return mistakes


def _custom(documents: list[Any], folder: Path) -> list[str]:
    (folder / "documents.json").write_text(json.dumps(documents))
    ended = _run("node", "validate.mjs", "documents.json", folder=folder)
    return (ended.stdout + ended.stderr).splitlines()


def _do(*command: str) -> str:
    ended = _run(*command)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ended.stderr[-1500:]}")
    return ended.stdout


def _run(*command: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
