"""How pictures say where they are from: part of every deployment's recipe."""

import re
from dataclasses import dataclass
from typing import Literal

from infra.errors import BadValue

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProvenanceSettings:
    """Who signs pictures, and what marks their pixels."""

    credentials: bool = True
    """Sign every picture and video that leaves (C2PA)."""
    chain: str = ""
    """File of certificates as PEM, the signer's own first; empty: a test root that this machine
    makes, and that nobody else believes."""
    key: str = ""
    """File of the chain's private key as PEM."""
    signer: str = ""
    """Instead of `key`: `module:function` that signs bytes, such as a key service's client."""
    trust: tuple[str, ...] = ()
    """Files of further roots that are believed when credentials are read."""
    watermark: Literal["spread", "torchscript", "none"] = "spread"
    """What marks pixels. `spread` is ours, and weak; `torchscript` is VideoSeal or PixelSeal."""
    weights: str = ""
    """torchscript: `file:<path>` of an export. It is code: only load one that you trust."""
    weights_sha256: str = ""
    """Its SHA-256, 64 hexadecimal digits."""
    home: str = "~/.cache/visage/provenance"
    """Folder where the test root and the secret of the marks are made on first use. Gateways on
    several machines need the same ones: put them on a filesystem that they share."""

    def __post_init__(self) -> None:
        if self.chain and bool(self.key) == bool(self.signer):
            cure = "name the chain's key file, or a signer that holds the key; not both."
            raise BadValue("provenance.key", self.key, cure)
        if not self.chain and (self.key or self.signer):
            raise BadValue("provenance.chain", "", "name the certificates beside the key.")
        if self.watermark != "torchscript":
            return
        if not self.weights.startswith("file:"):
            raise BadValue("provenance.weights", self.weights, "name an export as file:<path>.")
        if not _SHA256.fullmatch(self.weights_sha256):
            cure = "TorchScript is code: name the 64 digits of the file that you trust."
            raise BadValue("provenance.weights_sha256", self.weights_sha256, cure)
