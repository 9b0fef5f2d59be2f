"""Which weights a request's name means: exports on this machine, checked, and held on the device.

MLflow is asked when a name is first met and from time to time afterwards. So an alias that moves is
followed without a restart, and a registry that goes down later is not missed.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

from infra.configuration import digest
from infra.errors import BadWeights, VisageError
from infra.registry import SHA256_TAG, Registry, manifest
from infra.released import ModelVersion
from serving.errors import Refusal
from serving.recipes import ServeRecipe
from training.exports import Export, read_export
from training.features import EMPTY_FILE, Features
from training.nets.codec import CODEC_FILE
from training.settings import TrainRecipe

Kept = TypeVar("Kept")

logger = logging.getLogger(__name__)

CACHE = Path("~/.cache/visage/models")
FOLLOW_S = 15.0
"""How old the answer to "which version is this alias?" may become."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained model on this machine, whose files are known by their hashes."""

    name: str
    """``NAME/version``, or the ``file:`` reference it was given by."""
    folder: Path
    files: Mapping[str, str]
    """SHA-256 by path within the folder."""
    recipe: TrainRecipe
    features: Features
    signature: str
    """Equal for exports whose weights fit one network: same base, method and features."""
    labels: dict[str, str]
    """What the registry knows: corpus and recipe digests, licences, scores."""

    @cached_property
    def key(self) -> Hashable:
        """What tells its weights from all others."""
        return self.name, digest(dict(self.files))

    @property
    def takes_text(self) -> bool:
        """Whether it was trained with prompts, by an encoder that is known."""
        return self.recipe.method.takes_text and bool(self.features.text_encoder)

    @property
    def takes_identity(self) -> bool:
        """Whether it draws whom a reference shows, not whom it learnt or nobody in particular."""
        method = self.recipe.method
        return not method.per_subject and method.condition == "identity"

    @property
    def fixed_size(self) -> bool:
        """Whether it was trained from nothing, on pictures of one size."""
        return self.recipe.method.kind == "base"

    def check(self) -> None:
        """Hash the files again.

        Raises:
            BadWeights: One is not what it was when it was released, or first read.
        """
        found = manifest(self.folder)
        for name in sorted(found.keys() | self.files.keys()):
            if found.get(name) != self.files.get(name):
                why = f"is not the one that {self.name} is made of: its SHA-256 differs"
                cure = "Release it again, and serve that version."
                raise BadWeights(str(self.folder / name), why, cure)


@dataclass
class _Known:
    model: Model
    asked: float
    """When the registry was last asked for it; monotonic seconds."""


