import datetime
import stat
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.errors import BadValue
from serving.provenance.certificates import identity_of, local_identity, mark_secret
from serving.provenance.credentials import Credentials, Made
from serving.provenance.settings import ProvenanceSettings
from serving.uploads import encode
from tests.stages.models.photos import astronaut

DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.UTC)
ROOT_KEY = ec.generate_private_key(ec.SECP256R1())
P256 = ec.generate_private_key(ec.SECP256R1())


def sign_elsewhere(data):
    """Stand for a key service: the key is known to this function only."""
    r, s = decode_dss_signature(P256.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


NO_FUNCTION = 3


def certificate(key, issuer_key=ROOT_KEY, *, ends=NOW + DAY, ca=False):
    name = lambda cn: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)])  # noqa: E731
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Studio")
    subject = x509.Name([*name("root" if ca else "signer"), organization])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([*name("root"), organization]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 3 * DAY)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(
            x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if not ca:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        made = made.add_extension(purposes, critical=False)
    return made.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def files(folder, key, **how):
    chain, path = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(certificate(key, **how) + certificate(ROOT_KEY, ca=True))
    path.write_bytes(pem(key))
    return str(chain), str(path)


def pem(key):
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def test_the_test_root_is_made_once_and_closed_to_others(tmp_path):
    first, second = local_identity(tmp_path / "p"), local_identity(tmp_path / "p")
    assert first == second
    assert first.is_test
    folder = tmp_path / "p" / "test-root"
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    issuer = x509.load_pem_x509_certificate(first.anchors).subject.rfc4514_string()
    assert "nobody vouches for it" in issuer
    assert "PRIVATE" not in repr(first)


def test_those_who_start_together_share_one_root_and_one_secret(tmp_path):
    found, together = [], threading.Barrier(6)

    def start():
        together.wait()
        found.append((local_identity(tmp_path).key, mark_secret(tmp_path)))

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 6
    assert len(set(found)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test-root", "watermark"]


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (P256, "es256"), (ec.generate_private_key(ec.SECP384R1()), "es384"),
        (rsa.generate_private_key(65537, 2048), "ps256"),
        (ed25519.Ed25519PrivateKey.generate(), "ed25519"),
    ],
)  # fmt: skip
def test_a_key_of_ones_own_signs_and_is_believed(tmp_path, key, algorithm):
    chain, path = files(tmp_path, key)
    identity = identity_of(chain, key=path)
    assert (identity.algorithm, identity.is_test) == (algorithm, False)
    credentials = Credentials(identity)
    blob = credentials.sign(encode(astronaut(), "webp"), "image/webp", Made(model="a/1"))
    found = credentials.read(blob, "image/webp")
    assert found.state == "trusted"
    assert found.signed_by == "signer, Studio"


def test_a_key_service_signs_without_giving_the_key_away(tmp_path):
    chain, path = files(tmp_path, P256)
    service = identity_of(chain, signer=f"{__name__}:sign_elsewhere")
    assert service.key == b""
    blob = Credentials(service).sign(encode(astronaut(), "png"), "image/png", Made(model="a/1"))
    assert Credentials(identity_of(chain, key=path)).read(blob, "image/png").state == "trusted"


def test_further_roots_are_believed_when_they_are_named(tmp_path):
    stranger = local_identity(tmp_path / "stranger")
    blob = Credentials(stranger).sign(encode(astronaut(), "png"), "image/png", Made(model="a/1"))
    chain, path = files(tmp_path, P256)
    alone = Credentials(identity_of(chain, key=path))
    assert alone.read(blob, "image/png").state == "unknown_signer"
    root = tmp_path / "stranger" / "test-root" / "root.pem"
    believing = Credentials(identity_of(chain, key=path, trust=(str(root),)))
    assert believing.read(blob, "image/png").state == "trusted"


def test_what_cannot_sign_is_refused_with_the_cure(tmp_path):
    chain, path = files(tmp_path, P256)
    (tmp_path / "no.pem").write_text("no")
    (tmp_path / "other.pem").write_bytes(pem(ROOT_KEY))
    no, other = str(tmp_path / "no.pem"), str(tmp_path / "other.pem")
    for arguments, words in (
        ({"chain": no, "key": path}, "no certificate as PEM"),
        ({"chain": chain, "key": no}, "no private key as PEM"),
        ({"chain": chain, "key": other}, "not the key of the chain's first"),
        ({"chain": chain, "key": "/no/such"}, "cannot be read"),
        ({"chain": chain, "signer": f"{__name__}:nothing"}, "module:function"),
        ({"chain": chain, "signer": "no.such:thing"}, "module:function"),
        ({"chain": chain, "signer": f"{__name__}:NO_FUNCTION"}, "no function"),
        ({"chain": chain}, "not both"),
        ({"chain": chain, "key": path, "trust": (no,)}, "no certificate as PEM"),
    ):
        with pytest.raises(BadValue, match=words):
            identity_of(**arguments)
    chain, path = files(tmp_path, P256, ends=NOW - DAY)
    with pytest.raises(BadValue, match="its certificate ended on"):
        identity_of(chain, key=path)
    weak = ec.generate_private_key(ec.SECP192R1())
    chain, path = files(tmp_path, weak)
    with pytest.raises(BadValue, match="no kind that C2PA signs with"):
        identity_of(chain, key=path)
    with pytest.raises(BadValue, match=r"provenance\.home"):
        local_identity(tmp_path / "no.pem" / "inside")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"chain": "a.pem"}, "not both"),
        ({"chain": "a.pem", "key": "k.pem", "signer": "a:b"}, "not both"),
        ({"key": "k.pem"}, "name the certificates"),
        ({"watermark": "torchscript"}, "file:<path>"),
        ({"watermark": "torchscript", "weights": "file:x"}, "TorchScript is code"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(BadValue, match=words):
        ProvenanceSettings(**settings)
