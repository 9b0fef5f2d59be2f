"""Which released models were trained on a corpus."""

from collections.abc import Collection
from pathlib import Path

from infra.mlflow_run import connect
from infra.registry import UnreachableRegistry
from infra.storage import Folder, without_secrets
from infra.tracking import tracking_uri

CORPUS_TAG = "visage.corpus"
_FILE = "sqlite:///"


def trained_on(store: Folder, corpora: Collection[str]) -> list[str]:
    """Return the registered versions of a store's MLflow that were trained on one of ``corpora``.

    Args:
        store: ``MLFLOW_TRACKING_URI`` goes before its own MLflow.
        corpora: Digests of corpora, as ``features.json`` and the versions' tags have them.

    Returns:
        ``NAME/version``, sorted.

    Raises:
        UnreachableRegistry: MLflow cannot be used.
    """
    uri = tracking_uri(store)
    if uri.startswith(_FILE) and not Path(uri.removeprefix(_FILE)).exists():
        return []  # asking would make an empty one
    try:
        versions = connect(uri).search_model_versions("") if corpora else []
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnreachableRegistry(without_secrets(uri), without_secrets(said)) from error
    return sorted(f"{v.name}/{v.version}" for v in versions if v.tags.get(CORPUS_TAG) in corpora)
