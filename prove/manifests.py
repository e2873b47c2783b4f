"""The manifests and the chart, by the tools that clusters use: Helm, kustomize, the schemas of Kubernetes and others.

Needs helm (FLOWRRA_HELM may hold its path), kubectl, node and npm, which installs the schemas of the Prometheus
operator and of KEDA into a folder that goes away.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
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
SCHEMAS = ("@kubernetes-models/prometheus-operator@6.0.0", "@kubernetes-models/keda@0.4.2")
EVERYTHING = ("monitors.enabled=true", "rules.enabled=true", "dashboards.enabled=true")
VARIANTS: dict[str, tuple[str, ...]] = {
    "as it comes": (),
    "with everything": EVERYTHING,
    "with KEDA": (*EVERYTHING, "autoscaling.kind=keda"),
    "with the HPA": (*EVERYTHING, "autoscaling.kind=hpa"),
    "plain workers behind the observer": (*EVERYTHING, "worker.exporter=false"),
    "without a Secret": ("broker.secretName=",),
    "workers alone": (*EVERYTHING, "observer.enabled=false", "networkPolicy.enabled=false"),
}
WRONG = ("shutdownTimeout=-1", "wroker.replicas=3", "app=shop", "autoscaling.kind=vpa", "stopMargin=0")
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
    helm = os.environ.get("FLOWRRA_HELM") or shutil.which("helm")
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
            options = [word for value in values for word in ("--set", value)]
            text = _do(helm, "template", "shop", str(CHART), "--namespace", "default", *options)
            _judge(proof, f"the chart {title}", yaml.safe_load_all(text), folder)
        proof.truth("the chart and the plain manifest scale by the same queries", _scaled_alike(helm))
        for value in WRONG:
            refused = _run(helm, "template", "shop", str(CHART), "--set", value)
            proof.truth(f"a wrong value is refused: {value}", refused.returncode != 0)
        _judge(proof, "kustomize", yaml.safe_load_all(_do("kubectl", "kustomize", str(MANIFESTS))), folder)
        for path in ("plain-worker.yaml", "autoscaling/keda.yaml", "autoscaling/hpa.yaml"):
            _judge(proof, path, yaml.safe_load_all((MANIFESTS / path).read_text()), folder)
        spoilt = [{"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": {}, "spec": {"x": 1}}]
        proof.truth("a wrong PodMonitor is told from a right one", bool(_custom(spoilt, folder)))


def _scaled_alike(helm: str) -> bool:
    words = ("--set", "autoscaling.kind=keda", "--set", "fullnameOverride=shop", "--namespace", "default")
    rendered = _do(helm, "template", "shop", str(CHART), *words, "--show-only", "templates/autoscaling.yaml")
    asked = []
    for text in (rendered, (MANIFESTS / "autoscaling/keda.yaml").read_text()):
        triggers = yaml.safe_load(text)["spec"]["triggers"]
        asked.append({each["name"]: (each["metricType"], each["metadata"]) for each in triggers})
    return asked[0] == asked[1]


def _judge(proof: Proof, title: str, found: Iterable[Any], folder: Path) -> None:
    documents = [each for each in found if each]
    custom = [each for each in documents if each["apiVersion"].startswith(("monitoring.coreos.com", "keda.sh"))]
    mistakes = _custom(custom, folder)
    for document in documents:
        for version in KUBERNETES if document not in custom else ():
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                mistakes.append(f"{document['kind']}: {error.message}")
    kinds = Counter(each["kind"] for each in documents)
    told = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    proof.truth(f"{title} is valid", not mistakes, "; ".join(mistakes[:3]) or told)


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
