import numpy as np
import pytest
import torch

from stages.landmarks import ARCFACE_TEMPLATE_PX
from training.nets.face_parts import PARTS, aligned_part_masks, part_masks

TEMPLATE = torch.from_numpy(ARCFACE_TEMPLATE_PX)[None]


def at(masks, part, x, y):
    """Read a mask of a 112 px crop, one cell per px."""
    return masks[0, PARTS.index(part), int(y), int(x)].item()


def test_each_landmark_lies_in_its_part_and_in_the_face():
    masks = part_masks(TEMPLATE, 112, 112, 112, 112)
    parts = ["eyes", "eyes", "nose", "mouth", "mouth"]
    for (x, y), part in zip(ARCFACE_TEMPLATE_PX, parts, strict=True):
        assert at(masks, part, x, y) == 1
        assert at(masks, "face", x, y) == 1
        others = {"eyes", "nose", "mouth", "ears"} - {part}
        assert [at(masks, other, x, y) for other in others] == [0, 0, 0]


def test_parts_are_where_and_as_large_as_they_are_on_a_frontal_face():
    masks = aligned_part_masks(112, 112)[0]
    areas = dict(zip(PARTS, masks.mean(dim=(1, 2)).tolist(), strict=True))
    assert areas["face"] > 0.4
    assert all(0.01 < areas[part] < 0.12 for part in PARTS[1:]), areas
    middle = masks * torch.arange(112.0)[:, None]
    rows = dict(zip(PARTS, (middle.sum((1, 2)) / masks.sum((1, 2))).tolist(), strict=True))
    assert rows["eyes"] < rows["ears"] < rows["mouth"]
    assert rows["eyes"] < rows["nose"] < rows["mouth"]
    ears = masks[PARTS.index("ears")]
    assert ears[:, 25:87].sum() == 0, "ears are at the sides"


def test_parts_turn_grow_and_move_with_the_face():
    upright = part_masks(TEMPLATE, 112, 112, 56, 56)
    quarter = TEMPLATE - 56
    turned = torch.stack([-quarter[..., 1], quarter[..., 0]], dim=-1) + 56
    rotated = part_masks(turned, 112, 112, 56, 56)
    assert (torch.rot90(upright, -1, (2, 3)) - rotated).abs().max() < 1e-3
    doubled = part_masks(2 * TEMPLATE, 224, 224, 56, 56)
    assert (upright - doubled).abs().max() < 0.1
    apart = part_masks(TEMPLATE + torch.tensor([56.0, 0.0]), 112, 224, 56, 112)
    assert (apart[..., 28:84] - upright).abs().max() < 0.1


@pytest.mark.parametrize("grid", [2, 4, 16])
def test_a_coarse_grid_says_how_much_of_each_cell_is_covered(grid):
    coarse, fine = aligned_part_masks(grid, grid), aligned_part_masks(112, 112)
    assert coarse.shape == (1, len(PARTS), grid, grid)
    pooled = torch.nn.functional.avg_pool2d(fine, 112 // grid)
    assert (coarse - pooled).abs().max() < 0.05
    assert all(coarse[0, part].max() > 0 for part in range(len(PARTS)))


def test_landmarks_that_are_one_point_give_finite_masks():
    masks = part_masks(torch.full((2, 5, 2), 30.0), 64, 64, 16, 16)
    assert masks.isfinite().all()
    assert np.isin(masks.shape, (2, len(PARTS), 16)).all()
