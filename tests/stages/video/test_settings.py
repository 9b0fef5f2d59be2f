import pytest

from infra.errors import BadValue
from stages.video.settings import VideoSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("detect_every", 0), ("max_clip_s", 1.0), ("crf", 52), ("preset", "fastest"), ("iou", 1.0),
        ("max_minutes", 0.0), ("threads", 0), ("trim_frames", -1), ("min_clip_s", -1.0),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_by_its_name(name, value):
    with pytest.raises(BadValue, match=f"^video.{name} cannot be {value!r}"):
        VideoSettings(**{name: value})