class Shelf:
    """The exports that requests may name, fetched when they are first asked for."""

    def __init__(
        self, recipe: ServeRecipe, cache: Path | None = None, follow_s: float = FOLLOW_S
    ) -> None:
        """Fetch nothing yet.

        Args:
            recipe: Names the registry, the served model and the adapters beside it.
            cache: Where downloads are kept; default ``CACHE``.
            follow_s: Seconds after which the registry is asked again, behind the requests' back.
        """
        self._recipe, self._follow_s = recipe, follow_s
        self._cache = (cache or CACHE).expanduser()
        self._known: dict[str, _Known] = {}
        self._fetching = threading.Lock()
        self._follower = ThreadPoolExecutor(1, thread_name_prefix="follow")
        self._registry: Registry | None = None

    def known(self, adapter: str) -> Model | None:
        """Return what a name means if that needs no waiting; look for news in the background.

        Raises:
            Refusal: ``unknown_model``: not a name that this deployment serves.
        """
        reference = self._allowed(adapter)
        known = self._known.get(reference)
        if known is None:
            return None
        fixed = reference.startswith("file:") or "/" in reference
        if not fixed and time.monotonic() - known.asked > self._follow_s:
            known.asked = time.monotonic()
            self._follower.submit(self._follow, reference)
        return known.model

    def resolve(self, adapter: str) -> Model:
        """Return what a name means, fetching it if need be; may take as long as a download.

        Args:
            adapter: A registry name, or empty for the served model.

        Raises:
            Refusal: ``unknown_model``: not a name that this deployment serves.
            UnknownModel: The registry does not have it.
            BadInput: The registry cannot be reached, or the files are not what was released.
        """
        reference = self._allowed(adapter)
        with self._fetching:
            if reference not in self._known:
                self._known[reference] = _Known(self._fetch(reference), time.monotonic())
            return self._known[reference].model

    def put(self, version: ModelVersion) -> Model:
        """Fetch a version that somebody else looked up; what is here already needs no registry.

        Raises:
            BadInput: The files cannot be fetched, or are not what was released.
        """
        with self._fetching:
            model = self._downloaded(version)
            self._known[version.reference] = _Known(model, time.monotonic())
        return model

    def serve(self, reference: str) -> None:
        """Let another reference be the served model."""
        self._recipe = replace(self._recipe, model=reference)

    def close(self) -> None:
        """Look for no more news."""
        self._follower.shutdown(wait=False, cancel_futures=True)

    def _allowed(self, adapter: str) -> str:
        """Return the reference that a request may mean.

        An operator may list files; a client can only repeat what is listed, or name another alias
        or version of a listed registry name.
        """
        if not adapter:
            return self._recipe.model
        listed = (self._recipe.model, *self._recipe.adapters)
        names = {_name(reference) for reference in listed if not reference.startswith("file:")}
        if adapter not in listed and _name(adapter) not in names:
            raise unknown(adapter)
        return adapter

    def _follow(self, reference: str) -> None:
        try:
            model = self._fetch(reference)
        except VisageError as error:
            logger.warning("%s stays as it is: %s", reference, error)
            return
        known = self._known[reference]
        if model.key != known.model.key:
            logger.info("%s is now %s, was %s", reference, model.name, known.model.name)
            known.model = model

    def _fetch(self, reference: str) -> Model:
        if reference.startswith("file:"):
            folder = Path(reference.removeprefix("file:")).expanduser()
            if not folder.is_dir():
                raise BadWeights(str(folder), "does not exist", "Name the folder of an export.")
            return _read(reference, folder, manifest(folder), {})
        version = self._asked().resolve(reference)
        for known in list(self._known.values()):
            if known.model.name == version.reference and known.model.files == version.files:
                return known.model
        return self._downloaded(version)

    def _downloaded(self, version: ModelVersion) -> Model:
        folder = self._asked().download(version, self._cache)
        labels = {k: v for k, v in version.tags.items() if not k.startswith(SHA256_TAG)}
        return _read(version.reference, folder, version.files, labels)

    def _asked(self) -> Registry:
        if self._registry is None:
            self._registry = Registry(self._recipe.registry or self._recipe.store)
        return self._registry


class Held(Generic[Kept]):
    """What is kept on the device, those used least recently out first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> Kept | None:
        """Return what is kept under a key, if it still is."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Hashable, value: Kept) -> None:
        """Keep something, and let go of what is one too many."""
        with self._lock:
            self._kept[key] = value
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)


def _read(name: str, folder: Path, files: Mapping[str, str], labels: dict[str, str]) -> Model:
    export = read_export(folder)
    return Model(
        name=name,
        folder=folder,
        files=files,
        recipe=export.recipe,
        features=export.features,
        signature=_signature(export, files),
        labels=labels,
    )


def _signature(export: Export, files: Mapping[str, str]) -> str:
    """Return what exports must have in common for their weights to fit one network."""
    recipe, contract = export.recipe, asdict(export.features)
    del contract["corpus"], contract["pairs"]
    if recipe.method.identity_norm != "standard":
        del contract["identity_mean"], contract["identity_std"]
    beside = {name: files.get(name) for name in (CODEC_FILE, EMPTY_FILE)}
    return digest(export.base, recipe.base, recipe.method, contract, beside)


def _name(reference: str) -> str:
    return reference.partition("@")[0].partition("/")[0]


def unknown(adapter: str) -> Refusal:
    """Refuse a name; the same words whether it is not served or not there."""
    return Refusal("unknown_model", f"No model {adapter!r} is served here; see /v1/models.")
