"""The identity loss with ArcFace, out of packs of the published networks' operators."""

from dataclasses import replace

import cv2
import pytest
import torch

from infra.errors import BadValue, BadWeights
from stages.landmarks import arcface5
from stages.models.backend import load_detector
from stages.models.insightface_faces import InsightEmbedder
from tests.stages.models.photos import astronaut, group
from tests.stages.models.tiny_packs import write_arcface, write_pack
from tests.training.conftest import write_features
from tests.training.many import Workers, apart, train
from tests.training.methods.adapters import FEATURES, batch, drawn, make
from training.features import Features
from training.identity import ArcFaceEncoder, IdentityLoss, differentiable_encoder
from training.recipes import tiny
from training.settings import (
    BaseModelSettings,
    DataSettings,
    DropSettings,
    LossSettings,
    MethodSettings,
    Scale,
)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return write_pack(tmp_path_factory.mktemp("packs") / "tiny", recogniser=write_arcface)


@pytest.fixture(scope="module")
def measured(pack):
    """What features say whose identities were measured with the pack."""
    tag = InsightEmbedder(pack).card.tag
    return replace(FEATURES, backend="insightface", embedder=tag)


@pytest.fixture(scope="module")
def loss(pack, measured):
    return IdentityLoss(differentiable_encoder(measured, pack))


def photographed(picture, faces):
    """Return a picture once per face, and the faces' landmarks."""
    points = load_detector("dlib", "", 1280, 0.0, "cpu").detect([picture])[0].landmarks_px
    points = arcface5(points[faces], "dlib5")
    rgb = torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255
    return rgb.expand(len(points), -1, -1, -1), torch.from_numpy(points)


def by_insightface(pack, pictures, points):
    """Return vectors as curation measures them."""
    embedder = InsightEmbedder(pack)
    rgb = (255 * pictures[0]).byte().permute(1, 2, 0).numpy()
    return torch.from_numpy(embedder.embed(embedder.align(rgb, points.numpy())))


def test_vectors_are_those_of_the_corpus_within_rounding(pack, loss):
    pictures, points = photographed(group(), slice(0, 4))
    theirs = by_insightface(pack, pictures, points)
    found = loss.vectors(pictures, points)
    assert ((found - theirs).norm(dim=1) / theirs.norm(dim=1)).max() < 0.01


