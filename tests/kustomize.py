# SPDX-License-Identifier: BSD-3-Clause
"""What deploy/k8s uses of kustomize: resources, components, strategic merges, generated ConfigMaps,
a namespace, names of images.

Debian's kubectl is too old for components, or absent: so that the manifests are judged everywhere,
they are rendered here. Where a kubectl is that can, a test compares.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

Doc = dict[str, Any]
KEYS = {
    "apiVersion", "kind", "namespace", "resources", "components", "patches", "configMapGenerator",
    "generatorOptions", "images",
}  # fmt: skip
# Of lists of tables, the key by which a patch finds its element.
MERGE_KEYS = {
    "containers": "name", "initContainers": "name", "volumes": "name", "env": "name",
    "volumeMounts": "mountPath", "resourceClaims": "name", "ports": "containerPort",
}  # fmt: skip
CLUSTER_WIDE = {
    "Namespace", "DeviceClass", "SecurityContextConstraints", "PerformanceProfile", "RuntimeClass",
}  # fmt: skip


def read(file: Path) -> list[Doc]:
    return [doc for doc in yaml.safe_load_all(file.read_text()) if doc]


def render(folder: Path) -> list[Doc]:
    return _apply(folder, [])


def _apply(folder: Path, docs: list[Doc]) -> list[Doc]:
    (kustomization,) = read(folder / "kustomization.yaml")
    assert kustomization.keys() <= KEYS, f"{folder} uses what is not rendered here"
    for one in kustomization.get("resources", []):
        path = (folder / one).resolve()
        docs = [*docs, *(render(path) if path.is_dir() else read(path))]
    for one in kustomization.get("configMapGenerator", []):
        docs = _config_map(folder, docs, one)
    for one in kustomization.get("components", []):
        docs = _apply((folder / one).resolve(), docs)
    for one in kustomization.get("patches", []):
        for patch in read(folder / one["path"]):
            target = next(i for i, doc in enumerate(docs) if _id(doc) == _id(patch))
            docs[target] = merge(docs[target], patch)
    for one in kustomization.get("images", []):
        for doc in docs:
            for container in (
                doc["spec"]["template"]["spec"]["containers"] if _has_pods(doc) else ()
            ):
                if container["image"] == one["name"]:
                    container["image"] = f"{one['newName']}:{one['newTag']}"
    if namespace := kustomization.get("namespace"):
        for doc in docs:
            if doc["kind"] not in CLUSTER_WIDE:
                doc["metadata"]["namespace"] = namespace
    return docs


def _has_pods(doc: Doc) -> bool:
    return doc["kind"] == "DaemonSet"


def _id(doc: Doc) -> tuple[str, str]:
    return doc["kind"], doc["metadata"]["name"]


def _config_map(folder: Path, docs: list[Doc], wanted: Doc) -> list[Doc]:
    data = {name: (folder / name).read_text() for name in wanted["files"]}
    made = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": wanted["name"]},
        "data": data,
    }
    if wanted.get("behavior") != "merge":
        return [*docs, made]
    return [merge(doc, made) if _id(doc) == _id(made) else doc for doc in docs]


def merge(old: Any, new: Any, key: str = "") -> Any:
    """A strategic merge: tables by key, lists of tables by their elements' names, whatever else is
    replaced. New elements come first."""
    if isinstance(old, dict) and isinstance(new, dict):
        out = copy.deepcopy(old)
        for name, value in new.items():
            out[name] = merge(out[name], value, name) if name in out else copy.deepcopy(value)
        return out
    by = MERGE_KEYS.get(key)
    if isinstance(old, list) and isinstance(new, list) and by and all(by in one for one in new):
        known = {one[by]: one for one in old}
        fresh = [copy.deepcopy(one) for one in new if one[by] not in known]
        change = {one[by]: one for one in new}
        return fresh + [merge(one, change[one[by]]) if one[by] in change else one for one in old]
    return copy.deepcopy(new)
