"""What a run leaves in MLflow, sent beside the work so that it never holds the work up."""

import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from infra.delivery import Sent, deliver, send_folder
from infra.mlflow_run import MlflowRun
from infra.settings import read_settings
from infra.spool import Entry, Spool
from infra.storage import Folder, without_secrets

log = logging.getLogger(__name__)
SEND_EVERY_S = 3.0
"""How long numbers wait for company: one call for many costs what one call for one does."""
RETRY_EVERY_S = 10.0
SYSTEM_EVERY_S = 10.0


def tracking_uri(store: Folder) -> str:
    """Return MLFLOW_TRACKING_URI, or an SQLite file in the store (at home for a remote store).

    Raises:
        BadValue: The variable, or another of infra/settings.py, has a value that cannot work.
    """
    if uri := read_settings().mlflow_tracking_uri.get_secret_value():
        return uri
    home = _home(store)
    home.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{home / 'mlflow.db'}"


def artifacts(store: Folder) -> str | None:
    """Return where a store's own SQLite file keeps its artifacts; a server knows better itself."""
    return f"{store.path}/mlartifacts" if store.is_local else None


def spool_file(store: Folder, experiment: str, run: str) -> Path:
    """Return where a run's numbers wait for MLflow: ``<store>/spool/<experiment>-<run>.jsonl``."""
    name = re.sub(r"[^\w.-]", "_", f"{experiment}-{run}")
    return _home(store) / "spool" / f"{name}.jsonl"


def dataset_of(corpus: str, features: str) -> dict[str, str]:
    """Return what ``Tracker.begin`` is told of a corpus by its digest, and of its features."""
    return {"name": f"corpus {corpus[:12]}", "digest": corpus[:36], "source": features}


def _home(store: Folder) -> Path:
    return Path(store.path) if store.is_local else Path.home() / ".visage"


def send_waiting(store: Folder) -> list[Sent]:
    """Send what runs of a store could not; those that are at work now send theirs themselves."""
    return send_folder(_home(store) / "spool", tracking_uri(store), artifacts(store))


