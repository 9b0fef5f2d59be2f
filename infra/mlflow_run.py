"""One run in MLflow, as its server knows it: opened, written to, ended."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from infra.mlflow_model import keep_model
from infra.mlflow_model import log_model as log_model
from infra.spool import Entry
from infra.storage import without_secrets

log = logging.getLogger(__name__)

RUN_TAG = "visage.run"
_PARAM_LENGTH = 6000
_METRICS_AT_ONCE = 500
_WORDS_AT_ONCE = 100
"""Params or tags that MLflow takes in one call."""
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
"""Answers to which the same words get the same answer again."""

Item = TypeVar("Item")


def connect(uri: str) -> Any:  # noqa: ANN401 - mlflow is not typed
    """Return a client that gives up soon: a dead server must not hold finished work for minutes."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow.tracking import MlflowClient

    # Importing MLflow sets its loggers up; it then tells of every table that it makes.
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment(client: Any, uri: str, name: str, artifacts_at: str | None) -> str:  # noqa: ANN401
    """Return an experiment's id; make it if it is not there."""
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    local = artifacts_at if uri.startswith("sqlite") else None
    return str(client.create_experiment(name, artifact_location=local))


def find_run(client: Any, experiment_id: str, run: str) -> Any | None:  # noqa: ANN401
    """Return the run of ours by its name."""
    words = f"tags.`{RUN_TAG}` = '{run}'"
    return next(iter(client.search_runs([experiment_id], words, max_results=1)), None)


