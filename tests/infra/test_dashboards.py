import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from infra.dashboards import DASHBOARDS, FOLDER, render, write
from infra.metrics import METRICS
from serving.metrics import Metrics
from tests.infra.manifests import INFRA

WORDS = {
    *("by", "sum", "max", "min", "avg", "count", "rate", "increase", "changes", "abs", "sort"),
    *("histogram_quantile", "or", "and", "unless", "Inf", "NaN"),
}


@cache
def ray_metrics():
    """Names that the installed Ray gives to its metrics, as Prometheus knows them."""
    package = Path(find_spec("ray").submodule_search_locations[0])
    files = [
        *package.glob("serve/**/*.py"),
        *package.glob("data/_internal/**/*.py"),
        *package.glob("train/v2/_internal/metrics/*.py"),
        *package.glob("dashboard/modules/reporter/*.py"),
    ]
    panels = package.glob("dashboard/modules/metrics/dashboards/*.py")
    quoted = re.compile(r'"((?:serve|data|train|node)_\w+)"')
    named = {f"ray_{name}" for file in files for name in quoted.findall(file.read_text())}
    return named | {n for f in panels for n in re.findall(r"\bray_\w+", f.read_text())}


@cache
def our_metrics():
    served = {f for line in Metrics().registry.collect() for f in families(line)}
    return {metric.exported for metric in METRICS.values()} | served


def families(metric):
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {metric.name + ending for ending in endings.get(metric.type, ("",))}


def unknown(expression):
    """Names in PromQL that nobody exports."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\bby\s*\([^)]*\)', " ", expression)
    names = set(re.findall(r"[a-zA-Z_:][\w:]*", bare)) - WORDS - {"up"}
    return sorted(n for n in names if n not in our_metrics() and not of_ray(n))


def of_ray(name):
    plain = re.sub(r"_(total|bucket|sum|count)$", "", name)
    return name in ray_metrics() or plain in ray_metrics()


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_dashboard_that_is_checked_in_is_the_one_in_code(name):
    assert (FOLDER / f"{name}.json").read_text() == render(name), "run python -m infra.dashboards"


def test_dashboards_are_written_whole(tmp_path):
    write(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == set(DASHBOARDS)
    board = json.loads((tmp_path / "serving.json").read_text())
    assert board["uid"] == "visage-serving"
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]]
    assert len(set(places)) == len(board["panels"]) == len(DASHBOARDS["serving"])


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_metric_of_a_dashboard_is_exported_by_somebody(name):
    lines = [line for panel in DASHBOARDS[name] for line in panel.lines.values()]
    assert [n for line in lines for n in unknown(line)] == []


def test_every_metric_of_an_alert_is_exported_by_somebody():
    groups = yaml.safe_load((INFRA / "prometheus" / "rules.yml").read_text())["groups"]
    rules = [rule["expr"] for group in groups for rule in group["rules"]]
    assert [n for expr in rules for n in unknown(expr)] == []


def test_a_metric_that_nobody_exports_is_found():
    assert unknown('sum by (run) (rate(visage_rowz_total{status="keep"}[5m]))') == [
        "visage_rowz_total"
    ]
    assert unknown("ray_serve_deployment_replica_helthy == 0") == [
        "ray_serve_deployment_replica_helthy"
    ]


def test_the_dashboards_ask_the_source_that_grafana_is_given():
    provisioned = INFRA / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    uids = {source["uid"] for source in yaml.safe_load(provisioned.read_text())["datasources"]}
    boards = [json.loads(render(name)) for name in DASHBOARDS]
    assert {p["datasource"]["uid"] for board in boards for p in board["panels"]} == uids
