"""The container image, built twice and run: what it adds to its base, how soon it is ready, and how it ends."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.harness import ROOT
from prove.proof import Proof

TITLE = "The image: small above its base, without privileges, ready in a second or two, the same twice"
TOOLS = ("buildah", "podman", "runc")
# Given by FLOWRRA_BASE_IMAGE, such as python:3.11-slim-bookworm, where images can be pulled. Else a stand-in is made.
STAND_IN = "localhost/flowrra-prove-base"
DEBIAN = "bookworm"
IMAGE = "localhost/flowrra-prove-exporter"
DERIVED = "localhost/flowrra-prove-derived"
PORT = 9588
MOST_MEGABYTES = 100.0
# A container as a careful orchestrator starts it; limits that need no privilege to be set.
RUN = (
    *("podman", "run", "--runtime=runc", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    *("--network=host", "--no-healthcheck", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"),
)
APP = """
import asyncio

from flowrra import Flowrra

app = Flowrra()


@app.task()
async def work() -> None:
    await asyncio.sleep(2)


@app.on_startup
async def first() -> None:
    await app.submit(work)
"""


def run(proof: Proof) -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        proof.not_shown(f"{', '.join(missing)} not installed")
        return
    with tempfile.TemporaryDirectory(prefix="flowrra-prove-image-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        base = os.environ.get("FLOWRRA_BASE_IMAGE") or _stand_in(proof, folder)
        if base is None:
            return
        _build_twice(proof, base)
        _bill_of_materials(proof)
        _arm64(proof, folder)
        _run(proof, folder)
        _derive(proof, base, folder)


def _stand_in(proof: Proof, folder: Path) -> str | None:
    """A Debian with Python and pip in place of the base image, which only a registry has."""
    if _quiet("podman", "image", "exists", STAND_IN) == 0:
        proof.line(f"base: a stand-in for {_base_of_the_dockerfile()}, {DEBIAN} with its Python")
        return STAND_IN
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        proof.not_shown("no FLOWRRA_BASE_IMAGE, and no debootstrap (as root) to make a stand-in with")
        return None
    root = folder / "root"
    packages = "python3,python3-venv,python3-pip,ca-certificates"
    _do("debootstrap", "--variant=minbase", f"--include={packages}", DEBIAN, str(root), seconds=1200)
    for litter in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"):
        shutil.rmtree(root / litter, ignore_errors=True)
    # An index behind an authority of this machine's own is reached by the authorities that this machine knows.
    with contextlib.suppress(FileNotFoundError):
        shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / "etc/ssl/certs/ca-certificates.crt")
    archive = folder / "base.tar"
    _do("tar", "-C", str(root), "-cf", str(archive), ".")
    _do("podman", "import", str(archive), STAND_IN)
    shutil.rmtree(root)
    archive.unlink()
    proof.line(f"base: a stand-in for {_base_of_the_dockerfile()}, {DEBIAN} with its Python")
    return STAND_IN


def _base_of_the_dockerfile() -> str:
    return re.findall(r"^ARG BASE_IMAGE=(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0]


def _build_twice(proof: Proof, base: str) -> None:
    digests = []
    for _ in range(2):
        began = time.monotonic()
        _build(IMAGE, ROOT, {"BASE_IMAGE": base})
        proof.line(f"built in {time.monotonic() - began:.0f} s")
        with _mounted(IMAGE) as root:
            digests.append(_digest(root / "opt/flowrra"))
    proof.truth("two builds have the same files, byte by byte", digests[0] == digests[1], digests[0][:16])
    above = (_size(IMAGE) - _size(base)) / 1e6
    proof.truth(
        f"it is at most {MOST_MEGABYTES:.0f} MB above its base", above <= MOST_MEGABYTES, f"{above:.0f} MB above it"
    )
    history = _do("podman", "history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE)
    proof.truth("its history has no address of an index", "PIP_INDEX_URL" not in history and "://" not in history)


def _bill_of_materials(proof: Proof) -> None:
    lock = (ROOT / "deploy/image/requirements.txt").read_text()
    locked = set(re.findall(r"^([a-z0-9-]+)==(\S+)", lock, re.MULTILINE))
    with _mounted(IMAGE) as root:
        bill = json.loads((root / "opt/flowrra/sbom.cdx.json").read_text())
    listed = {(each["name"], each["version"]) for each in bill["components"]}
    others = {name for name, _ in listed - locked}
    proof.truth(
        "its bill of materials has flowrra and what is locked", others == {"flowrra"}, f"{len(listed)} packages"
    )


def _arm64(proof: Proof, folder: Path) -> None:
    tags = ("manylinux2014", "manylinux_2_17", "manylinux_2_24", "manylinux_2_26", "manylinux_2_28", "manylinux_2_31")
    for machine in ("x86_64", "aarch64"):
        platforms = [f"--platform={tag}_{machine}" for tag in tags]
        into = folder / machine
        words = ("download", "--quiet", "--require-hashes", "--no-deps", "--only-binary=:all:", "--python-version=3.11")
        lock = str(ROOT / "deploy/image/requirements.txt")
        status = _quiet("python3", "-m", "pip", *words, *platforms, f"--dest={into}", "--requirement", lock)
        found = len(list(into.glob("*.whl"))) if into.exists() else 0
        proof.truth(f"every locked package has a wheel for {machine}", status == 0, f"{found} wheels")


def _run(proof: Proof, folder: Path) -> None:
    (folder / "app").mkdir()
    (folder / "app/shop.py").write_text(APP)
    mount = ("--volume", f"{folder / 'app'}:/app:ro")
    variables = {"FLOWRRA_EXPORTER_WEB_LISTEN_ADDRESS": f"127.0.0.1:{PORT}"}
    empty, ready = [], []
    for _ in range(3):
        began = time.monotonic()
        _do(*RUN, "--rm", "--entrypoint", "/bin/true", IMAGE)
        empty.append(time.monotonic() - began)
        with _running(IMAGE, mount, variables) as (name, began):
            _until_ready(name)
            ready.append(time.monotonic() - began)
    proof.line(f"a container that does nothing has come and gone after {min(empty):.2f} s (best of {len(empty)})")
    proof.line(f"the exporter's is ready after {min(ready):.2f} s (best of {len(ready)}, slowest {max(ready):.2f} s)")
    with _running(IMAGE, mount, variables) as (name, _):
        _until_ready(name)
        user = _do("podman", "exec", name, "id", "-u").strip()
        proof.truth("it runs without root, capabilities and a writable file", user == "65532", f"user {user}")
        check = json.loads(_do("podman", "image", "inspect", IMAGE))[0]["Healthcheck"]["Test"]
        began = time.monotonic()
        status = _quiet("podman", "exec", name, *check[1:])
        took = time.monotonic() - began
        proof.truth(
            "its health check is met, without a shell or curl", check[0] == "CMD" and status == 0, f"{took:.1f} s"
        )
        began = time.monotonic()
        _do("podman", "stop", "--time", "20", name)
        took = time.monotonic() - began
        ended = _do("podman", "inspect", "--format", "{{.State.ExitCode}}", name).strip()
        proof.truth("SIGTERM lets the running task finish, and it ends with 0", ended == "0", f"after {took:.1f} s")


def _derive(proof: Proof, base: str, folder: Path) -> None:
    """The image that the README describes: its Dockerfile, word by word."""
    readme = (ROOT / "README.md").read_text()
    dockerfile = re.findall(r"```dockerfile\n(.*?)```", readme, re.DOTALL)[0]
    context = folder / "derived"
    context.mkdir()
    (context / "Dockerfile").write_text(
        dockerfile.replace("FROM flowrra-exporter", f"FROM {IMAGE}").replace(_base_of_the_dockerfile(), base)
    )
    (context / "requirements.txt").write_text("humanize==4.12.3\n")
    (context / "shop.py").write_text("import humanize\n" + APP)
    _build(DERIVED, context, {})
    with _running(DERIVED, (), {"FLOWRRA_EXPORTER_WEB_LISTEN_ADDRESS": f"127.0.0.1:{PORT}"}) as (name, _):
        ready = _until_ready(name)
        user = _do("podman", "exec", name, "id", "-u").strip()
    proof.truth(
        "an image derived as the README types it has its packages, and is ready without root", ready and user == "65532"
    )


def _build(tag: str, context: Path, arguments: Mapping[str, str]) -> None:
    given = dict(arguments)
    if index := os.environ.get("PIP_INDEX_URL"):
        given["PIP_INDEX_URL"] = index
    options = [option for key, value in given.items() for option in ("--build-arg", f"{key}={value}")]
    words = ("--format", "docker", "--isolation", "chroot", "--network", "host", "--no-cache", "--timestamp", "0")
    _do("buildah", "bud", *words, *options, "--tag", tag, str(context), seconds=900)


@contextlib.contextmanager
def _running(image: str, mount: Sequence[str], variables: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """A container that runs an app: its name, and when it was asked for."""
    name = "flowrra-prove"
    environment = [option for key, value in variables.items() for option in ("--env", f"{key}={value}")]
    began = time.monotonic()
    _do(*RUN, "--detach", "--name", name, *mount, *environment, image, "shop:app")
    try:
        yield name, began
    finally:
        _quiet("podman", "rm", "--force", "--time", "0", name)


def _until_ready(name: str) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=2)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return True
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.02)
    raise RuntimeError(f"{name} is not ready: {_do('podman', 'logs', name)}")


@contextlib.contextmanager
def _mounted(image: str) -> Iterator[Path]:
    try:
        yield Path(_do("podman", "image", "mount", image).strip())
    finally:
        _quiet("podman", "image", "unmount", image)


def _digest(folder: Path) -> str:
    """Of all names, modes and contents."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(f"{path.relative_to(folder)} {path.lstat().st_mode:o}\n".encode())
        if path.is_symlink():
            total.update(os.readlink(path).encode())
        elif path.is_file():
            total.update(path.read_bytes())
    return total.hexdigest()


def _size(image: str) -> int:
    return int(_do("podman", "image", "inspect", "--format", "{{.Size}}", image))


def _do(*command: str, seconds: float = 120.0) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ended.stdout[-1500:]}{ended.stderr[-1500:]}")
    return ended.stdout


def _quiet(*command: str) -> int:
    return subprocess.run(command, capture_output=True, timeout=300, check=False).returncode
