"""Grafana's dashboards as code: ``python -m infra.dashboards`` writes infra/grafana/*.json.

The files are checked in, so that Grafana needs nothing of ours; a test compares them with this.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FOLDER = Path(__file__).parent / "grafana"
_PROMETHEUS = {"type": "prometheus", "uid": "prometheus"}
_WIDTH, _HEIGHT, _ROW_WIDTH = 8, 8, 24


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing: what it shows, and the PromQL of each line by its legend."""

    title: str
    about: str
    lines: dict[str, str]
    unit: str = "short"
    """Grafana's name of the unit: `s`, `ms`, `bytes`, `percentunit`, `reqps`, ..."""
    kind: Literal["timeseries", "stat"] = "timeseries"


def _rate(counter: str, by: str, where: str = "") -> str:
    return f"sum by ({by}) (rate({counter}{where}[5m]))"


def _quantile(q: float, histogram: str, *by: str) -> str:
    labels = ", ".join(("le", *by))
    return f"histogram_quantile({q}, sum by ({labels}) (rate({histogram}_bucket[5m])))"


_NODES = (
    Panel(
        "Memory", "Used share of each node's memory; Ray kills workers near 95 %.",
        {"{{instance}}": "ray_node_mem_used / ray_node_mem_total"}, "percentunit",
    ),
    Panel(
        "CPU", "Use of each node's CPUs.",
        {"{{instance}}": "ray_node_cpu_utilization / 100"}, "percentunit",
    ),
    Panel(
        "GPU", "Use of each GPU.",
        {"{{instance}} {{GpuIndex}}": "ray_node_gpus_utilization / 100"}, "percentunit",
    ),
)  # fmt: skip

CURATION = (
    Panel(
        "Rows per second", "Rows looked at; decided ones by how they ended, most at the run's end.",
        {
            "{{run}} looked at": _rate("visage_ingested_rows_total", "run"),
            "{{run}} {{status}}": _rate("visage_rows_total", "run, status"),
        }, "rowsps",
    ),
    Panel(
        "Why rows are not kept", "Rules and errors by name.",
        {"{{reason}}": _rate("visage_rows_total", "reason", '{status!="keep"}')}, "rowsps",
    ),
    Panel(
        "Seconds per row", "Where the time goes, stage by stage.",
        {"{{stage}}": _rate("visage_stage_seconds_total", "stage") + " / "
            + _rate("visage_stage_rows_total", "stage")}, "s",
    ),
    Panel(
        "Ray Data: rows out", "Rows that each operator has put out.",
        {"{{dataset}} {{operator}}": "sum by (dataset, operator) (ray_data_output_rows)"},
    ),
    Panel(
        "Object store", "Bytes held; what is spilled goes to disk and is slow.",
        {"held": "sum(ray_data_current_bytes)", "spilled": "sum(ray_data_spilled_bytes)"}, "bytes",
    ),
    Panel(
        "Workers that died", "Out of memory, mostly: give a stage fewer rows or more memory.",
        {"{{instance}}": "increase(ray_node_manager_unexpected_worker_failure_total[5m])"},
    ),
    *_NODES,
)  # fmt: skip

TRAINING = (
    Panel("Step", "Optimiser steps done.", {"{{run}}": "max by (run) (visage_train_step)"}),
    Panel("Loss", "At the last report.", {"{{run}}": "max by (run) (visage_train_loss)"}),
    Panel(
        "Samples per second", "All workers together.",
        {"{{run}}": "max by (run) (visage_train_samples_per_s)"},
    ),
    Panel(
        "Checkpoints", "Written in the last hour.",
        {"{{run}}": "sum by (run) (increase(visage_train_checkpoints_total[1h]))"},
    ),
    Panel(
        "Waiting in reports", "Seconds that workers stood still to report, per second.",
        {"{{ray_train_run_name}}":
            _rate("ray_train_report_total_blocked_time_s", "ray_train_run_name")}, "s",
    ),
    Panel(
        "GPU memory", "Used on each GPU, in MiB.",
        {"{{instance}} {{GpuIndex}}": "ray_node_gram_used"}, "decmbytes",
    ),
    *_NODES,
)  # fmt: skip

