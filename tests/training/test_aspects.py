import pytest

from infra.errors import BadValue
from training.aspects import aspect_sizes, nearest_aspect

ASPECTS = ("1:1", "4:3", "3:4", "3:2", "2:3", "16:9", "9:16")


def test_at_1024_px_the_sizes_are_those_of_sdxl():
    assert aspect_sizes(ASPECTS, 1024) == (
        (1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216), (1344, 768), (768, 1344),
    )  # fmt: skip


@pytest.mark.parametrize(("image_px", "step"), [(64, 8), (128, 8), (256, 8), (512, 64)])
def test_sides_are_multiples_and_areas_about_equal(image_px, step):
    sizes = aspect_sizes(ASPECTS, image_px)
    assert sizes[0] == (image_px, image_px)
    assert len(set(sizes)) == len(sizes) > 3
    for width, height in sizes:
        assert width % step == height % step == 0
        assert 0.9 <= width * height / image_px**2 <= 1


def test_a_picture_goes_to_the_nearest_shape():
    sizes = aspect_sizes(ASPECTS, 1024)
    near = [sizes[nearest_aspect(w, h, sizes)] for w, h in [(500, 500), (4000, 3000), (9, 30)]]
    assert near == [(1024, 1024), (1152, 896), (768, 1344)]


@pytest.mark.parametrize("aspect", ["", "4", "4:0", "a:b", "4:1", "1:9", "1:1:1", "-3:-2:"])
def test_what_is_no_aspect_is_refused(aspect):
    with pytest.raises(BadValue, match="give width:height"):
        aspect_sizes((aspect,), 64)