class MlflowRun:
    """A run found by its name, or made.

    Args:
        uri: Where MLflow is.
        name: The experiment.
        run: The run's name with us.
        artifacts_at: Where a new experiment of an SQLite file keeps artifacts.
        revive: Whether opening says that the run is at work.
    """

    def __init__(
        self, uri: str, name: str, run: str, artifacts_at: str | None, *, revive: bool = True
    ) -> None:
        self.uri, self.experiment, self.run = uri, name, run
        self.experiment_id = self.run_id = ""
        self._refusals: list[str] = []
        self._artifacts_at, self._revive = artifacts_at, revive
        self._client: Any = None
        self._began_ms = 0
        self._steps: dict[str, int] | None = None
        """The last step of each number that the run has."""
        self._monitors: list[Any] | None = None

    @property
    def refused(self) -> str:
        """What MLflow would not take, and will not be sent again."""
        return "; ".join(self._refusals)

    def open(self) -> None:
        """Find the run or make it. The same run of ours is the same run there, also after a crash.

        Raises:
            Exception: Whatever MLflow raises.
        """
        if self.run_id:
            return
        if self._client is None:
            self._client = connect(self.uri)
        self.experiment_id = experiment(self._client, self.uri, self.experiment, self._artifacts_at)
        known = find_run(self._client, self.experiment_id, self.run)
        made = known or self._client.create_run(
            self.experiment_id, run_name=self.run, tags={RUN_TAG: self.run}
        )
        if self._steps is None:
            # A finished run that begins anew was asked to: its steps are told again.
            fresh = made.info.status == "FINISHED"
            logged = made.data.to_proto().metrics
            self._steps = {} if fresh else {metric.key: metric.step for metric in logged}
        if known and self._revive and made.info.status != "RUNNING":
            self._client.update_run(made.info.run_id, status="RUNNING")
        self._began_ms, self.run_id = made.info.start_time, made.info.run_id

    def send(self, entries: Sequence[Entry]) -> None:
        """Write entries to the open run; what MLflow refuses is remembered in ``refused``.

        Raises:
            Exception: Whatever MLflow raises when it cannot be reached.
        """
        from mlflow.exceptions import MlflowException

        steps = dict(self._steps or {})
        rows = [row for entry in entries for row in _metrics(entry, steps, self._began_ms)]
        for work in self._calls(rows, entries):
            try:
                work()
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    self.run_id = ""  # deleted under us: the next try makes it anew
                if error.error_code not in _REFUSALS:
                    raise
                self._refuse(f"MLflow at {self.uri} refused: {str(error).splitlines()[0]}")
        self._steps = steps

    def system_metrics(self) -> dict[str, float]:
        """Measure this machine now, under MLflow's own names."""
        if self._monitors is None:
            self._monitors = list(_monitors())
        measured: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            measured |= {f"system/{k}": v for k, v in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return measured

    def _calls(
        self, rows: Sequence[Any], entries: Sequence[Entry]
    ) -> Iterator[Callable[[], object]]:
        """Turn entries into as few calls as MLflow's limits allow: each alone is a transaction."""
        from mlflow.entities import Param, RunTag

        log_batch = partial(self._client.log_batch, self.run_id)
        for part in _parts(rows, _METRICS_AT_ONCE):
            yield partial(log_batch, metrics=part)
        for entry in entries:
            what = entry["what"]
            match entry["kind"]:
                case "params":
                    params = [Param(key, _cut(value)) for key, value in what.items()]
                    for part in _parts(params, _WORDS_AT_ONCE):
                        yield partial(log_batch, params=part)
                case "tags":
                    for part in _parts([RunTag(*tag) for tag in what.items()], _WORDS_AT_ONCE):
                        yield partial(log_batch, tags=part)
                case "dataset":
                    yield partial(self._client.log_inputs, self.run_id, [_dataset(what)])
                case "text":
                    told = what["content"], what["name"]
                    yield partial(self._client.log_text, self.run_id, *told)
                case "file":
                    yield partial(self._upload, what["name"], Path(what["path"]))
                case "model":
                    yield partial(self._keep, what["name"], Path(what["folder"]), entry)
                case "end":
                    how = what["status"], entry["time_ms"]
                    yield partial(self._client.set_terminated, self.run_id, *how)

    def _upload(self, name: str, path: Path) -> None:
        """Keep a file under its name, which may name folders and need not be its own."""
        if not path.exists():
            self._refuse(f"{path} was gone before it reached MLflow")
            return
        folder, _, last = name.rpartition("/")
        with tempfile.TemporaryDirectory() as beside:
            if path.name != last:
                path = Path(shutil.copyfile(path, Path(beside) / last))
            self._client.log_artifact(self.run_id, str(path), folder or None)

    def _keep(self, name: str, folder: Path, entry: Entry) -> None:
        """Keep an export as a LoggedModel, unless its folder made room; hold nothing else up.

        Raises:
            Exception: MLflow cannot be reached; the model is to be sent again.
        """
        try:
            keep_model(
                self._client, self.experiment_id, self.run_id, name, folder,
                entry["what"]["metrics"], step=entry["step"], at_ms=entry["time_ms"],
            )  # fmt: skip
        except Exception as error:
            if not folder.exists():
                log.info("%s was removed before it reached MLflow", folder)
                return
            self._client.get_run(self.run_id)  # which raises where there is no MLflow to ask
            lines = str(error).splitlines() or [type(error).__name__]
            self._refuse(
                f"the model {name} was not kept in MLflow at {self.uri}: {lines[0]}; "
                "the run's command, given again, sends it again"
            )

    def _refuse(self, why: str) -> None:
        if (said := without_secrets(why)) not in self._refusals:
            self._refusals.append(said)


def _metrics(entry: Entry, steps: dict[str, int], began_ms: int) -> list[Any]:
    """Turn an entry's numbers into MLflow's, without the ``steps`` that the run has; note them."""
    from mlflow.entities import Metric

    numbers, at_ms = entry["what"], entry["time_ms"]
    match entry["kind"]:
        case "final":
            return [Metric(key, value, at_ms, 0) for key, value in numbers.items()]
        case "system":
            step = max(0, at_ms - began_ms) // 10_000
        case "metrics":
            step = entry["step"]
        case _:
            return []
    new = {key: value for key, value in numbers.items() if steps.get(key, -1) < step}
    steps |= dict.fromkeys(new, step)
    return [Metric(key, value, at_ms, step) for key, value in new.items()]


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _cut(value: str) -> str:
    """Keep within MLflow's limit, and show that there was more."""
    return value if len(value) <= _PARAM_LENGTH else f"{value[: _PARAM_LENGTH - 4]} ..."


def _dataset(what: Mapping[str, str]) -> Any:  # noqa: ANN401
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = what.get("source", "")
    made = Dataset(what["name"], what["digest"], "visage", f'{{"uri": "{source}"}}')
    context = what.get("context", "training")
    return DatasetInput(made, [InputTag("mlflow.data.context", context)])


def _monitors() -> Iterator[Any]:
    """Yield what can be measured on this machine."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    yield from (CPUMonitor(), DiskMonitor(), NetworkMonitor())
    try:
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

        yield GPUMonitor()
    except Exception:  # no NVIDIA driver, or no pynvml
        return
