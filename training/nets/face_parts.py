"""Where the parts of a face are, by its five landmarks.

Shapes: B faces; P parts, in the order of ``PARTS``; a grid of R rows and C columns.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from stages.landmarks import ARCFACE_TEMPLATE_PX

PARTS = ("face", "ears", "eyes", "nose", "mouth")
"""As ConsistentID names them (arXiv:2404.16771)."""
_TEMPLATE_SIDE_PX = 112
_FINE = 8
"""Points per cell and side at which a grid is asked: a cell counts by how much of it is covered."""


def part_masks(
    points: Float[Tensor, "B 5 2"], height_px: int, width_px: int, rows: int, columns: int
) -> Float[Tensor, "B P R C"]:
    """Say of each cell of a grid over a picture how much of it each part covers, 0 to 1.

    Parts are ellipses in the frame of the eyes, so that they turn and grow with the face: a unit
    is the distance of the eyes. Ears have no landmarks and are put where a frontal face has them;
    eyes, nose and mouth follow theirs. ConsistentID has a parser of faces instead, which also sees
    what is hidden: here a part behind hair or hands is taken for seen.

    Args:
        points: ``arcface5`` landmarks in px: eyes, tip of the nose, corners of the mouth.
        height_px: Of the picture.
        width_px: Of the picture.
        rows: Of the grid.
        columns: Of the grid.
    """
    fine_rows, fine_columns = rows * _FINE, columns * _FINE
    y = (torch.arange(fine_rows, device=points.device) + 0.5) * height_px / fine_rows
    x = (torch.arange(fine_columns, device=points.device) + 0.5) * width_px / fine_columns
    # Places as complex numbers: to turn and scale is then one division.
    places = torch.complex(*torch.meshgrid(x, y, indexing="xy"))
    at = torch.complex(points[..., 0].float(), points[..., 1].float())
    middle, across = (at[:, 0] + at[:, 1]) / 2, at[:, 1] - at[:, 0]
    across = torch.where(across.abs() < 1e-6, torch.ones_like(across), across)

    def framed(given: Tensor) -> Tensor:
        shape = (len(at),) + (1,) * (given.ndim - 1)
        return (given - middle.view(shape)) / across.view(shape)

    grid = framed(places.expand(len(at), -1, -1))
    nose, left, right = framed(at)[:, 2], framed(at)[:, 3], framed(at)[:, 4]
    mouth = (left + right) / 2
    reach = (right - left).abs() / 2
    masks = torch.stack(
        [
            _ellipse(grid, mouth * 0.45, 1.25, 1.75),
            _ellipse(grid, -1.3 + 0.35j, 0.3, 0.5) | _ellipse(grid, 1.3 + 0.35j, 0.3, 0.5),
            _ellipse(grid, -0.5 + 0j, 0.35, 0.25) | _ellipse(grid, 0.5 + 0j, 0.35, 0.25),
            _ellipse(grid, nose * 0.7, 0.35, 0.45),
            _ellipse(grid, mouth, reach + 0.1, 0.3),
        ],
        dim=1,
    )
    return torch.nn.functional.avg_pool2d(masks.float(), _FINE)


def aligned_part_masks(rows: int, columns: int) -> Float[Tensor, "1 P R C"]:
    """Return the parts in a crop that was aligned as ArcFace's are: the same of every face.

    The image encoder is shown such crops (``training.crops.arcface_crop``): their landmarks lie
    on the template, as nearly as a similarity can bring them there.
    """
    side = _TEMPLATE_SIDE_PX
    return part_masks(torch.from_numpy(ARCFACE_TEMPLATE_PX)[None], side, side, rows, columns)


def _ellipse(grid: Tensor, centre: Tensor | complex, wide: Tensor | float, high: float) -> Tensor:
    """Return which places are inside an ellipse; its half axes are in distances of the eyes."""
    if isinstance(centre, Tensor):
        centre = centre.view(-1, 1, 1)
    if isinstance(wide, Tensor):
        wide = wide.view(-1, 1, 1)
    away = grid - centre
    return (away.real / wide) ** 2 + (away.imag / high) ** 2 <= 1
