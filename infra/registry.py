"""Released models in MLflow's registry: versions, aliases, and files that are what they were.

Who downloads a version checks every file against the SHA-256 in its tags (``infra/released.py``):
one that was changed in the artifact store is never served.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.errors import BadInput, BadValue, nearest
from infra.mlflow_run import connect, experiment, find_run, log_model
from infra.released import MANIFEST_TAG, ModelVersion, check, files_of, manifest_tags, version_of
from infra.released import SHA256_TAG as SHA256_TAG
from infra.released import manifest as manifest
from infra.storage import Folder, open_folder, without_secrets
from infra.tracking import artifacts, tracking_uri

EXPERIMENT = "release"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_SERVERS = ("http://", "https://", "sqlite:", "postgresql", "mysql", "mssql")
_DESCRIPTION_LENGTH = 5000


class UnreachableRegistry(BadInput):
    """MLflow does not answer, or not as it should."""

    def __init__(self, uri: str, why: str) -> None:
        self.uri, self.why = uri, why
        super().__init__(uri, why)

    def __str__(self) -> str:
        return (
            f"The model registry at {self.uri} cannot be used: {self.why}. Start that server, or "
            "name another one with MLFLOW_TRACKING_URI, or the right folder with --store."
        )


class UnknownModel(BadInput):
    """No model, version or alias of that name was released."""

    def __init__(self, reference: str, uri: str, known: tuple[str, ...]) -> None:
        self.reference, self.uri, self.known = reference, uri, known
        super().__init__(reference, uri, known)

    def __str__(self) -> str:
        there = (
            nearest(self.reference, self.known)
            if self.known
            else "Nothing was released there yet: see `visage release`."
        )
        return f"The registry at {self.uri} has no model {self.reference!r}. {there}"


class Registry:
    """The models that were released to one MLflow.

    Args:
        where: A store, whose MLflow is meant (``MLFLOW_TRACKING_URI`` goes before it), or the
            address of an MLflow: ``http://...``, ``sqlite:///...``.
    """

    def __init__(self, where: Folder | str) -> None:
        if isinstance(where, str) and where.startswith(_SERVERS):
            self._uri, self._artifacts = where, None
        else:
            store = open_folder(where) if isinstance(where, str) else where
            self._uri, self._artifacts = tracking_uri(store), artifacts(store)
        self.uri = without_secrets(self._uri)
        """For people to read; a password is not in it."""
        self._held: Any = None

    def register(
        self,
        name: str,
        model: Path | str,
        tags: Mapping[str, str],
        *,
        description: str = "",
        run: str = "",
    ) -> ModelVersion:
        """Make a version of an export, or find the one that has the same files.

        Args:
            name: The model's name: letters, digits, ``_`` and ``-``.
            model: The export's folder, or the id of a LoggedModel (``Tracker.model``) that
                carries ``manifest_tags``.
            tags: Lineage; on a version that is there already they replace the old ones, and so
                does the description.
            description: Markdown for people, cut visibly at MLflow's 5,000 characters.
            run: Name of the training run that the export is from.

        Raises:
            BadWeights: The export holds a pickle, or nothing.
            BadValue: The name cannot be one.
            UnreachableRegistry: MLflow cannot be used.
        """
        _check("name", name)
        files = manifest(model) if isinstance(model, Path) else {}
        with self._mlflow(make=True) as client:
            if isinstance(model, str):
                held = client.get_logged_model(model)
                files = files_of(held.tags)
            words = {**tags, **manifest_tags(files)}
            for version in self._versions(client, name):
                if version.tags.get(MANIFEST_TAG) == words[MANIFEST_TAG]:
                    number = str(version.version)
                    for key, value in words.items():
                        client.set_model_version_tag(name, number, key, value)
                    if description:
                        client.update_model_version(name, number, _cut(description))
                    return self._read(client, name, version.version)
            if isinstance(model, Path):
                held = client.get_logged_model(self._log(client, name, model, words, run))
            if not self._known(client, name):
                client.create_registered_model(name)
            made = client.create_model_version(
                name, held.artifact_location, run_id=held.source_run_id, tags=words,
                description=_cut(description),
                # A server wants it to allow the place; a plain database looks it up in another one.
                model_id=held.model_id if self._uri.startswith("http") else None,
            )  # fmt: skip
            return self._read(client, name, int(made.version))

    def versions(self, name: str) -> list[ModelVersion]:
        """Return every version of a model, newest first, without its aliases."""
        _check("name", name)
        path = self._file()
        if path and not path.exists():  # nothing was ever written there
            return []
        with self._mlflow() as client:
            return self._versions(client, name)

    def alias(self, name: str, alias: str) -> ModelVersion | None:
        """Return the version that an alias points to; None where there is none."""
        _check("name", name)
        _check("alias", alias)
        with self._mlflow() as client:
            model = self._known(client, name)
            number = dict(model.aliases).get(alias) if model else None
            return self._read(client, name, int(number)) if number else None

    def move(
        self, name: str, alias: str, version: int, tags: Mapping[str, str] | None = None
    ) -> None:
        """Point an alias to a version; write ``tags`` to the version, why it was moved.

        Raises:
            UnknownModel: There is no such version.
        """
        found = self.resolve(f"{name}/{version}")
        _check("alias", alias)
        with self._mlflow() as client:
            for key, value in (tags or {}).items():
                client.set_model_version_tag(name, str(found.version), key, value)
            client.set_registered_model_alias(name, alias, str(found.version))

    def resolve(self, reference: str) -> ModelVersion:
        """Return what ``NAME@alias``, ``NAME/3`` or ``NAME`` (its newest version) means.

        Raises:
            UnknownModel: There is no such model, alias or version.
            BadValue: The reference has another form.
            UnreachableRegistry: MLflow cannot be used.
        """
        name, mark, rest = _split(reference)
        with self._mlflow() as client:
            model = self._known(client, name)
            if model is None:
                every = tuple(held.name for held in client.search_registered_models())
                raise UnknownModel(reference, self.uri, every)
            numbers = [version.version for version in self._versions(client, name)]
            aliases = {alias: int(number) for alias, number in dict(model.aliases).items()}
            wanted = {"@": aliases.get(rest), "/": int(rest) if mark == "/" else None}
            number = wanted[mark] if mark else max(numbers, default=None)
            if number not in numbers:
                known = [f"{name}@{alias}" for alias in aliases] + [f"{name}/{n}" for n in numbers]
                raise UnknownModel(reference, self.uri, tuple(known))
            return self._read(client, name, number)

    def download(self, version: ModelVersion, folder: Path) -> Path:
        """Fetch a version's files into ``folder`` once; check each against its SHA-256, always.

        Returns:
            ``folder/<name>/<version>-<manifest>``, whole.

        Raises:
            BadWeights: A file is not the one that was released.
            UnreachableRegistry: The files cannot be fetched.
        """
        target = folder / version.name / f"{version.version}-{version.manifest}"
        if not target.exists():
            beside = target.with_name(f"{target.name}.{os.getpid()}.part")
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            try:
                fetched = self._fetch(version, beside)
                check(fetched, version, "Fetch it again; if it persists, release the export again.")
                try:
                    fetched.rename(target)
                except OSError:  # another process was first
                    if not target.exists():
                        raise
            finally:
                shutil.rmtree(beside, ignore_errors=True)
        else:
            check(target, version, f"Delete {target}, and it is fetched again.")
        return target

    @contextmanager
    def _mlflow(self, *, make: bool = False) -> Iterator[Any]:
        """Yield a client; turn its failures into one sentence."""
        path = self._file()
        if path and not make and not path.exists():
            raise UnreachableRegistry(self.uri, "there is no such file")
        try:
            self._held = self._held or connect(self._uri)
            yield self._held
        except (BadInput, KeyboardInterrupt):
            raise
        except Exception as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise UnreachableRegistry(self.uri, without_secrets(said)) from error

    def _file(self) -> Path | None:
        """Return the database, if it is a file; asking MLflow would make an empty one."""
        path = self._uri.removeprefix("sqlite:///")
        return Path(path) if path != self._uri else None

    def _known(self, client: Any, name: str) -> Any | None:  # noqa: ANN401 - mlflow is not typed
        found = client.search_registered_models(f"name = '{name}'")
        return next(iter(found), None)

    def _versions(self, client: Any, name: str) -> list[ModelVersion]:  # noqa: ANN401
        found = client.search_model_versions(f"name = '{name}'")
        every = [version_of(held, ()) for held in found]
        return sorted(every, key=lambda version: -version.version)

    def _read(self, client: Any, name: str, version: int) -> ModelVersion:  # noqa: ANN401
        model = self._known(client, name)
        numbers = dict(model.aliases).items() if model else ()
        aliases = tuple(sorted(alias for alias, number in numbers if int(number) == version))
        return version_of(client.get_model_version(name, str(version)), aliases)

    def _log(
        self,
        client: Any,  # noqa: ANN401
        name: str,
        folder: Path,
        tags: Mapping[str, str],
        run: str,
    ) -> str:
        """Upload an export beside its training run, where that is known there."""
        trained = client.get_experiment_by_name("train") if run else None
        found = find_run(client, trained.experiment_id, run) if trained else None
        home = (
            found.info.experiment_id
            if found
            else experiment(client, self._uri, EXPERIMENT, self._artifacts)
        )
        run_id = found.info.run_id if found else None
        return log_model(client, home, name, folder, run_id=run_id, params={}, tags=tags)

    def _fetch(self, version: ModelVersion, folder: Path) -> Path:
        """Download a version below ``folder``; return where it lies there."""
        from mlflow.artifacts import download_artifacts

        with self._mlflow():
            return Path(
                download_artifacts(version.source, dst_path=str(folder), tracking_uri=self._uri)
            )


def _split(reference: str) -> tuple[str, str, str]:
    """Take a reference apart into name, ``@``, ``/`` or nothing, and what follows."""
    found = re.fullmatch(r"([^@/]+)(?:([@/])([^@/]+))?", reference)
    name, mark, rest = (found[1], found[2] or "", found[3] or "") if found else ("", "", "")
    if not _NAME.fullmatch(name) or (mark == "/" and not re.fullmatch(r"[1-9]\d{0,8}", rest)):
        raise BadValue("model", reference, "give NAME@ALIAS, NAME/3 or NAME.")
    return name, mark, rest


def _check(what: str, name: str) -> None:
    """Refuse names that could be taken for a path, an address or a reserved word."""
    reserved = what == "alias" and re.fullmatch(r"latest|v\d+", name, re.IGNORECASE)
    if not _NAME.fullmatch(name) or reserved:
        raise BadValue(what, name, "use letters, digits, _ and -, such as `faceid` or `champion`.")


def _cut(description: str) -> str:
    """Keep within the registry's limit, and say where the rest is."""
    if len(description) <= _DESCRIPTION_LENGTH:
        return description
    rest = "\n\n... (the whole card is the version's README.md)"
    return description[: _DESCRIPTION_LENGTH - len(rest)] + rest
