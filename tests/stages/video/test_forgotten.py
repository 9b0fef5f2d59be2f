"""A video of somebody who was forgotten, under another name."""

from stages.forgotten import tombstone
from stages.types import Stage
from stages.video.forgotten import DropForgottenVideos


def test_of_a_video_with_a_forgotten_clip_nothing_is_kept(tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(b"clip")
    hers = [{"file": "a.mp4", "sha256": "1" * 64}, {"file": "b.mp4", "sha256": "2" * 64}]
    his = [{"file": "c.mp4", "sha256": "3" * 64}]
    batch = {
        "clips": [hers, his, None], "shots": [[1], [2], None], "caption": ["her", "him", ""],
        "label": ["she", "he", ""], "rejected_by": ["", "", ""],
    }  # fmt: skip
    stage = DropForgottenVideos(tmp_path, frozenset({tombstone("2" * 64)}))
    assert isinstance(stage, Stage)
    out = stage(batch)
    assert out["rejected_by"] == ["forgotten", "", ""]
    assert out["clips"] == [[], his, None]
    assert out["shots"] == [[], [2], None]
    assert (out["caption"], out["label"]) == (["", "him", ""], ["", "he", ""])
    assert [path.name for path in tmp_path.iterdir()] == ["c.mp4"]