class Tracker:
    """One MLflow run.

    The import and the making of an empty database take seconds; they happen on a thread while the
    work begins. Numbers are sent in batches every few seconds. When MLflow cannot be reached the
    work goes on, and ``problem`` says why; with a ``spool`` nothing is lost by it, nor by
    ``kill -9``: what was not sent waits there for the server to come back, for the end, for the
    next run of the store, or for ``send_waiting``. Where the disk is full it waits in memory, and
    ``problem`` says what is lost by that. The same run of ours, started again, is the same run in
    MLflow, and a step that it has there already is not sent again.

    Args:
        store: Where runs are; names the SQLite file where no server is named.
        experiment: The kind of run: curate, train, evaluate, ...
        run: The run's name.
        spool: A file from ``spool_file``; None keeps what waits in memory.
        system_metrics: Record processor, memory, disk, network and GPU every ten seconds.
    """

    def __init__(
        self,
        store: Folder,
        experiment: str,
        run: str,
        *,
        spool: Path | None = None,
        system_metrics: bool = False,
    ) -> None:
        uri = tracking_uri(store)
        self.uri = without_secrets(uri)
        """For people to read; a database's password is not in it."""
        self.experiment, self.run = experiment, run
        self.problem = ""
        self._system = system_metrics
        self._system_at = 0.0
        self._artifacts = artifacts(store)
        self._mlflow = MlflowRun(uri, experiment, run, self._artifacts)
        self._spool = self._open_spool(spool)
        self._on_disk, self._full = spool is not None, False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not self._ending.is_set():
            self.fail(error)
            if self.problem:
                log.warning("%s", self.problem)

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; empty until the server has answered."""
        return self._mlflow.run_id

    @property
    def url(self) -> str:
        """What a person opens: a page of the server, or the command that shows a database."""
        if not self.uri.startswith("http"):
            return f"mlflow ui --backend-store-uri {self.uri}"
        held = self._mlflow
        page = f"/#/experiments/{held.experiment_id}/runs/{held.run_id}" if held.run_id else ""
        return f"{self.uri.rstrip('/')}{page}"

    def begin(
        self,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        dataset: Mapping[str, str] | None = None,
    ) -> None:
        """Say what is about to run, so that it is seen while it runs.

        Args:
            params: Settings by dotted name. A run keeps the first value of each: what may change
                when it goes on is a tag.
            tags: Words to find the run by; the last value of each is kept.
            dataset: What it is of: its ``name``, ``digest`` (at most 36 characters) and ``source``;
                and its ``context``, which is training where nothing is said.
        """
        self._put("params", {key: str(value) for key, value in params.items()})
        sent = read_settings().submission
        self._put("tags", dict(tags) | ({"visage.submission": sent} if sent else {}))
        if dataset:
            self._put("dataset", dict(dataset))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record numbers of a step, and return at once. Called by rank 0 only."""
        self._put("metrics", {key: float(value) for key, value in metrics.items()}, step=step)

    def file(self, name: str, path: Path) -> None:
        """Keep a file as an artifact, and return at once; it is read when it is sent."""
        self._put("file", {"name": name, "path": str(Path(path).resolve())})

    def model(self, name: str, folder: Path, metrics: Mapping[str, float], step: int) -> None:
        """Keep an export as a LoggedModel of this run, and return at once.

        It is told from others by the hashes of its files, so the same one is kept once however
        often it is asked for. A folder that is gone when its turn comes, such as that of a
        checkpoint that made room for newer ones, is left out.

        Args:
            name: Its name in MLflow.
            folder: The export.
            metrics: Its scores; filed under the model, and so under the run too.
            step: When they were measured.
        """
        what = {"name": name, "folder": str(Path(folder).resolve()), "metrics": dict(metrics)}
        self._put("model", what, step=step)

    def finish(
        self,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        texts: Mapping[str, str],
        tags: Mapping[str, str],
        *,
        series: Sequence[tuple[int, Mapping[str, float]]] = (),
        files: Mapping[str, Path] | None = None,
    ) -> str:
        """Record a run's end; return its MLflow id, or ``""`` with ``problem`` set.

        Args:
            params: Settings by dotted name.
            metrics: Final numbers.
            texts: Artifacts by file name.
            tags: Words to find the run by.
            series: Numbers over steps; those that were logged before are not sent again.
            files: Artifacts by file name: pictures, reports.
        """
        self.begin(params, tags)
        for step, numbers in series:
            self.log(step, numbers)
        self._put("final", {key: float(value) for key, value in metrics.items()})
        for name, content in texts.items():
            self._put("text", {"name": name, "content": content})
        for name, path in (files or {}).items():
            self.file(name, path)
        return self._end("FINISHED")

    def fail(self, error: BaseException) -> str:
        """Record that a run ended too early: KILLED when it was told to stop, FAILED otherwise."""
        stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
        said = without_secrets((str(error).splitlines() or [""])[0])
        self._put("tags", {"visage.error": f"{type(error).__name__}: {said}"[:1000]})
        return self._end("KILLED" if stopped else "FAILED")

    def _put(self, kind: str, what: Mapping[str, Any], step: int | None = None) -> None:
        entry: Entry = {"kind": kind, "what": what, "time_ms": int(time.time() * 1000)}
        try:
            self._spool.put(entry if step is None else entry | {"step": step})
        except OSError as error:  # a full disk: the numbers go on in memory
            if not self._full:
                log.warning("What waits for MLflow waits in memory: %s", error)
            self._full = True

    def _end(self, status: str) -> str:
        self._put("end", {"status": status})
        self._ending.set()
        self._thread.join()
        self._spool.close()
        lost = self._spool.in_memory_only
        if self._spool.path and (waiting := len(self._spool) - lost):
            self.problem += f"; {waiting} records wait in {self._spool.path}"
        if lost and self._on_disk:
            self.problem += f"; {lost} records are lost, which the full disk did not take"
        return "" if self.problem else self.run_id

    def _work(self) -> None:
        wait_s, tried = 0.0, False
        while True:
            ending = self._ending.wait(wait_s)
            if self._system and time.monotonic() >= self._system_at:
                self._system_at = time.monotonic() + SYSTEM_EVERY_S
                self._guarded(lambda: self._put("system", self._mlflow.system_metrics()))
            self._guarded(lambda: deliver(self._spool, self._mlflow))
            if not tried:
                tried = True
                self._send_others()
            if ending:
                return
            wait_s = RETRY_EVERY_S if self.problem else SEND_EVERY_S

    def _send_others(self) -> None:
        """Send what earlier runs of the store could not."""
        if self._spool.path and not self.problem:
            for sent in send_folder(self._spool.path.parent, self._mlflow.uri, self._artifacts):
                log.info("Sent what had waited: %s", sent)

    def _open_spool(self, path: Path | None) -> Spool:
        about = {"uri": self.uri, "experiment": self.experiment, "run": self.run}
        try:
            return Spool(path, about)
        except OSError as error:
            log.warning("Numbers wait for MLflow in memory; %s cannot be had: %s", path, error)
            return Spool()

    def _guarded(self, work: Any) -> None:  # noqa: ANN401 - any call without arguments
        try:
            work()
            self.problem = self._mlflow.refused
        except Exception as error:  # whatever MLflow raises, the run's own result stands
            lines = str(error).splitlines() or [type(error).__name__]
            self.problem = without_secrets(f"MLflow at {self.uri} was not written: {lines[0]}")
            log.debug("MLflow failed", exc_info=True)
