"""Who signs: a test root of this machine's own, a key by file, or a service that holds the key.

The test root is made on first use. It proves that a picture came from here and was not altered
since, to whoever has its certificate, and nothing to anybody else: no public list names it, and
its names say so. Its own key is thrown away once it has signed one certificate.
"""

import datetime
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.errors import BadValue

HOME = "~/.cache/visage/provenance"
"""Where what is made on first use is kept."""
TEST_ORGANIZATION = "Visage test root: nobody vouches for it"
C2PA_SIGNING = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
"""The key purpose that C2PA 2.2 gives to who signs claims; readers before it want e-mail's."""
_YEARS_VALID = 10
_SECRET_BYTES = 32

Algorithm = Literal["es256", "es384", "ps256", "ed25519"]
Sign = Callable[[bytes], bytes]
"""Signs bytes as its certificate's algorithm does; of elliptic curves r and s side by side, not
DER. A key service's client behind such a function keeps the key where it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """In whose name pictures are signed."""

    algorithm: Algorithm
    chain: bytes
    """Certificates as PEM, the signer's own first."""
    key: bytes = b""
    """The private key as PEM; empty: ``sign`` knows it."""
    sign: Sign | None = None
    anchors: bytes
    """Roots as PEM that are believed when credentials are read."""
    is_test: bool = False
    """Whether nobody but this machine believes it."""

    def __repr__(self) -> str:
        return f"Identity({self.algorithm}, is_test={self.is_test})"  # never the key


def local_identity(home: Path) -> Identity:
    """Return the test identity that is kept in a folder; the first to ask makes it.

    Raises:
        BadValue: The folder cannot be written, or its certificate is out of date.
    """
    folder = _made_once(home / "test-root", _write_test_root)
    chain, key = (folder / "chain.pem").read_bytes(), (folder / "key.pem").read_bytes()
    algorithm = _checked(chain, key, str(folder))
    root = (folder / "root.pem").read_bytes()
    return Identity(algorithm=algorithm, chain=chain, key=key, anchors=root, is_test=True)


def identity_of(
    chain: str, *, key: str = "", signer: str = "", trust: tuple[str, ...] = ()
) -> Identity:
    """Return an identity of files, or of a service.

    Args:
        chain: File of certificates as PEM, the signer's own first.
        key: File of the private key as PEM, not encrypted; or else
        signer: ``module:function`` of a ``Sign``.
        trust: Files of further roots that are believed; the chain's last certificate always is.

    Raises:
        BadValue: A file cannot be read, they do not belong together, or the chain is out of date.
    """
    if bool(key) == bool(signer):
        raise BadValue(
            "provenance.key", key, "name a key file or a signer beside the chain, not both."
        )
    certificates = _read("provenance.chain", chain)
    secret = _read("provenance.key", key) if key else b""
    algorithm = _checked(certificates, secret, chain)
    last = x509.load_pem_x509_certificates(certificates)[-1].public_bytes(Encoding.PEM)
    others = [_read("provenance.trust", path) for path in trust]
    for path, pem in zip(trust, others, strict=True):
        _certificates(pem, path, "provenance.trust")
    return Identity(
        algorithm=algorithm,
        chain=certificates,
        key=secret,
        sign=_imported(signer) if signer else None,
        anchors=b"\n".join([last, *others]),
    )


def mark_secret(home: Path) -> bytes:
    """Return the secret that the marks of a folder are made of; the first to ask makes it.

    Raises:
        BadValue: The folder cannot be written.
    """

    def write(folder: Path) -> None:
        _private(folder / "secret", secrets.token_bytes(_SECRET_BYTES))

    return (_made_once(home / "watermark", write) / "secret").read_bytes()


def _made_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """Fill a folder beside its place, then move it there; who is second takes the first's."""
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            write(beside)
            beside.rename(folder)
        except OSError:
            shutil.rmtree(beside, ignore_errors=True)
            if not folder.is_dir():
                raise
    except OSError as error:
        raise BadValue("provenance.home", str(folder.parent), f"not writable ({error}).") from None
    return folder


def _write_test_root(folder: Path) -> None:
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate("root", root_key, None, None)
    leaf = _certificate("signer", key, root, root_key)
    _private(
        folder / "key.pem",
        key.private_bytes(
            Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    (folder / "chain.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    (folder / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey | None,
) -> x509.Certificate:
    """Make a root of its own, or a certificate that may sign claims; C2PA 2.2, section 14.5."""
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, TEST_ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Visage test {name}"),
        ]
    )
    signing, by = issuer_key or key, issuer.subject if issuer else subject
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * _YEARS_VALID))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=issuer is None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False
        )
    )
    if issuer is not None:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION, C2PA_SIGNING])
        made = made.add_extension(purposes, critical=False)
    return made.sign(signing, hashes.SHA256())


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates,
        crl_sign=signs_certificates, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _private(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _read(setting: str, path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise BadValue(setting, path, f"it cannot be read ({error.strerror}).") from None


def _certificates(pem: bytes, where: str, setting: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise BadValue(setting, where, "it holds no certificate as PEM.") from None


def _checked(chain: bytes, key: bytes, where: str) -> Algorithm:
    """Return how the holder of a certificate signs, once key and dates are seen to fit."""
    own = _certificates(chain, where, "provenance.chain")[0]
    if own.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        cure = f"its certificate ended on {own.not_valid_after_utc:%Y-%m-%d}; get a new one."
        raise BadValue("provenance.chain", where, cure)
    public = own.public_key()
    if key:
        try:
            held = load_pem_private_key(key, None).public_key()
        except (ValueError, TypeError, UnsupportedAlgorithm):
            cure = "it holds no private key as PEM, or an encrypted one."
            raise BadValue("provenance.key", where, cure) from None
        if held != public:
            raise BadValue("provenance.key", where, "it is not the key of the chain's first.")
    match public:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            return "es256"
        case ec.EllipticCurvePublicKey(curve=ec.SECP384R1()):
            return "es384"
        case rsa.RSAPublicKey():
            return "ps256"
        case ed25519.Ed25519PublicKey():
            return "ed25519"
    cure = "its key is of no kind that C2PA signs with: P-256, P-384, RSA or Ed25519."
    raise BadValue("provenance.chain", where, cure)


def _imported(path: str) -> Sign:
    module, _, name = path.partition(":")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        cure = f"give module:function of something that signs bytes ({error})."
        raise BadValue("provenance.signer", path, cure) from None
    if not callable(function):
        raise BadValue("provenance.signer", path, "it is no function.")
    sign: Sign = function
    return sign
