# SPDX-License-Identifier: BSD-3-Clause
"""Adds to a CycloneDX document what cyclonedx-py does not see: the DPDK whose EAL the worker has in
it, the shared objects that wheels bring, and dpsup's own version.

usage: sbom.py DOCUMENT SITE_PACKAGES DPDK_VERSION DPDK_PACKAGE_VERSION
"""

from __future__ import annotations

import hashlib
import json
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(document: str, site: str, dpdk: str, package: str) -> None:
    told = json.loads(Path(document).read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told["metadata"]["component"]["version"] = project["version"]
    purl = f"pkg:deb/debian/dpdk@{package}" if package else f"pkg:generic/dpdk@{dpdk}"
    added = [
        {
            "type": "library",
            "bom-ref": "dpdk",
            "name": "dpdk",
            "version": dpdk,
            "purl": purl,
            "description": "EAL, linked statically into dpsup-worker, dpsup-try",
        }
    ]
    for file in sorted(Path(site).rglob("*.libs/*.so*")):
        name = file.relative_to(site).as_posix()
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        added.append(
            {
                "type": "file",
                "bom-ref": name,
                "name": name,
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }
        )
    told["components"] = sorted(
        [*told.get("components", []), *added], key=lambda one: str(one["bom-ref"])
    )
    Path(document).write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
