"""`python -m prove [NAME …]`: run all proofs or the named ones, print what they find, and keep the output in
`docs/prove/`. The exit status is 1 if something that must be true is not; how long things took decides nothing."""

from __future__ import annotations

import argparse
import sys
import traceback
from types import ModuleType

from prove import (
    alert_figures,
    blocked_loop,
    day,
    differential,
    foreign_metrics,
    hostile_peer,
    image,
    killed_workers,
    kubelet,
    manifests,
    native_histograms,
    redelivery,
    redis_cluster,
    rolling_deploy,
    scheduler,
    scrapers,
    sentinel,
    server_outages,
    settlement,
    slow_connections,
    stopped,
    structure,
    waiting_pairs,
)
from prove.proof import Proof

PROOFS: dict[str, ModuleType] = {
    "differential": differential,
    "blocked_loop": blocked_loop,
    "stopped": stopped,
    "scrapers": scrapers,
    "slow_connections": slow_connections,
    "native_histograms": native_histograms,
    "foreign_metrics": foreign_metrics,
    "killed_workers": killed_workers,
    "redelivery": redelivery,
    "server_outages": server_outages,
    "sentinel": sentinel,
    "redis_cluster": redis_cluster,
    "waiting_pairs": waiting_pairs,
    "settlement": settlement,
    "rolling_deploy": rolling_deploy,
    "scheduler": scheduler,
    "hostile_peer": hostile_peer,
    "image": image,
    "kubelet": kubelet,
    "manifests": manifests,
    "alert_figures": alert_figures,
    "day": day,
    "structure": structure,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m prove", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(PROOFS)}; all by default")
    parser.add_argument("--list", action="store_true", help="only say what each proof is about")
    given = parser.parse_args()
    names = given.names or list(PROOFS)
    unknown = [name for name in names if name not in PROOFS]
    if unknown:
        parser.error(f"no proof is called {', '.join(unknown)}; there are {', '.join(PROOFS)}")
    if given.list:
        for name in names:
            print(f"{name:<18}{PROOFS[name].TITLE}")
        return 0
    broken = [name for name in names if not prove(name)]
    if broken:
        print(f"broken: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def prove(name: str) -> bool:
    """Run one proof and keep its output if it shows something; whether nothing was broken."""
    proof = Proof(name, PROOFS[name].TITLE)
    try:
        PROOFS[name].run(proof)
    except Exception:
        proof.truth("the proof comes to its end", False, traceback.format_exc(limit=-3).strip())
    if proof.is_shown:
        proof.save()
    print("\n")
    return proof.holds


if __name__ == "__main__":
    sys.exit(main())
