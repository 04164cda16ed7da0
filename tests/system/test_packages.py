# SPDX-License-Identifier: BSD-3-Clause
"""The packages, built from this checkout and used where nothing of dpsup was ever installed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
from clean import Clean, build
from harness import CALM, Run, free_port, wait_for

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(1800)]

SUITES = {"12": "bookworm", "13": "trixie"}
SMOKE = "gcc libc6-dev pkgconf"  # beside the packages
BUILD = """build-essential debhelper git libdpdk-dev libpcap-dev ninja-build pkgconf python3-dev
    python3-venv"""  # as docs/packages.md has it
ROOT = Path(__file__).resolve().parents[2]


def need(*commands: str) -> None:
    missing = [one for one in commands if shutil.which(one) is None]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")


def own() -> str:
    found = re.search(r'^VERSION_ID="?(\d+)', Path("/etc/os-release").read_text(), re.M)
    return found[1] if found else ""


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    need("dh", "dpkg-buildpackage")
    built = build("deb", tmp_path_factory.mktemp("debs"))
    return [one for one in built if one.suffix == ".deb" and "dbgsym" not in one.name]


def test_lintian_finds_nothing(debs: list[Path]) -> None:
    need("lintian")
    told = subprocess.run(
        ["lintian", "--info", "--display-info", "--fail-on", "error,warning,info", *debs],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout


def is_installed_and_purged(clean: Clean, debs: list[Path]) -> None:
    """Its dependencies first, so that what is there before and after can be compared."""
    clean.give([*debs, ROOT / "deploy/debian/tests/smoke"])
    clean.run(f"""
        apt-get -q update
        apt-get -q -y --no-install-recommends install {SMOKE}
        apt-get -q -y --no-install-recommends satisfy "$(dpkg-deb -f /given/dpsup_*.deb Depends)"
    """)
    before = clean.paths()
    clean.run("""
        apt-get -q -y --no-install-recommends install /given/*.deb
        systemd-analyze verify --man=no dpsup@edge.service dpsup-end@edge.service
    """)
    assert "dpsup:" in (clean.tree / "etc/passwd").read_text()
    told = clean.run("/given/smoke")
    assert "smoke: passed" in told
    clean.run("apt-get -q -y purge dpsup dpsup-dev")
    assert clean.paths() - before == set()
    assert before - clean.paths() == set()
    assert "dpsup" not in (clean.tree / "etc/passwd").read_text()


def test_debian_package_on_a_clean_debian(debs: list[Path], tmp_path: Path) -> None:
    need("debootstrap")
    clean = Clean(SUITES[own()], tmp_path / "tree")
    is_installed_and_purged(clean, debs)


def test_debian_package_on_the_other_debian(tmp_path: Path) -> None:
    """Built there, as it has another Python and another DPDK."""
    need("debootstrap")
    (suite,) = {name for number, name in SUITES.items() if number != own()}
    builder = Clean(suite, tmp_path / "builder")
    subprocess.run(
        ["git", "clone", "-q", "--depth=1", f"file://{ROOT}", builder.tree / "given/repo"],
        check=True,
    )
    builder.run(f"""
        apt-get -q update
        apt-get -q -y --no-install-recommends install {" ".join(BUILD.split())}
        /given/repo/deploy/package --out /given/out deb
    """)
    found = sorted((builder.tree / "given/out").glob("dpsup[-_]*.deb"))
    debs = [one for one in found if "dbgsym" not in one.name]
    is_installed_and_purged(Clean(suite, tmp_path / "tree"), debs)


def test_the_same_commit_gives_the_same_bytes(tmp_path: Path) -> None:
    """Built at another place, in another time zone and language; but for .buildinfo, which is of
    the build itself."""
    need("dh", "dpkg-buildpackage")
    kinds, found = ("sdist", "wheel", "client", "deb", "sbom"), []
    for name, zone in (("a", "UTC"), ("elsewhere", "Asia/Tokyo")):
        place = tmp_path / name
        (place / "tmp").mkdir(parents=True)
        subprocess.run(
            [ROOT / "deploy/package", "--out", place / "out", *kinds],
            env={**os.environ, "TMPDIR": str(place / "tmp"), "TZ": zone, "LANG": "C"},
            check=True,
        )
        files = [f for f in (place / "out").iterdir() if f.suffix != ".buildinfo"]
        found.append({f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files})
    assert len(found[0]) >= 6
    assert found[0] == found[1]


def test_the_list_of_components_is_the_lock(tmp_path: Path) -> None:
    (file,) = build("sbom", tmp_path)
    told = json.loads(file.read_text())
    assert told["bomFormat"] == "CycloneDX"
    text = (ROOT / "deploy/lock/run.txt").read_text()
    locked = set(re.findall(r"^([\w.-]+)==(\S+)", text, re.M))
    listed = {
        (c["name"].replace("_", "-"), c["version"]) for c in told["components"] if "version" in c
    }
    assert locked <= listed
    assert {name for name, _ in listed - locked} == {"dpdk"}


def test_client_in_an_environment_of_its_own(instance: Run, tmp_path: Path) -> None:
    """No file of DPDK's is there, and none is asked for."""
    (wheel,) = build("client", tmp_path / "client")
    venv = tmp_path / "venv"
    subprocess.run(["/usr/bin/python3", "-m", "venv", venv], check=True)
    for words in (
        ["--require-hashes", "-r", ROOT / "deploy/lock/run.txt"],
        ["--no-deps", "--no-index", wheel],
    ):
        pip = [venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check", *words]
        subprocess.run(pip, check=True)
    assert not [
        one for one in venv.rglob("*") if re.search("rte_|dpsup-worker|_shim.*so", one.name)
    ]

    def client(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [venv / "bin/dpsup", *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    instance.start(CALM)
    name = ("-n", instance.name)
    told = json.loads(client("status", *name, "-o", "json"))
    assert told["state"] == "running"
    assert instance.name in client("list")
    for words in (["stats"], ["workers"], ["lanes"], ["graph"], ["events"], ["logs"], ["audit"]):
        assert client(*words, *name)
    code = f"import dpsup; print(dpsup.connect({instance.name!r}).status()['state'])"
    asked = subprocess.run(
        [venv / "bin/python", "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, check=True
    )
    assert asked.stdout == b"running\n"
    client("scale", *name, told["groups"][0]["name"], "1")
    wait_for(lambda: instance.status()["groups"][0]["desired"] == 1)
    assert "E0485" in client("start", "x.toml", code=6)

    port = free_port()
    served = subprocess.Popen(
        [venv / "bin/dpsup", "metrics", *name, "--listen", f"127.0.0.1:{port}"]
    )
    try:

        def up() -> str:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as got:
                    found = re.search(r"^dpsup_up\b.* (\d)", got.read().decode(), re.M)
            except OSError:
                return ""
            return found[1] if found else ""

        wait_for(lambda: up() == "1")
        assert "E0486" in client("metrics", *name, "--listen", f"127.0.0.1:{port}", code=6)
        client("stop", *name)
        wait_for(lambda: up() == "0")
    finally:
        served.kill()
        served.wait()
