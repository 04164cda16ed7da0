# SPDX-License-Identifier: BSD-3-Clause
"""deploy/k8s: what it renders to is valid, restricted, whole, and holds topologies that start."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kustomize import CLUSTER_WIDE, Doc, merge, read, render
from unit.fakehost import FILE, MIB, FakeHost, machine

from dpsup.check.topology import check
from dpsup.cli.termination import VARIABLE
from dpsup.errors import Severity
from dpsup.host.machine import Hugetlbfs, Pages, PciDevice
from dpsup.instance import health
from dpsup.plan.place import make_plan
from dpsup.supervisor.launch import STOP_S
from dpsup.topology.load import load

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "deploy/k8s"
OVERLAYS = ("vdev", "sriov", "dra", "openshift")
COMPONENTS = ("vfio-as-root", "plugin-image", "plugin-sidecar")
CLUSTER = ("sriov/cluster", "openshift/cluster")
VERSIONS = ("1.31", "1.33", "1.35", "1.37")
# Of other projects: their schemas are not Kubernetes' own.
CUSTOM = {
    "NetworkAttachmentDefinition", "SriovNetworkNodePolicy", "PodMonitor", "PrometheusRule",
    "SecurityContextConstraints", "PerformanceProfile",
}  # fmt: skip
SINCE = {"dra": "1.34"}  # resource.k8s.io/v1
NUMBERS = re.compile(r"\d+")
UNITS = {"Mi": 1 << 20, "Gi": 1 << 30}


@cache
def rendered(overlay: str) -> tuple[Doc, ...]:
    return tuple(render(K8S / "overlays" / overlay))


def of(docs: tuple[Doc, ...], kind: str) -> Doc:
    (found,) = [doc for doc in docs if doc["kind"] == kind]
    return found


def pod_of(docs: tuple[Doc, ...]) -> Doc:
    spec: Doc = of(docs, "DaemonSet")["spec"]["template"]["spec"]
    return spec


def dpsup_of(docs: tuple[Doc, ...]) -> Doc:
    (found,) = pod_of(docs)["containers"]
    return found


def with_component(name: str, overlay: str = "sriov") -> tuple[Doc, ...]:
    docs = list(rendered(overlay))
    (kustomization,) = read(K8S / "components" / name / "kustomization.yaml")
    for one in kustomization["patches"]:
        for patch in read(K8S / "components" / name / one["path"]):
            docs = [merge(d, patch) if d["kind"] == patch["kind"] else d for d in docs]
    return tuple(docs)


def is_at_least(version: str, least: str) -> bool:
    return [*map(int, version.split("."))] >= [*map(int, least.split("."))]


# --- Kubernetes' own view -----------------------------------------------------------------------


@pytest.mark.parametrize("overlay", [*OVERLAYS, *CLUSTER])
def test_kustomize_renders_the_same(overlay: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl")
    words = ["kubectl", "kustomize", str(K8S / "overlays" / overlay)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    if "unknown field" in done.stderr:
        pytest.skip("this kubectl does not know components")
    assert done.returncode == 0, done.stderr
    theirs = [doc for doc in yaml.safe_load_all(done.stdout) if doc]
    for doc in theirs:
        if doc["kind"] in CLUSTER_WIDE:  # it gives those that it does not know a namespace, which
            doc["metadata"].pop("namespace", None)  # the API server takes away

    def in_order(docs: Any) -> list[str]:
        return sorted(json.dumps(doc, sort_keys=True) for doc in docs)

    assert in_order(theirs) == in_order(rendered(overlay))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas_of_kubernetes_accept_it(version: str) -> None:
    sets = {one: rendered(one) for one in OVERLAYS}
    sets |= {one: with_component(one) for one in COMPONENTS}
    least = {**SINCE, "plugin-image": "1.33"}
    seen: set[str] = set()
    for name, docs in sets.items():
        if not is_at_least(version, least.get(name, "1.31")):
            continue
        for doc in docs:
            text = json.dumps(doc, sort_keys=True)
            if doc["kind"] not in CUSTOM and text not in seen:
                seen.add(text)
                kubernetes_validate.validate(doc, version, strict=True)
    assert len(seen) > 10


def test_the_schemas_refuse_a_misspelt_key() -> None:
    doc = merge(of(rendered("vdev"), "DaemonSet"), {"spec": {"selector": {"matchLabls": {}}}})
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(doc, VERSIONS[-1], strict=True)


# --- Pod Security -------------------------------------------------------------------------------

RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret", "image",
}  # fmt: skip


def violations(pod: Doc) -> set[str]:
    """Of the Pod Security Standard "restricted", and of a read-only root beside it."""
    found = {f"pod: {key}" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)}
    context = pod.get("securityContext", {})
    for volume in pod.get("volumes", []):
        found |= {f"volume {kind}" for kind in volume.keys() - {"name"} - RESTRICTED_VOLUMES}
    for one in [*pod.get("initContainers", []), *pod["containers"]]:
        own = {**context, **one.get("securityContext", {})}
        if own.get("privileged"):
            found.add("privileged")
        if own.get("allowPrivilegeEscalation") is not False:
            found.add("allowPrivilegeEscalation")
        if own.get("runAsNonRoot") is not True or own.get("runAsUser") == 0:
            found.add("root")
        if own.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            found.add("seccomp")
        if "ALL" not in own.get("capabilities", {}).get("drop", []):
            found.add("keeps capabilities")
        added = set(own.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}
        found |= {f"adds {name}" for name in added}
        if own.get("procMount", "Default") != "Default":
            found.add("procMount")
        if not own.get("readOnlyRootFilesystem"):
            found.add("writable root")
        found |= {f"hostPort {p['hostPort']}" for p in one.get("ports", []) if p.get("hostPort")}
    return found


def test_pods_are_restricted_but_for_locked_memory() -> None:
    assert violations(pod_of(rendered("vdev"))) == set()
    for overlay in ("sriov", "dra", "openshift"):
        assert violations(pod_of(rendered(overlay))) == {"adds IPC_LOCK"}, overlay
    for component in ("plugin-image", "plugin-sidecar"):
        assert violations(pod_of(with_component(component, "vdev"))) == set()
    assert violations(pod_of(with_component("vfio-as-root"))) == {"adds IPC_LOCK", "root"}


def of_container(context: Doc) -> Doc:
    return {"containers": [{"name": "dpsup", "securityContext": context}]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hostNetwork": True}, "pod: hostNetwork"),
        ({"securityContext": {"runAsUser": 0}}, "root"),
        ({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "seccomp"),
        ({"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}, "volume hostPath"),
        (of_container({"privileged": True}), "privileged"),
        (of_container({"capabilities": {"drop": []}}), "keeps capabilities"),
    ],
)  # fmt: skip
def test_what_is_not_restricted_is_seen(change: Doc, said: str) -> None:
    assert said in violations(merge(pod_of(rendered("vdev")), change))


def test_a_namespace_enforces_what_its_pods_keep() -> None:
    for overlay in OVERLAYS:
        labels = of(rendered(overlay), "Namespace")["metadata"]["labels"]
        level = labels["pod-security.kubernetes.io/enforce"]
        assert (level == "restricted") == (not violations(pod_of(rendered(overlay)))), overlay
        if level != "restricted":
            assert labels["pod-security.kubernetes.io/warn"] == "restricted"


# --- what fits together -------------------------------------------------------------------------


def quantity(text: str) -> int:
    return int(NUMBERS.match(text)[0]) * UNITS.get(text.lstrip("0123456789"), 1)  # type: ignore[index]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pod_is_guaranteed_whole_cpus(overlay: str) -> None:
    for docs in (rendered(overlay), with_component("plugin-sidecar", overlay)):
        pod = pod_of(docs)
        for one in [*pod.get("initContainers", []), *pod["containers"]]:
            resources = one["resources"]
            assert resources["requests"] == resources["limits"]
            assert {"cpu", "memory"} <= resources["limits"].keys()
        assert dpsup_of(docs)["resources"]["limits"]["cpu"].isdigit()


def node(docs: tuple[Doc, ...], text: str) -> FakeHost:
    """The machine as the container sees it."""
    limits = dpsup_of(docs)["resources"]["limits"]
    pages = quantity(limits["hugepages-2Mi"]) // (2 * MIB)
    free = {2 * MIB: Pages(pages, pages)}
    vfs = ("0000:3b:02.0", "0000:3b:0a.0")
    return machine(
        text,
        cpus=32,
        allowed=frozenset(range(8, 8 + int(limits["cpu"]))),
        hugepages=free,
        node_hugepages={0: free},
        hugetlbfs=(Hugetlbfs("/dev/hugepages", 2 * MIB, writable=True),),
        env={
            "PCIDEVICE_EXAMPLE_COM_WAN": vfs[0],
            "PCIDEVICE_EXAMPLE_COM_LAN": vfs[1],
            "SRIOVNETWORK_PCI_ADDRESSES": ",".join(vfs),
            "XDG_RUNTIME_DIR": "/dev/shm",
        },
        pci={vf: PciDevice(0, "vfio-pci") for vf in vfs},
        is_root=False,
        uid=1500,
        limits={"Max locked memory": (float("inf"), float("inf"))},
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_its_topology_starts_with_what_the_pod_has(overlay: str) -> None:
    docs = rendered(overlay)
    text = of(docs, "ConfigMap")["data"]["edge.toml"]
    host = node(docs, text)
    topology, problems = load(FILE, host)
    assert topology is not None, problems
    problems = [*problems, *check(topology, host)]
    assert not [p for p in problems if p.severity is Severity.ERROR]
    wanted = {"E0134"} | ({"E0206"} if overlay == "vdev" else set())
    assert {p.code for p in problems} <= wanted, problems
    plan = make_plan(topology, host)
    assert plan.memory.pages_needed <= plan.memory.pages_free
    used = [*plan.supervisor_cores, *(one.core for one in plan.io)]
    assert len(set(used)) == len(used) and set(used) <= host.allowed
    assert topology.host.watch, "a change of the ConfigMap is applied"
    assert plan.runtime_dir == "/dev/shm/dpsup/edge"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_probes_ask_what_dpsup_answers(overlay: str) -> None:
    one = dpsup_of(rendered(overlay))
    for probe, question in (
        ("startupProbe", "--started"), ("readinessProbe", "--ready"), ("livenessProbe", "--live"),
    ):  # fmt: skip
        assert one[probe]["exec"]["command"] == ["dpsup", "health", question]
        assert question in health.QUESTIONS
        assert one[probe]["timeoutSeconds"] > health.TIMEOUT_S
    start, live = one["startupProbe"], one["livenessProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 300
    assert live["periodSeconds"] * live["failureThreshold"] >= 60
    assert pod_of(rendered(overlay))["terminationGracePeriodSeconds"] >= STOP_S + 5


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_names_something_names_what_is_there(overlay: str) -> None:
    docs = rendered(overlay)
    pod, one, daemon = pod_of(docs), dpsup_of(docs), of(docs, "DaemonSet")
    env = {each["name"]: each["value"] for each in one["env"]}
    assert env[VARIABLE] == one["terminationMessagePath"]
    labels = daemon["spec"]["template"]["metadata"]["labels"].items()
    selectors = [daemon["spec"]["selector"], of(docs, "NetworkPolicy")["spec"]["podSelector"]]
    selectors.append(of(docs, "PodDisruptionBudget")["spec"]["selector"])
    assert all(s["matchLabels"].items() <= labels for s in selectors)
    (port,) = one["ports"]
    listen = load(FILE, node(docs, of(docs, "ConfigMap")["data"]["edge.toml"]))[0]
    assert listen is not None and listen.metrics.listen == f"0.0.0.0:{port['containerPort']}"
    (rule,) = of(docs, "NetworkPolicy")["spec"]["ingress"]
    assert [p["port"] for p in rule["ports"]] == [port["name"]]
    mounts = {mount["name"] for mount in one["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    assert of(docs, "ServiceAccount")["metadata"]["name"] == pod["serviceAccountName"]
    assert pod["automountServiceAccountToken"] is False
    annotations = daemon["spec"]["template"]["metadata"]["annotations"]
    networks = annotations.get("k8s.v1.cni.cncf.io/networks", "")
    attached = {
        d["metadata"]["name"]: d for d in docs if d["kind"] == "NetworkAttachmentDefinition"
    }
    assert set(networks.split(", ")) - {""} == attached.keys()
    for doc in attached.values():
        resource = doc["metadata"]["annotations"]["k8s.v1.cni.cncf.io/resourceName"]
        assert one["resources"]["limits"][resource] == "1"
        assert json.loads(doc["spec"]["config"])["name"] == doc["metadata"]["name"]
    claims = {claim["name"] for claim in one["resources"].get("claims", [])}
    templates = {d["metadata"]["name"] for d in docs if d["kind"] == "ResourceClaimTemplate"}
    wanted = {claim["name"]: claim for claim in pod.get("resourceClaims", [])}
    assert claims == wanted.keys()
    assert {claim["resourceClaimTemplateName"] for claim in wanted.values()} == templates
    for doc in docs:
        if doc["kind"] == "PodMonitor":
            assert doc["spec"]["selector"]["matchLabels"].items() <= labels
            assert [e["port"] for e in doc["spec"]["podMetricsEndpoints"]] == [port["name"]]


def test_the_alerts_are_those_of_prometheus() -> None:
    (rules,) = read(ROOT / "deploy/prometheus/dpsup.rules.yml")
    (there,) = read(K8S / "components/monitoring/prometheusrule.yaml")
    assert there["spec"] == rules, "put `groups` of deploy/prometheus/dpsup.rules.yml there"
    assert of(rendered("sriov"), "PrometheusRule")["spec"] == rules


def test_the_image_runs_as_the_pods_user() -> None:
    text = (ROOT / "deploy/Containerfile").read_text()
    user = pod_of(rendered("vdev"))["securityContext"]["runAsUser"]
    assert f"USER {user}:{user}" in text
    assert 'ENTRYPOINT ["dpsup"]' in text
    (version,) = {one["newTag"] for one in read(K8S / "base/kustomization.yaml")[0]["images"]}
    assert f"-t dpsup:{version} ." in text
    ignored = (ROOT / ".dockerignore").read_text().split()
    for needed in ("dpsup", "shim", "workers", "deploy", "meson.build", "pyproject.toml"):
        assert needed not in ignored


def test_every_manifest_is_used() -> None:
    """By a kustomization, or by a node."""
    listed: set[Path] = {K8S / "node/kubelet.yaml"}
    for file in K8S.rglob("kustomization.yaml"):
        (one,) = read(file)
        listed.add(file)
        listed |= {file.parent / name for name in one.get("resources", [])}
        listed |= {file.parent / patch["path"] for patch in one.get("patches", [])}
    assert set(K8S.rglob("*.yaml")) <= listed


def test_the_page_names_what_is_there() -> None:
    page = (ROOT / "docs/kubernetes.md").read_text()
    named = set(re.findall(r"`(?:deploy/k8s/)?((?:overlays|components)/[\w/-]+)`", page))
    there = {f"overlays/{one}" for one in (*OVERLAYS, *CLUSTER)}
    assert named == there | {f"components/{one}" for one in (*COMPONENTS, "monitoring")}
    assert f"1.31 to {VERSIONS[-1]}" in page
