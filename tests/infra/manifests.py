"""Reading infra/'s YAML, and saying what is wrong with it. What is right is an empty list."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
K8S = INFRA / "k8s"
BUILDS = ("base", "jobs", "overlays/dev", "overlays/prod")
RAY_KINDS = ("RayCluster", "RayJob", "RayService")
WORKLOADS = (*RAY_KINDS, "Deployment")


def pinned(package):
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def documents(path):
    return [doc for doc in yaml.safe_load_all(path.read_text()) if doc]


@cache
def _build(folder):
    told = subprocess.run(
        ["kubectl", "kustomize", str(K8S / folder)], capture_output=True, text=True, timeout=60
    )
    assert told.returncode == 0, told.stderr[:2000]
    return told.stdout


def built(folder):
    """What `kubectl apply -k` would send; where there is no kubectl, only what is in files."""
    if shutil.which("kubectl"):
        return [doc for doc in yaml.safe_load_all(_build(folder)) if doc]
    if folder.startswith("overlays"):
        pytest.skip("kubectl is not installed: overlays are built with `kubectl kustomize`")
    return resources(K8S / folder)


def resources(folder):
    """The objects of a kustomization and of all that it names, before any patch."""
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    found = []
    for name in listed:
        path = folder / name
        found += resources(path.resolve()) if path.is_dir() else documents(path)
    return found


def strict(schema):
    """Refuse unknown keys everywhere: a custom resource's typo is dropped without a word."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    closed = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if closed and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema


@cache
def ray_validator(kind):
    folder = os.environ.get("VISAGE_SCHEMAS", "")
    path = Path(folder) / "kuberay" / f"{kind.lower()}.v1.schema.json"
    if not folder or not path.exists():
        pytest.skip("VISAGE_SCHEMAS names no folder with kuberay/*.v1.schema.json")
    return jsonschema.Draft202012Validator(strict(json.loads(path.read_text())))


def ray_problems(doc):
    """How a KubeRay object differs from its kind's schema, unknown keys included."""
    errors = ray_validator(doc["kind"]).iter_errors(doc)
    return [f"{'.'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in errors]


def core_problems(doc):
    """How an object of Kubernetes itself differs from its kind's schema."""
    try:
        kubernetes_validate.validate(doc, "1.34", strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message[:200]}"]
    return []


def pods(doc):
    """Every pod template of an object, with where it is."""
    if doc["kind"] == "Deployment":
        yield doc["metadata"]["name"], doc["spec"]["template"]
        return
    spec = doc["spec"]
    cluster = spec.get("rayClusterConfig") or spec.get("rayClusterSpec") or spec
    name = f"{doc['kind']} {doc['metadata']['name']}"
    yield f"{name} head", cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield f"{name} {group['groupName']}", group["template"]


def pod_problems(where, pod):
    """What a pod lacks of what we ask of every pod."""
    spec, problems = pod["spec"], []
    security = spec.get("securityContext", {})
    if not security.get("runAsNonRoot") or not security.get("runAsUser"):
        problems.append("may run as root")
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        problems.append("has no seccomp profile")
    is_head = where.endswith(" head")
    if spec.get("automountServiceAccountToken") is not is_head:
        problems.append("mounts a token, or is a head without one")
    for container in spec.get("initContainers", []) + spec["containers"]:
        problems += [f"{container['name']} {words}" for words in container_problems(container)]
        if container in spec["containers"]:
            problems += [
                f"{container['name']} has no {probe}"
                for probe in ("startupProbe", "readinessProbe", "livenessProbe")
                if probe not in container
            ]
    mounted = {m["name"] for c in spec["containers"] for m in c.get("volumeMounts", [])}
    mounted |= {m["name"] for c in spec.get("initContainers", []) for m in c["volumeMounts"]}
    if mounted != {volume["name"] for volume in spec.get("volumes", [])}:
        problems.append("mounts other volumes than it has")
    return [f"{where}: {problem}" for problem in problems]


def container_problems(container):
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if security.get("capabilities") != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "may write its root"
    resources = container.get("resources", {})
    for side in ("requests", "limits"):
        if not {"cpu", "memory"} <= set(resources.get(side, {})):
            yield f"has no {side}"


def image_problem(image):
    """Why an image is not one that may be deployed; empty: it is."""
    repository, _, tag = image.rpartition(":")
    if not repository or "/" in tag or tag in ("", "latest"):
        return f"{image} is not pinned"
    name = repository.rpartition("/")[2]
    if name.startswith("visage-"):
        if not (INFRA / "images" / f"{name.removeprefix('visage-')}.Dockerfile").exists():
            return f"{image} has no Dockerfile"
        if tag != project()["version"]:
            return f"{image} is not of version {project()['version']}"
    elif not re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-[a-z]+)?", tag):
        return f"{image} names no exact version"
    return ""


def inline_secrets(node, path=""):
    """Where a value stands that ought to come from a secret."""
    telling = re.compile(r"(password|secret_?key|token|access_?key|credential)", re.IGNORECASE)
    harmless = re.compile(r"^(/|\$\{|https?://|true$|false$|token$|visage-|$)")
    if isinstance(node, list):
        for i, item in enumerate(node):
            yield from inline_secrets(item, f"{path}.{i}")
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        here = f"{path}.{key}"
        named = f"{node.get('name', '')}" if key == "value" else str(key)
        if isinstance(value, str) and telling.search(named) and not harmless.search(value):
            yield here
        yield from inline_secrets(value, here)
    if node.get("kind") == "Secret":
        yield f"{path}.{node['metadata']['name']}"
