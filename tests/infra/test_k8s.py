import copy
import shlex

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from pipelines.cli import VERBS
from tests.infra.manifests import (
    BUILDS,
    K8S,
    RAY_KINDS,
    WORKLOADS,
    built,
    core_problems,
    documents,
    image_problem,
    inline_secrets,
    pinned,
    pod_problems,
    pods,
    ray_problems,
    resources,
)

OPERATED = ("PodMonitor", "PrometheusRule")
"""Kinds of the Prometheus operator: no schema of theirs is at hand."""


def named(docs, kind, name="visage"):
    return next(d for d in docs if d["kind"] == kind and d["metadata"]["name"] == name)


def images(docs):
    for doc in docs:
        for _, pod in pods(doc) if doc["kind"] in WORKLOADS else ():
            spec = pod["spec"]
            yield from (c["image"] for c in spec["containers"] + spec.get("initContainers", []))


@pytest.fixture(scope="module")
def base():
    return built("base")


@pytest.mark.parametrize("build", BUILDS)
def test_ray_objects_keep_to_their_schemas(build):
    found = [d for d in built(build) if d["kind"] in RAY_KINDS]
    assert found
    assert [p for d in found for p in ray_problems(d)] == []


@pytest.mark.parametrize("build", BUILDS)
def test_core_objects_keep_to_their_schemas(build):
    core = [d for d in built(build) if d["kind"] not in (*RAY_KINDS, *OPERATED)]
    assert [f"{d['kind']} {p}" for d in core for p in core_problems(d)] == []


def test_a_misspelt_key_of_ray_is_found(base):
    wrong = copy.deepcopy(named(base, "RayCluster"))
    wrong["spec"]["enableIntreeAutoscaling"] = True
    assert "enableIntreeAutoscaling" in ray_problems(wrong)[0]
    deep = copy.deepcopy(named(base, "RayService"))
    pod = deep["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    pod["containers"][0]["livenesProbe"] = {}
    assert "livenesProbe" in ray_problems(deep)[0]


def test_a_misspelt_key_of_kubernetes_is_found(base):
    wrong = copy.deepcopy(named(base, "Deployment", "mlflow"))
    wrong["spec"]["replicsa"] = 2
    assert "replicsa" in core_problems(wrong)[0]


@pytest.mark.parametrize("build", BUILDS)
def test_every_pod_is_confined_probed_and_bounded(build):
    found = [(w, pod) for d in built(build) if d["kind"] in WORKLOADS for w, pod in pods(d)]
    assert len(found) >= 2
    assert [p for where, pod in found for p in pod_problems(where, pod)] == []


def test_a_pod_that_lacks_something_is_found(base):
    where, pod = next(iter(pods(named(base, "RayCluster"))))
    assert pod_problems(where, pod) == []
    wrong = copy.deepcopy(pod)
    del wrong["spec"]["securityContext"]
    del wrong["spec"]["containers"][0]["livenessProbe"]
    del wrong["spec"]["containers"][0]["resources"]["limits"]
    wrong["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = False
    assert pod_problems(where, wrong) == [
        f"{where}: may run as root",
        f"{where}: has no seccomp profile",
        f"{where}: ray-head may write its root",
        f"{where}: ray-head has no limits",
        f"{where}: ray-head has no livenessProbe",
    ]


@pytest.mark.parametrize("build", BUILDS)
def test_every_image_is_one_we_build_at_this_version(build):
    found = list(images(built(build)))
    assert found
    assert [image_problem(image) for image in found if image_problem(image)] == []


def test_production_takes_every_image_from_its_registry():
    assert {image.partition("/")[0] for image in images(built("overlays/prod"))} == {
        "registry.example.com"
    }


@pytest.mark.parametrize("build", BUILDS)
def test_ray_on_the_cluster_is_the_ray_that_is_pinned(build):
    for doc in (d for d in built(build) if d["kind"] in RAY_KINDS):
        spec = doc["spec"]
        cluster = spec.get("rayClusterConfig") or spec.get("rayClusterSpec") or spec
        assert cluster["rayVersion"] == pinned("ray")
        assert cluster["authOptions"] == {"mode": "token", "secretName": "visage-ray-token"}
        assert cluster["autoscalerOptions"]["version"] == "v2"
        assert cluster["gcsFaultToleranceOptions"]["backend"] == "rocksdb"
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("build", BUILDS)
def test_no_secret_stands_in_a_manifest(build):
    assert [path for d in built(build) for path in inline_secrets(d)] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"env": [{"name": "MLFLOW_TRACKING_PASSWORD", "value": "hunter2"}]},
        {"redisPassword": "hunter2"},
        {"kind": "Secret", "metadata": {"name": "s"}, "data": {}},
    ],
)
def test_a_secret_in_a_manifest_is_found(wrong):
    assert len(list(inline_secrets(wrong))) == 1


def test_gpu_workers_that_serve_are_asked_whether_serve_answers(base):
    workers = dict(pods(named(base, "RayService")))
    probe = workers["RayService visage gpu"]["spec"]["containers"][0]["livenessProbe"]
    assert "http://127.0.0.1:8000/-/healthz" in probe["exec"]["command"][2]


def ignored(config, path=""):
    """Keys of a Serve configuration that Serve would pass over in silence."""
    understood = ServeDeploySchema.model_validate(config).model_dump(exclude_unset=True)
    return list(missing(config, understood, path))


