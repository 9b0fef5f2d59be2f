import cv2
import numpy as np
import pytest
import torch
from torch import nn

from stages.models.backend import load_detector, load_embedder
from tests.stages.models.photos import astronaut, group
from training.identity import DlibEncoder, IdentityEncoder, IdentityLoss
from training.nets.face_chips import dlib_chips


@pytest.fixture(scope="module")
def loss():
    return IdentityLoss(DlibEncoder())


@pytest.fixture(scope="module")
def encoder(loss):
    return loss.encoder


def landmarks_of(picture):
    return load_detector("dlib", "", 1280, 0.0, "cpu").detect([picture])[0].landmarks_px


def by_dlib(picture, landmarks):
    """Chips and vectors as curation makes them, dlib's own crop among it."""
    embedder = load_embedder("dlib", "", "cpu")
    chips = embedder.align(picture, landmarks)
    return chips, embedder.embed(chips)


def tensors(picture, landmarks):
    """One row per face, all of one picture."""
    rgb = torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255
    return rgb.expand(len(landmarks), -1, -1, -1), torch.from_numpy(landmarks)


def scaled(picture, factor):
    """Return a picture in another size, and its landmarks in whole pixels, as dlib reads them."""
    landmarks = np.rint(landmarks_of(picture) * factor).astype(np.float32)
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=how), landmarks


@pytest.mark.parametrize("photograph", [astronaut, group])
@pytest.mark.parametrize(("factor", "grey_levels"), [(0.5, 0.8), (1, 0.8), (2, 0.8), (4, 2.5)])
def test_chips_are_dlibs_own_at_every_size(encoder, photograph, factor, grey_levels):
    # The mean difference would be 0.5 if only rounding differed: dlib cuts decimals off. Faces
    # above twice the chip's size are halved first by dlib, and sampled twice as densely by us.
    picture, landmarks = scaled(photograph(), factor)
    chips, vectors = by_dlib(picture, landmarks)
    pictures, points = tensors(picture, landmarks)
    found = dlib_chips(pictures, points).permute(0, 2, 3, 1).numpy() * 255
    assert np.abs(found - chips).mean() < grey_levels
    away = np.linalg.norm(encoder(pictures, points).numpy() - vectors, axis=1)
    assert away.max() < 0.1


def test_chips_follow_turned_landmarks():
    picture = np.ascontiguousarray(np.rot90(astronaut()))
    x, y = landmarks_of(astronaut())[0].T
    turned = np.stack([y, 511 - x], axis=-1)[None]
    upright, beside = (
        dlib_chips(*tensors(p, points))
        for p, points in ((astronaut(), landmarks_of(astronaut())), (picture, turned))
    )
    assert (upright - beside).abs().max() < 1e-3


def test_landmarks_in_one_point_give_a_finite_chip():
    chips = dlib_chips(torch.rand(1, 3, 64, 64), torch.full((1, 5, 2), 30.0))
    assert torch.isfinite(chips).all()


def test_a_photograph_is_its_own_person_and_not_another(loss):
    _, own = by_dlib(astronaut(), landmarks_of(astronaut()))
    _, others = by_dlib(group(), landmarks_of(group()))
    targets = torch.from_numpy(np.concatenate([own, others]))
    pictures, points = tensors(astronaut(), landmarks_of(astronaut()).repeat(7, axis=0))
    found = loss(pictures, points, targets)
    assert found[0] < 0.03
    assert (found[1:] > 1).all()  # 1 is the encoder's threshold


def test_the_loss_is_the_squared_distance_in_thresholds(loss, encoder):
    pictures, points = tensors(astronaut(), landmarks_of(astronaut()))
    target = encoder(pictures, points).clone()
    target[0, 0] += 1.2
    assert loss(pictures, points, target).item() == pytest.approx(4.0, rel=1e-4)


def test_descending_the_gradient_brings_the_picture_nearer_and_moves_no_weight(loss):
    small, points = scaled(astronaut(), 0.5)
    _, others = by_dlib(group(), landmarks_of(group()))
    pictures, points = tensors(small, points)
    picture, target = pictures.clone().requires_grad_(), torch.from_numpy(others[:1])
    before = loss(picture, points, target)
    before.sum().backward()
    after = loss(picture.detach() - 0.01 * picture.grad.sign(), points, target)
    assert after < 0.8 * before.detach()
    assert [name for name, weight in loss.named_parameters() if weight.grad is not None] == []


def test_the_gradient_is_finite_where_the_loss_is_zero(loss, encoder):
    pictures, points = tensors(*scaled(astronaut(), 0.5))
    picture = pictures.clone().requires_grad_()
    found = loss(picture, points, encoder(pictures, points))
    found.sum().backward()
    assert found.item() == 0
    assert torch.isfinite(picture.grad).all()


def test_each_sample_has_its_own_value(loss):
    picture, points = scaled(group(), 0.5)
    _, vectors = by_dlib(picture, points)
    pictures, points = tensors(picture, points[:2])
    targets = torch.from_numpy(vectors[:2])
    together = loss(pictures, points, targets)
    for i in range(2):
        alone = loss(pictures[i : i + 1], points[i : i + 1], targets[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)


def test_autocast_changes_nothing(loss):
    picture, points = scaled(astronaut(), 0.5)
    _, vectors = by_dlib(group(), landmarks_of(group()))
    given = *tensors(picture, points), torch.from_numpy(vectors[:1])
    with torch.autocast("cpu", torch.bfloat16):
        under = loss(*given)
    assert under.dtype == torch.float32
    assert (under == loss(*given)).all()


class Flat(IdentityEncoder):
    """An encoder whose vector can be computed by hand: the picture's own first two values."""

    metric = "cosine"
    same_person_below = 0.5

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, picture, landmarks):  # noqa: ARG002
        return self.drop(picture.flatten(1)[:, :2] * self.scale)


def test_an_encoder_compared_by_angle_gives_one_minus_the_cosine():
    pictures = torch.zeros(3, 3, 2, 2)
    pictures[:, 0, 0] = torch.tensor([0.5, 0.0])
    targets = torch.tensor([[7.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    found = IdentityLoss(Flat())(pictures, torch.zeros(3, 5, 2), targets)
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 0.4]))


def test_the_encoder_stays_frozen_while_the_model_around_it_trains():
    loss = nn.Sequential(IdentityLoss(Flat())).train()[0]
    assert loss.training
    assert not loss.encoder.drop.training
    assert not loss.encoder.scale.requires_grad