SERVING = (
    Panel(
        "Requests per second", "Answered by each deployment.",
        {"{{deployment}}": _rate("ray_serve_deployment_request_counter_total", "deployment")},
        "reqps",
    ),
    Panel(
        "Failures per second", "Requests that raised, by what was raised.",
        {"{{deployment}} {{exception_type}}":
            _rate("ray_serve_deployment_error_counter_total", "deployment, exception_type")},
        "reqps",
    ),
    Panel(
        "Answers",
        "As clients see them, by route and status.",
        {"{{route}} {{status}}": _rate("visage_requests_total", "route, status")},
        "reqps",
    ),
    Panel(
        "Refusals",
        "By code; serving/errors.py says what each means.",
        {"{{code}}": _rate("visage_refusals_total", "code")},
        "reqps",
    ),
    Panel(
        "Pictures and steps",
        "Drawn per second, by model.",
        {
            "pictures {{model}}": _rate("visage_pictures_total", "model"),
            "steps {{model}}": _rate("visage_steps_total", "model"),
        },
    ),
    Panel(
        "Queue and drawing",
        "95 % of requests for pictures wait, and are drawn, within this.",
        {
            "waiting": _quantile(0.95, "visage_queued_seconds"),
            "drawing": _quantile(0.95, "visage_drawing_seconds"),
        },
        "s",
    ),
    Panel(
        "Pictures drawn together",
        "Mean batch; near 1 under load means that requests are too unlike.",
        {
            "pictures": "sum(rate(visage_batch_pictures_sum[5m]))"
            " / sum(rate(visage_batch_pictures_count[5m]))"
        },
    ),
    Panel(
        "Faces",
        "Found per second, by what was asked.",
        {"{{operation}}": _rate("visage_faces_total", "operation")},
    ),
    Panel(
        "Latency", "Half and 95 % of a deployment's requests are faster.",
        {
            "p50 {{deployment}}":
                _quantile(0.5, "ray_serve_deployment_processing_latency_ms", "deployment"),
            "p95 {{deployment}}":
                _quantile(0.95, "ray_serve_deployment_processing_latency_ms", "deployment"),
        }, "ms",
    ),
    Panel(
        "Waiting", "Requests that no replica has taken yet.",
        {"{{deployment}}": "sum by (deployment) (ray_serve_deployment_queued_queries)"},
    ),
    Panel(
        "Replicas", "Healthy ones, and how many the autoscaler aims at.",
        {
            "healthy {{deployment}}":
                "sum by (deployment) (ray_serve_deployment_replica_healthy)",
            "target {{deployment}}":
                "max by (deployment) (ray_serve_autoscaling_target_replicas)",
        },
    ),
    Panel(
        "Failed health checks", "In the last 10 minutes.",
        {"{{deployment}}":
            "sum by (deployment) (increase(ray_serve_health_check_failures_total[10m]))"},
    ),
    Panel(
        "Event loop", "99 % of turns begin within this; more means that code blocks the loop.",
        {"{{component}} {{deployment}}":
            _quantile(
                0.99, "ray_serve_event_loop_scheduling_latency_ms", "component", "deployment"
            )},
        "ms",
    ),
    *_NODES,
)  # fmt: skip

DASHBOARDS = {"curation": CURATION, "training": TRAINING, "serving": SERVING}


def render(name: str) -> str:
    """Return a dashboard as the JSON that Grafana imports."""
    panels = [_panel(number, panel) for number, panel in enumerate(DASHBOARDS[name])]
    board = {
        "uid": f"visage-{name}",
        "title": f"Visage: {name}",
        "tags": ["visage"],
        "schemaVersion": 41,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "utc",
        "panels": panels,
    }
    return json.dumps(board, indent=2) + "\n"


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    per_row = _ROW_WIDTH // _WIDTH
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _PROMETHEUS,
        "gridPos": {
            "x": number % per_row * _WIDTH,
            "y": number // per_row * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + i), "expr": expression, "legendFormat": legend}
            for i, (legend, expression) in enumerate(panel.lines.items())
        ],
    }


def write(folder: Path = FOLDER) -> None:
    """Write every dashboard to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in DASHBOARDS:
        (folder / f"{name}.json").write_text(render(name))


if __name__ == "__main__":
    write()
