"""Content credentials: what a file says of itself, signed, by the C2PA standard.

A credential binds to the very bytes of a file. Whoever saves the picture anew loses it, and the
mark in the pixels is what remains; see ``serving/provenance/watermark.py``.

Nothing is fetched while a credential is read: a file could name any address as its manifest's.

References:
    C2PA specification 2.2, https://spec.c2pa.org; the IPTC's digital source types,
    https://cv.iptc.org/newscodes/digitalsourcetype.
"""

import logging
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from c2pa import (
    Builder,
    C2paBuilderIntent,
    C2paError,
    C2paSignerInfo,
    C2paSigningAlg,
    Context,
    Reader,
    Signer,
)

from serving.provenance.certificates import Identity
from serving.uploads import sniff

logger = logging.getLogger(__name__)

DRAWN = "visage.drawn"
"""The assertion with what is ours to say. No domain is ours, so it is no reversed one. The mark is
named here, not by the action ``c2pa.watermarked``: that wants a soft binding by one of the methods
on C2PA's list, and none of ours is on it."""
_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MADE_BY_A_MODEL = f"{_SOURCE_TYPE}trainedAlgorithmicMedia"
MADE_FROM_A_PICTURE = f"{_SOURCE_TYPE}compositeWithTrainedAlgorithmicMedia"
UNTRUSTED = "signingCredential.untrusted"
"""C2PA's code for a signer whose root is not believed."""
_PARENT = {"title": "uploaded picture", "relationship": "parentOf"}
_ALTERED = ("assertion.dataHash.mismatch", "assertion.bmffHash.mismatch")

State = Literal["absent", "trusted", "unknown_signer", "altered", "forged"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What a credential says of a picture or a video."""

    model: str
    """NAME/version of what drew it."""
    adapter: str = ""
    """The reference that the request named; empty: none."""
    recipe: str = ""
    """Digest of the recipe that the model was trained by, as its registry has it."""
    request_id: str = ""
    watermark: str = ""
    """What the pixels carry, as hexadecimal digits; empty: nothing."""
    watermark_method: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Credential:
    """What was found in a file.

    ``trusted``: whole, by a signer whose root is believed here. ``unknown_signer``: whole, by
    somebody else. ``altered``: the signature holds, but the content is not what was signed.
    ``forged``: the signature or what it covers does not hold, or cannot even be read.
    """

    state: State
    signed_by: str = ""
    """The signer's name as its certificate has it; a claim, unless ``trusted``."""
    made: Made | None = None
    """What it says, if it speaks as ours do; a claim, unless ``trusted``."""
    problems: tuple[str, ...] = field(default=())
    """C2PA's codes of what does not hold."""


class Credentials:
    """Signs and reads. Safe to use from many threads."""

    def __init__(self, identity: Identity) -> None:
        """Get ready to sign in a name."""
        self.is_test = identity.is_test
        algorithm = getattr(C2paSigningAlg, identity.algorithm.upper())
        if identity.sign:
            chain = identity.chain.decode()
            self._signer = Signer.from_callback(identity.sign, algorithm, chain)
        else:
            info = C2paSignerInfo(algorithm, identity.chain, identity.key, None)
            self._signer = Signer.from_info(info)
        self._context = Context.from_dict(
            {
                "builder": {"thumbnail": {"enabled": False}},  # 200 ms and 2 MB per picture
                "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
                "trust": {"trust_anchors": identity.anchors.decode()},
            }
        )

    def sign(self, blob: bytes, mime: str, made: Made, parent: bytes | None = None) -> bytes:
        """Return a file with its credential in it.

        Args:
            blob: A whole file: PNG, JPEG, WebP or MP4.
            mime: Its media type.
            made: What is said of it.
            parent: The file that it was made from, with whatever credential that carries; its
                pixels are not kept. None: it was made from nothing.

        Raises:
            C2paError: The signer refuses, or the file is none of ``mime``.
        """
        if parent is None:
            return self._written(self._created(made), blob, mime)
        try:
            builder = self._edit(made, MADE_FROM_A_PICTURE, named=False)
            builder.add_ingredient(_PARENT, f"image/{sniff(parent).lower()}", BytesIO(parent))
            return self._written(builder, blob, mime)
        except C2paError as error:
            # Its credential is damaged so much that it cannot be quoted: it is only named.
            logger.warning("an uploaded picture's credential cannot be read: %s", error)
            return self._written(self._edit(made, MADE_FROM_A_PICTURE, named=True), blob, mime)

    def sign_anonymised(self, blob: bytes, mime: str, made: Made) -> bytes:
        """Sign an uploaded photograph in which people were made unrecognisable.

        The photograph is named and not quoted: a credential of its own may hold a thumbnail of it.

        Raises:
            C2paError: As ``sign``.
        """
        return self._written(self._edit(made, "", named=True), blob, mime)

    def sign_file(self, source: Path, target: Path, made: Made, mime: str = "video/mp4") -> None:
        """Write a file with its credential in it: beside its place first, then there, whole.

        Raises:
            C2paError: The signer refuses, or the file is none of ``mime``.
        """
        beside = target.with_name(f".{target.name}.unsigned")
        try:
            with source.open("rb") as unsigned, beside.open("w+b") as signed:
                self._created(made).sign(self._signer, mime, unsigned, signed)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)

    def read(self, blob: bytes, mime: str) -> Credential:
        """Say what credential a file carries, and whether it holds."""
        try:
            with Reader(mime, BytesIO(blob), context=self._context) as reader:
                return _credential(reader)
        except C2paError.ManifestNotFound:
            return Credential(state="absent")
        except (C2paError, KeyError, TypeError, ValueError) as error:
            # The file is a picture, that was seen before: what cannot be read is the credential,
            # of which the reader's Python side expects more than its other half has found.
            return Credential(state="forged", problems=(str(error).partition(":")[0],))

    def _written(self, builder: Builder, blob: bytes, mime: str) -> bytes:
        out = BytesIO()
        builder.sign(self._signer, mime, BytesIO(blob), out)
        return out.getvalue()

    def _created(self, made: Made) -> Builder:
        return Builder(_manifest(made, "c2pa.created", MADE_BY_A_MODEL), self._context)

    def _edit(self, made: Made, source_type: str, *, named: bool) -> Builder:
        manifest = _manifest(made, "c2pa.edited", source_type)
        if named:
            manifest["ingredients"] = [_PARENT]
        builder = Builder(manifest, self._context)
        builder.set_intent(C2paBuilderIntent.EDIT)  # writes c2pa.opened of the ingredient
        return builder


