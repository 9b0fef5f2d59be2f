import re
import shutil
import subprocess

import pytest
import yaml

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


def test_ray_is_scraped_alike_in_compose_and_on_kubernetes():
    scraped = documents(FOLDER / "prometheus.yml")[0]["scrape_configs"]
    ports = {
        t.split(":")[1] for job in scraped for c in job["static_configs"] for t in c["targets"]
    }
    head, workers = documents(K8S / "monitors" / "monitors.yaml")
    pod = documents(K8S / "base" / "cluster.yaml")[0]["spec"]["headGroupSpec"]["template"]["spec"]
    there = {port["name"]: str(port["containerPort"]) for port in pod["containers"][0]["ports"]}
    for endpoint in head["spec"]["podMetricsEndpoints"]:
        assert there[endpoint["port"]] in ports
    ours = next(job for job in scraped if job["job_name"] == "ray")["metric_relabel_configs"][0]
    for monitor in (head, workers):
        theirs = monitor["spec"]["podMetricsEndpoints"][0]["metricRelabelings"][0]
        assert (theirs["regex"], theirs["replacement"]) == (ours["regex"], ours["replacement"])