def missing(given, understood, path):
    pairs = []
    if isinstance(given, dict):
        pairs = [(key, value, understood.get(key)) for key, value in given.items()]
        yield from (f"{path}.{key}" for key in given if key not in understood)
    elif isinstance(given, list):
        pairs = [(i, *both) for i, both in enumerate(zip(given, understood, strict=True))]
    for key, value, seen in pairs:
        if isinstance(seen, dict | list):
            yield from missing(value, seen, f"{path}.{key}")


@pytest.fixture(params=["base", "overlays/dev"])
def serve_config(request):
    service = named(built(request.param), "RayService")
    return yaml.safe_load(service["spec"]["serveConfigV2"])


def test_serve_reads_every_key_of_its_configuration(serve_config):
    assert ignored(serve_config) == []


def test_a_key_that_serve_would_ignore_is_found(serve_config):
    wrong = copy.deepcopy(serve_config)
    wrong["applications"][0]["deployments"][0]["max_ongoing_requets"] = 5
    assert ignored(wrong) == [".applications.0.deployments.0.max_ongoing_requets"]


def test_every_import_path_resolves(serve_config):
    for app in serve_config["applications"]:
        module, _, attribute = app["import_path"].partition(":")
        loaded = pytest.importorskip(module, reason=f"{module} is still to come")
        assert hasattr(loaded, attribute), f"{module} has no {attribute!r}"


def test_every_job_runs_a_command_and_a_recipe_that_there_are():
    import pipelines.recipes
    import training.recipes

    recipes = {"curate": pipelines.recipes.recipe, "train": training.recipes.recipe}
    for job in (d for d in built("jobs") if d["kind"] == "RayJob"):
        program, verb, recipe, *_ = shlex.split(job["spec"]["entrypoint"])
        assert (program, verb in VERBS) == ("visage", True)
        assert recipes[verb](recipe).name == recipe


def test_a_training_reads_and_writes_on_a_volume_that_all_its_pods_share():
    docs = built("jobs")
    job = named(docs, "RayJob", "train")
    words = shlex.split(job["spec"]["entrypoint"])
    claim = named(docs, "PersistentVolumeClaim", "visage-shared")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for _, pod in pods(job):
        volumes = {v["name"]: v.get("persistentVolumeClaim") for v in pod["spec"]["volumes"]}
        mounts = {m["name"]: m["mountPath"] for m in pod["spec"]["containers"][0]["volumeMounts"]}
        assert volumes["shared"] == {"claimName": "visage-shared"}
        for flag in ("--data.path", "--out"):
            assert words[words.index(flag) + 1].startswith(f"{mounts['shared']}/")


@pytest.mark.parametrize("build", BUILDS)
def test_every_selector_finds_a_pod_and_every_port_is_one_of_its(build):
    docs = built(build)
    found = [pod for d in docs if d["kind"] in WORKLOADS for _, pod in pods(d)]
    for doc in (d for d in docs if d["kind"] in ("PodDisruptionBudget", "PodMonitor", "Service")):
        wanted = doc["spec"]["selector"]
        wanted = dict(wanted.get("matchLabels", wanted))
        kind = wanted.pop("ray.io/node-type", None)  # KubeRay's own label
        chosen = [
            pod
            for pod in found
            if wanted.items() <= pod["metadata"]["labels"].items()
            and (kind is None or pod["spec"]["containers"][0]["name"] == f"ray-{kind}")
        ]
        if not chosen and doc["kind"] == "PodDisruptionBudget" and build == "overlays/dev":
            continue  # there is no GPU there
        assert chosen, f"{doc['kind']} {doc['metadata']['name']} selects nothing"
        for endpoint in doc["spec"].get("podMetricsEndpoints", []):
            for pod in chosen:
                ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
                assert endpoint["port"] in ports


def test_only_named_traffic_is_let_through(base):
    policies = {d["metadata"]["name"]: d["spec"] for d in base if d["kind"] == "NetworkPolicy"}
    everything = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert policies["deny-all"] == everything
    for name, spec in policies.items():
        for rule in spec.get("egress", []):
            assert rule.get("to"), f"{name} lets anything out"
            blocks = [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer]
            assert all("169.254.0.0/16" in block["except"] for block in blocks)


@pytest.mark.parametrize("overlay", ["dev", "prod"])
def test_every_patch_is_for_an_object_that_there_is(overlay):
    folder = K8S / "overlays" / overlay
    kustomization = documents(folder / "kustomization.yaml")[0]
    there = resources(folder)
    for patch in kustomization["patches"]:
        wanted = patch["target"]
        targets = [
            d
            for d in there
            if d["kind"] == wanted["kind"] and wanted.get("name") in (None, d["metadata"]["name"])
        ]
        assert targets, f"{overlay}: nothing is called {wanted}"
        for operation in yaml.safe_load((folder / patch["path"]).read_text()):
            for target in targets:
                assert_path(target, operation)


def assert_path(target, operation):
    node, (*parents, last) = target, operation["path"].strip("/").split("/")
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node[part]
    if operation["op"] != "add":
        assert node[int(last) if isinstance(node, list) else last] is not None


def test_a_patch_of_a_field_that_is_not_there_is_found(base):
    with pytest.raises(KeyError):
        assert_path(named(base, "RayCluster"), {"op": "replace", "path": "/spec/headGroup/x"})


def test_development_needs_no_gpu_and_no_further_operator():
    docs = built("overlays/dev")
    assert "nvidia.com/gpu" not in yaml.safe_dump(docs)
    assert {d["kind"] for d in docs if d["kind"] in OPERATED} == set()
    assert {d["metadata"].get("namespace", "visage-dev") for d in docs} == {"visage-dev"}
