"""What becomes of a picture on its way out, and what is asked of one that comes in."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from c2pa import C2paError
from sqlalchemy import Engine

from serving.errors import Refusal
from serving.provenance.certificates import identity_of, local_identity, mark_secret
from serving.provenance.credentials import Credential, Credentials, Made
from serving.provenance.fingerprints import Fingerprints, Issued
from serving.provenance.settings import ProvenanceSettings
from serving.provenance.verdicts import Code, judge
from serving.provenance.watermark import PAYLOAD_BITS, Reading, Watermark, load_watermark
from serving.types import RGB
from serving.uploads import OutputFormat, encode, picture, sniff

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What a picture says of itself, all told."""

    credential: Credential
    reading: Reading
    markable: bool
    """Whether the picture is large enough to carry a mark."""
    verdict: Code

    @property
    def mark(self) -> str:
        """The mark that was read, as hexadecimal digits; empty: none."""
        return _shown(self.reading.payload)


class Provenance:
    """Signs and marks what leaves a deployment. Safe to use from many threads.

    Blocking: call it from threads.
    """

    def __init__(self, settings: ProvenanceSettings, records: Engine) -> None:
        """Load keys and marks.

        Args:
            settings: Who signs, and what marks.
            records: The database that remembers whom marks were issued for.

        Raises:
            BadValue: A file cannot be read or written, or is not what its setting needs.
            BadWeights: The watermark's weights are not what was named.
        """
        home = Path(settings.home).expanduser()
        if settings.chain:
            identity = identity_of(
                settings.chain, key=settings.key, signer=settings.signer, trust=settings.trust
            )
        else:
            identity = local_identity(home)
        self._credentials = Credentials(identity)
        self._signs = settings.credentials
        secret = b"" if settings.watermark == "none" else mark_secret(home)
        self.watermark: Watermark | None = load_watermark(settings, secret)
        self._fingerprints = Fingerprints(records)

    @property
    def signer(self) -> Literal["own", "test", ""]:
        """Say who signs: ``test``, ``own``, or empty if nobody does."""
        if not self._signs:
            return ""
        return "test" if self._credentials.is_test else "own"

    def stamp(self, key_id: str, made: Made, width_px: int, height_px: int) -> "Stamp":
        """Get ready for the pictures of one request, all of one size."""
        payload = None
        if self.watermark and min(width_px, height_px) >= self.watermark.least_px:
            payload = self._fingerprints.issue(key_id, made.request_id)
            method = self.watermark.method
            made = replace(made, watermark=_shown(payload), watermark_method=method)
        return Stamp(self, made, payload)

    def sign(self, blob: bytes, mime: str, made: Made, parent: bytes | None = None) -> bytes:
        """Sign a file, a video's too; unchanged where nobody signs.

        Raises:
            Refusal: ``signer_unavailable``.
        """
        with _refused():
            return self._credentials.sign(blob, mime, made, parent) if self._signs else blob

    def sign_anonymised(self, blob: bytes, mime: str, made: Made) -> bytes:
        """Sign a photograph in which people were made unrecognisable; else as ``sign``."""
        with _refused():
            return self._credentials.sign_anonymised(blob, mime, made) if self._signs else blob

    def sign_file(self, source: Path, target: Path, made: Made) -> None:
        """Sign a video that may not fit into memory; unchanged it moves where nobody signs.

        Raises:
            Refusal: ``signer_unavailable``; ``source`` is left as it was.
        """
        if not self._signs:
            source.replace(target)
            return
        with _refused():
            self._credentials.sign_file(source, target, made)
        source.unlink()

    def inspect(self, blob: bytes, max_pixels: int) -> Findings:
        """Say where a picture is from.

        Raises:
            Refusal: It is none; see ``serving.uploads.picture``.
        """
        pixels = picture(blob, max_pixels)
        credential = self._credentials.read(blob, f"image/{sniff(blob).lower()}")
        reading, markable = Reading(payload=None, confidence_sigma=0.0), False
        if self.watermark:
            markable = min(pixels.shape[:2]) >= self.watermark.least_px
            reading = self.watermark.read(pixels)
        named = credential.made.watermark_method if credential.made else ""
        readable = markable and self.watermark is not None and named == self.watermark.method
        verdict = judge(credential, _shown(reading.payload), markable=readable)
        return Findings(
            credential=credential,
            reading=reading,
            markable=markable,
            verdict=verdict,
        )

    def issued(self, reading: Reading) -> Issued | None:
        """Say whom a mark was issued for; None: there is none, or the records do not know."""
        return None if reading.payload is None else self._fingerprints.find(reading.payload)


class Stamp:
    """What the pictures of one request are given."""

    def __init__(self, provenance: Provenance, made: Made, payload: int | None) -> None:
        self._provenance, self.made, self._payload = provenance, made, payload

    def finish(
        self,
        drawn: RGB,
        output: OutputFormat,
        quality: int | None = None,
        parent: bytes | None = None,
        model: str = "",
    ) -> bytes:
        """Return a picture as the file that leaves: marked, encoded, signed.

        Args:
            drawn: The pixels.
            output: The file's format.
            quality: 0 to 100, of JPEG and WebP; None: 95.
            parent: The uploaded file that it was made from, if any.
            model: What drew it, if that is another than was expected.

        Raises:
            Refusal: ``signer_unavailable``.
        """
        blob = encode(self.mark(drawn), output, quality)
        made = replace(self.made, model=model) if model else self.made
        return self._provenance.sign(blob, f"image/{output}", made, parent)

    def mark(self, drawn: RGB) -> RGB:
        """Return a picture, or a frame of a video, with the request's mark in its pixels."""
        mark = self._provenance.watermark
        return drawn if mark is None or self._payload is None else mark.embed(drawn, self._payload)


@contextmanager
def _refused() -> Iterator[None]:
    """Say as a refusal that signing failed: a key service is away, or took too long."""
    try:
        yield
    except C2paError as error:
        logger.error("signing failed: %s", error)  # noqa: TRY400
        words = "Pictures cannot be signed now, and none leaves without; ask again."
        raise Refusal("signer_unavailable", words, retry_after_s=5) from None


def _shown(payload: int | None) -> str:
    return "" if payload is None else f"{payload:0{PAYLOAD_BITS // 4}x}"
