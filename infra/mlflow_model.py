"""Exports as MLflow's LoggedModels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.released import MANIFEST_TAG, files_of, manifest, manifest_tags


def log_model(
    client: Any,  # noqa: ANN401 - mlflow is not typed
    experiment_id: str,
    name: str,
    folder: Path,
    *,
    run_id: str | None,
    params: Mapping[str, object],
    tags: Mapping[str, str],
) -> str:
    """Upload a folder as a LoggedModel; return its id once it is ready to be used.

    Raises:
        FileNotFoundError: A file that ``manifest_tags`` are of went away meanwhile.
        Exception: Whatever MLflow raises; the model is then marked as failed.
    """
    held = client.create_logged_model(
        experiment_id,
        name=name,
        source_run_id=run_id,
        params={key: str(value) for key, value in params.items()},
        tags=dict(tags),
        model_type="identity-adapter",
    )
    try:
        client.log_model_artifacts(held.model_id, str(folder))
        for file in files_of(tags):
            (folder / file).stat()  # of one that is gone now it may not have been sent
    except BaseException:
        client.finalize_logged_model(held.model_id, "FAILED")
        raise
    client.finalize_logged_model(held.model_id, "READY")
    return str(held.model_id)


def keep_model(
    client: Any,  # noqa: ANN401
    experiment_id: str,
    run_id: str,
    name: str,
    folder: Path,
    metrics: Mapping[str, float],
    *,
    step: int,
    at_ms: int,
) -> None:
    """Upload an export and its scores, unless the run has a model of that name with these files.

    Raises:
        BadWeights: The folder holds a pickle, or nothing.
        Exception: As ``log_model``.
    """
    tags = manifest_tags(manifest(folder))
    words = f"name = '{name}' AND source_run_id = '{run_id}'"
    for known in client.search_logged_models([experiment_id], words):
        if known.status == "READY" and known.tags.get(MANIFEST_TAG) == tags[MANIFEST_TAG]:
            return
    held = log_model(client, experiment_id, name, folder, run_id=run_id, params={}, tags=tags)
    for key, value in metrics.items():
        client.log_metric(run_id, key, value, timestamp=at_ms, step=step, model_id=held)
