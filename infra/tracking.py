"""What a run leaves in MLflow. The only module that imports it."""

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.storage import Folder, without_secrets

log = logging.getLogger(__name__)
RUN_TAG = "visage.run"


def tracking_uri(store: Folder) -> str:
    """Return MLFLOW_TRACKING_URI, or an SQLite file in the store (at home for a remote store)."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    home = Path(store.path) if store.is_local else Path.home() / ".visage"
    home.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{home / 'mlflow.db'}"


class Tracker:
    """One MLflow run, kept beside the work so that it never holds the work up.

    The import and the making of an empty database take seconds; they happen on a thread while the
    first job runs. When MLflow cannot be reached the run goes on, and ``problem`` says why.
    """

    def __init__(self, store: Folder, experiment: str, run: str) -> None:
        self._uri = tracking_uri(store)
        self.uri = without_secrets(self._uri)
        """For people to read; a database's password is not in it."""
        self.experiment, self.run, self.run_id = experiment, run, ""
        self.problem = ""
        self._artifacts = None if "://" in str(store) else f"{store.path}/mlartifacts"
        self._client: Any = None
        self._thread = threading.Thread(target=self._guard, args=(self._open,), daemon=True)
        self._thread.start()

    def finish(
        self,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        texts: Mapping[str, str],
        tags: Mapping[str, str],
        *,
        series: Sequence[tuple[int, Mapping[str, float]]] = (),
    ) -> str:
        """Record a run's end; return its MLflow id, or ``""`` with ``problem`` set.

        Args:
            params: Settings by dotted name.
            metrics: Final numbers.
            texts: Artifacts by file name.
            tags: Words to find the run by.
            series: Numbers over steps.
        """
        self._thread.join()
        if not self.problem:
            self._guard(self._write, params, metrics, texts, tags, series)
        return "" if self.problem else self.run_id

    def _guard(self, work: Any, *arguments: Any) -> None:  # noqa: ANN401 - any of the two below
        try:
            work(*arguments)
        except Exception as error:  # whatever MLflow raises, the run's own result stands
            lines = str(error).splitlines() or [type(error).__name__]
            self.problem = without_secrets(f"MLflow at {self.uri} was not written: {lines[0]}")
            log.debug("MLflow failed", exc_info=True)

    def _open(self) -> None:
        # A dead server must not hold a finished run for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow.tracking import MlflowClient

        # Importing MLflow sets its loggers up; it then tells of every table that it makes.
        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self._client = MlflowClient(tracking_uri=self._uri)
        found = self._client.get_experiment_by_name(self.experiment)
        local = self._artifacts if self._uri.startswith("sqlite") else None
        experiment_id = (
            found.experiment_id
            if found
            else self._client.create_experiment(self.experiment, artifact_location=local)
        )
        # The same run of ours is the same run there, also after a crash.
        known = self._client.search_runs(
            [experiment_id], f"tags.`{RUN_TAG}` = '{self.run}'", max_results=1
        )
        made = (
            known[0]
            if known
            else self._client.create_run(experiment_id, run_name=self.run, tags={RUN_TAG: self.run})
        )
        self.run_id = made.info.run_id

    def _write(
        self,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        texts: Mapping[str, str],
        tags: Mapping[str, str],
        series: Sequence[tuple[int, Mapping[str, float]]],
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        now_ms = int(time.time() * 1000)
        rows = [Metric(k, v, now_ms, step) for step, row in series for k, v in row.items()]
        rows += [Metric(key, number, now_ms, 0) for key, number in metrics.items()]
        named = [Param(key, str(value)[:500]) for key, value in params.items()]
        # One call for many: each alone is a transaction. It takes 100 params and 1,000 in all.
        for start in range(0, len(named), 100):
            self._client.log_batch(self.run_id, params=named[start : start + 100])
        for start in range(0, len(rows), 500):
            self._client.log_batch(self.run_id, metrics=rows[start : start + 500])
        words = [RunTag(key, word) for key, word in tags.items()]
        self._client.log_batch(self.run_id, tags=words)
        for name, content in texts.items():
            self._client.log_text(self.run_id, content, name)
        self._client.set_terminated(self.run_id, "FINISHED")