def _manifest(made: Made, action: str, source_type: str) -> dict[str, Any]:
    agent = {"name": "Visage", "version": version("visage")}
    did: dict[str, Any] = {"action": action, "softwareAgent": agent}
    if source_type:
        did["digitalSourceType"] = source_type
    return {
        "claim_generator_info": [agent],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [did]}},
            {"label": DRAWN, "data": asdict(made)},
        ],
    }


def _credential(reader: Reader) -> Credential:
    manifest = reader.get_active_manifest() or {}
    found = (reader.get_validation_results() or {}).get("activeManifest", {})
    problems = tuple(dict.fromkeys(str(one["code"]) for one in found.get("failure", ())))
    serious = [code for code in problems if code != UNTRUSTED]
    signature = manifest.get("signature_info") or {}
    names = (signature.get("common_name"), signature.get("issuer"))
    state: State = "trusted" if reader.get_validation_state() == "Trusted" else "unknown_signer"
    if serious:
        state = "altered" if set(serious) <= set(_ALTERED) else "forged"
    return Credential(
        state=state,
        signed_by=", ".join(str(name) for name in names if name),
        made=_made(manifest),
        problems=problems,
    )


def _made(manifest: dict[str, Any]) -> Made | None:
    """Read what a credential says as ours do; whatever else it may hold there is left alone."""
    for assertion in manifest.get("assertions", ()):
        data = assertion.get("data")
        if assertion.get("label") == DRAWN and isinstance(data, dict):
            said = {name: data.get(name, "") for name in Made.__slots__}
            if all(isinstance(value, str) and len(value) <= 512 for value in said.values()):
                return Made(**said)
    return None
