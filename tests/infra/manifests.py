"""The objects of infra/kubernetes as kustomize renders them, and questions to them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import yaml

KUBERNETES = Path(__file__).resolve().parents[2] / "infra" / "kubernetes"
OVERLAYS = ("small", "production")
UPGRADED = "production+upgrade-database"


@cache
def render(overlay):
    """Return the objects of an overlay; ``overlay+component`` is one with a component added, as a user does it."""
    name, _, component = overlay.partition("+")
    if not component:
        return _kustomize(KUBERNETES / "overlays" / name)
    return render_own(overlay=name, components=[KUBERNETES / "components" / component])


def render_own(overlay, components=(), files=(), **content):
    """Return the objects of a user's own overlay over one of these, with what else its kustomization says.

    ``files`` are names of files that lie beside it.
    """
    with tempfile.TemporaryDirectory() as own:
        # kustomize takes relative paths only.
        added = {
            "namespace": "vitalfuse",
            "resources": [os.path.relpath(KUBERNETES / "overlays" / overlay, own)],
            "components": [os.path.relpath(component, own) for component in components],
        }
        for name in files:
            (Path(own) / name).write_text(f"the content of {name}")
        (Path(own) / "kustomization.yaml").write_text(yaml.safe_dump(added | content))
        return _kustomize(own)


def render_changed(overlay, folder, change):
    """Return the objects of an overlay of which a user has changed a file: ``change`` gets a copy of its folder."""
    copy = shutil.copytree(KUBERNETES, folder / "kubernetes") / "overlays" / overlay
    change(copy)
    return _kustomize(copy)


def _kustomize(folder):
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(objects, *kinds):
    return [item for item in objects if item["kind"] in kinds]


def workloads(objects):
    """Return (name, pod template) of everything that makes pods."""
    found = of_kind(objects, "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod", "ReplicaSet")
    assert found
    assert {item["kind"] for item in found} <= {"Deployment", "StatefulSet"}, "a kind that these tests don't open"
    return [(item["metadata"]["name"], item["spec"]["template"]) for item in found]


def containers(template):
    return template["spec"].get("initContainers", []) + template["spec"]["containers"]


def by_name(objects, kind, name):
    (found,) = [item for item in of_kind(objects, kind) if item["metadata"]["name"] == name]
    return found


def selects(selector, labels):
    """Return whether a label selector matches; an empty one matches all."""
    operators = {
        "Exists": lambda key, _: key in labels,
        "DoesNotExist": lambda key, _: key not in labels,
        "In": lambda key, values: labels.get(key) in values,
        "NotIn": lambda key, values: labels.get(key) not in values,
    }
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        operators[item["operator"]](item["key"], item.get("values")) for item in selector.get("matchExpressions", [])
    )


def referenced(objects):
    """Return the keys of each secret that containers and volumes refer to."""
    keys: dict[str, set[str]] = {}
    for _, template in workloads(objects):
        for container in containers(template):
            assert not [source for source in container.get("envFrom", []) if "secretRef" in source]
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    keys.setdefault(reference["name"], set()).add(reference["key"])
        for volume in template["spec"].get("volumes", []):
            if secret := volume.get("secret"):
                keys.setdefault(secret["secretName"], set()).update(item["key"] for item in secret["items"])
    return keys
