import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from infra.alerts import TARGET, render, write
from tests.infra.manifests import INFRA, K8S, documents

FOLDER = INFRA / "prometheus"
RULES = [
    rule
    for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]


@pytest.fixture
def promtool():
    path = shutil.which("promtool")
    if not path:
        pytest.skip("promtool is not installed; Debian has it in its package prometheus")
    return lambda *arguments: subprocess.run(
        [path, *arguments], capture_output=True, text=True, timeout=60
    )


def test_prometheus_reads_its_configuration(promtool):
    told = promtool("check", "config", FOLDER / "prometheus.yml")
    assert told.returncode == 0, told.stdout + told.stderr


def test_alerts_fire_when_they_should_and_only_then(promtool):
    told = promtool("test", "rules", FOLDER / "rules_test.yml")
    assert told.returncode == 0, told.stdout + told.stderr


def test_an_alert_that_does_not_fire_is_found(promtool, tmp_path):
    wrong = (FOLDER / "rules.yml").read_text().replace("changes(", "count_over_time(")
    (tmp_path / "rules.yml").write_text(wrong)
    shutil.copy(FOLDER / "rules_test.yml", tmp_path)
    told = promtool("test", "rules", tmp_path / "rules_test.yml")
    assert told.returncode == 1
    assert "TrainingStalled" in told.stdout + told.stderr


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule):
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "runbook"}
    for text in rule["annotations"].values():
        assert len(text) > 40
        assert text.endswith(".")


def test_every_alert_has_a_test():
    tested = (FOLDER / "rules_test.yml").read_text()
    untested = [r["alert"] for r in RULES if not re.search(rf"\b{r['alert']}\b", tested)]
    assert untested == []


def test_kubernetes_is_given_the_same_alerts():
    assert TARGET.read_text() == render(), "run python -m infra.alerts"
    rule = yaml.safe_load(render())
    assert (rule["apiVersion"], rule["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((FOLDER / "rules.yml").read_text())
    # The keys of a rule that the operator knows; of a wrong one it would refuse all.
    known = {"alert", "expr", "for", "labels", "annotations", "keep_firing_for"}
    assert {key for rule in RULES for key in rule} <= known


def test_alerts_are_written_whole(tmp_path):
    write(tmp_path / "rules.yaml")
    assert (tmp_path / "rules.yaml").read_text() == render()


def scraped():
    return {
        job["job_name"]: job for job in documents(FOLDER / "prometheus.yml")[0]["scrape_configs"]
    }


def monitors():
    return {doc["metadata"]["name"]: doc for doc in documents(K8S / "monitors" / "monitors.yaml")}


def test_ray_is_scraped_alike_in_compose_and_on_kubernetes():
    jobs = scraped().values()
    ports = {t.split(":")[1] for job in jobs for c in job["static_configs"] for t in c["targets"]}
    pod = documents(K8S / "base" / "cluster.yaml")[0]["spec"]["headGroupSpec"]["template"]["spec"]
    there = {port["name"]: str(port["containerPort"]) for port in pod["containers"][0]["ports"]}
    for endpoint in monitors()["ray-heads"]["spec"]["podMetricsEndpoints"]:
        assert there[endpoint["port"]] in ports
    ours = scraped()["ray"]["metric_relabel_configs"][0]
    for name in ("ray-heads", "ray-workers"):
        theirs = monitors()[name]["spec"]["podMetricsEndpoints"][0]["metricRelabelings"][0]
        assert (theirs["regex"], theirs["replacement"]) == (ours["regex"], ours["replacement"])


def test_an_alert_of_silence_knows_every_job_by_its_name():
    """On Kubernetes the operator calls a job NAMESPACE/MONITOR."""
    names = [*scraped(), *(f"visage/{name}" for name in monitors())]
    silent = {rule["alert"]: rule["expr"] for rule in RULES if rule["expr"].startswith("up{")}
    asked = {a: re.search(r'job=~"([^"]+)"', expr)[1] for a, expr in silent.items()}
    found = {a: {n for n in names if re.fullmatch(regex, n)} for a, regex in asked.items()}
    assert found == {
        "RayNodeUnreachable": {
            "ray", "ray-autoscaler", "ray-dashboard", "visage/ray-heads", "visage/ray-workers",
        },
        "MlflowUnreachable": {"mlflow", "visage/mlflow"},
    }  # fmt: skip


def test_mlflow_tells_its_numbers_to_who_has_its_login():
    compose = yaml.safe_load((INFRA / "compose" / "compose.yaml").read_text())["services"]
    deployment = documents(K8S / "base" / "mlflow.yaml")[0]["spec"]["template"]["spec"]
    arguments = deployment["containers"][0]["args"]
    for command in (compose["mlflow"]["command"], arguments):
        assert [word for word in command if word.startswith("--expose-prometheus=/tmp/")]
    file = scraped()["mlflow"]["basic_auth"]["password_file"]
    assert Path(file).name in compose["prometheus"]["secrets"]
    # It refuses hosts that it was not told of, and Prometheus asks a pod by its address.
    hosts = next(word for word in arguments if word.startswith("--allowed-hosts="))
    assert "$(POD_IP):5000" in hosts.split(",")
    login = monitors()["mlflow"]["spec"]["podMetricsEndpoints"][0]["basicAuth"]
    assert {part["name"] for part in login.values()} == {"visage-mlflow-client"}