def test_a_photograph_is_nearer_to_its_own_person_than_to_others(pack, loss):
    small = cv2.resize(astronaut(), None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
    own = by_insightface(pack, *photographed(astronaut(), slice(0, 1)))
    others = by_insightface(pack, *photographed(group(), slice(0, 4)))
    pictures, points = photographed(small, slice(0, 1))
    targets = torch.cat([own, others])
    found = loss(pictures.expand(5, -1, -1, -1), points.expand(5, -1, -1), targets)
    assert (found[1:] > 2 * found[0]).all()
    assert loss.same_person_at == InsightEmbedder.same_person_below
    torch.testing.assert_close(
        found,
        1 - torch.nn.functional.cosine_similarity(loss.vectors(pictures, points), targets),
    )


def test_the_gradient_of_the_loss_is_that_of_finite_differences(pack):
    encoder = ArcFaceEncoder(pack).double()
    rng = torch.Generator().manual_seed(0)
    target = torch.randn(1, 32, generator=rng, dtype=torch.float64)
    points = torch.tensor([[[8.0, 10], [16, 9], [12, 14], [9, 18], [15, 18]]]).double()

    def far(picture):
        return 1 - torch.nn.functional.cosine_similarity(encoder(picture, points), target)

    picture = torch.rand(1, 3, 24, 24, generator=rng, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(far, (picture,), fast_mode=True)
    far(picture).backward()
    assert (picture.grad != 0).double().mean() > 0.5


def test_descending_the_gradient_brings_the_picture_nearer(pack, loss):
    pictures, points = photographed(astronaut(), slice(0, 1))
    target = by_insightface(pack, *photographed(group(), slice(0, 1)))
    picture = pictures.clone().requires_grad_()
    before = loss(picture, points, target)
    before.sum().backward()
    after = loss(picture.detach() - 0.02 * picture.grad.sign(), points, target)
    assert after < 0.8 * before.detach()


def test_a_step_on_features_of_insightface_descends_the_identity_loss(tmp_path, pack, measured):
    losses = LossSettings(mse=0.0, identity=1.0, identity_pack=pack)
    method = make(
        tmp_path, features=measured, losses=losses, drop=DropSettings(identity=0.5, text=0.0)
    )
    given = batch() | {"time": torch.tensor([0.05, 0.1]), "target_identity": drawn(2, 32)}
    told = method(given)
    told["loss"].backward()
    assert told["identity"] > 0
    assert any(weight.grad.abs().sum() > 0 for weight in method.trainable().values())
    assert [n for n in method.state_dict() if n.startswith("objective.identity_loss")] == []
    assert method({**given, "drop": torch.zeros(2)})["identity"] == 0


@pytest.mark.slow
@pytest.mark.long
def test_two_workers_that_share_weights_have_the_losses_of_one(tmp_path, pack, measured):
    folder = write_features(
        tmp_path / "features", dim=32, shape=(4, 16, 16), codec="random:tiny-sd", text=(5, 32)
    )
    told = Features.read(folder)
    replace(told, backend="insightface", embedder=measured.embedder).write(folder)
    ours = replace(
        tiny(), base=BaseModelSettings(weights="random:tiny-sd"),
        data=DataSettings(path=str(folder), heldout_share=0.0),
        method=MethodSettings(kind="ip_adapter_faceid"),
        losses=LossSettings(identity=0.5, triplet=0.5, identity_pack=pack),
        steps=4, batch=4, microbatch=2, save_every=4, log_every=1,
    )  # fmt: skip
    alone = train(ours, tmp_path / "alone")
    workers = Workers(2, tmp_path)
    try:
        many = replace(ours, scale=Scale(workers=2, zero_stage=3))
        first, second = workers.train(many, tmp_path / "many")
    finally:
        workers.close()
    assert first["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert apart(first["weights"], alone["weights"]) < 1e-5
    assert apart(first["weights"], second["weights"]) == 0


def test_features_of_insightface_without_a_pack_say_what_to_give(tmp_path, measured):
    why = rf"losses\.identity_pack cannot be '': .*{measured.embedder}.* Name its folder, or"
    with pytest.raises(BadValue, match=why):
        make(tmp_path, features=measured, losses=LossSettings(identity=0.1))


def test_a_pack_that_the_features_were_not_measured_with_is_refused(tmp_path, measured):
    other = write_pack(tmp_path / "other", recogniser=write_arcface, seed=3)
    tag = InsightEmbedder(other).card.tag
    with pytest.raises(BadValue, match=rf"with the encoder {measured.embedder}, .* is {tag}: dist"):
        differentiable_encoder(measured, other)


def test_a_network_with_operators_of_its_own_is_refused_before_training(tmp_path):
    pack = write_pack(tmp_path, recogniser=write_arcface, bend="Relu")
    with pytest.raises(BadWeights, match=r"rec\.onnx.* has an operator 'Relu'"):
        ArcFaceEncoder(pack)


def test_a_network_that_only_takes_one_face_is_refused(tmp_path):
    pack = write_pack(tmp_path, batch=1, recogniser=write_arcface, tail="folded")
    with pytest.raises(BadWeights, match="does not take two faces at once"):
        ArcFaceEncoder(pack)


def test_a_network_that_would_compute_something_else_is_refused(pack, monkeypatch):
    from training.nets import onnx_graph

    monkeypatch.setitem(onnx_graph.OPERATORS, "Add", lambda a, _: a)
    with pytest.raises(BadWeights, match=r"computes other vectors in torch than in onnxruntime"):
        ArcFaceEncoder(pack)


def test_a_backend_that_is_not_known_is_named():
    with pytest.raises(BadValue, match="backend cannot be 'facenet'"):
        differentiable_encoder(replace(FEATURES, backend="facenet"), "x")
