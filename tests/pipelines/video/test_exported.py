"""What an export of videos says is read back, and is true of its files."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from infra.errors import BadValue, UnreadableSource
from infra.storage import open_folder
from pipelines.video.exported import frames_of, read_clips, read_pairs
from tests.pipelines.video.made_export import LENGTHS, PEOPLE, make_export


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp("run"))


def test_clips_are_read_by_id_with_their_tracks(export):
    clips = read_clips(export)
    assert [clip.id for clip in clips] == sorted(clip.id for clip in clips)
    assert read_clips(open_folder(str(export))) == clips
    by_time = sorted(clips, key=lambda clip: clip.start_frame)
    assert [clip.person for clip in by_time] == [PEOPLE[0], PEOPLE[1], PEOPLE[0]]
    assert by_time[-1].end_frame == sum(LENGTHS)
    for clip in clips:
        assert clip.main.person == clip.person
        assert hashlib.sha256((export / clip.file).read_bytes()).hexdigest() == clip.sha256


def test_frames_come_upright_and_in_the_order_they_were_asked_for(export):
    clip = read_clips(export)[0]
    every = frames_of(export, clip)
    assert len(every) == clip.frames
    assert every[0].shape == (clip.height_px, clip.width_px, 3)
    some = frames_of(export, clip, [7, 2, 7])
    assert [np.array_equal(a, every[b]) for a, b in zip(some, [7, 2, 7], strict=True)] == [True] * 3
    assert frames_of(export, clip, []) == []


def test_a_pairs_reference_lies_outside_its_target(export):
    clips = {clip.id: clip for clip in read_clips(export)}
    pairs = read_pairs(export)
    assert {pair.kind for pair in pairs} == {"clip", "moment"}
    for pair in pairs:
        target, reference = clips[pair.target_clip], clips[pair.reference_clip]
        assert target.person == reference.person
        inside = range(pair.target_start_frame, pair.target_end_frame)
        assert target is not reference or pair.reference_frame not in inside


def test_what_is_not_there_is_said(export, tmp_path):
    clip = read_clips(export)[0]
    with pytest.raises(BadValue, match=f"the clip {clip.id} has frames 0 to {clip.frames - 1}"):
        frames_of(export, clip, [clip.frames])
    with pytest.raises(UnreadableSource, match=r"no clips\.parquet is there"):
        read_clips(Path(tmp_path))
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1")
    with pytest.raises(UnreadableSource, match=r"pairs\.parquet"):
        read_pairs(tmp_path)
    with pytest.raises(UnreadableSource, match=clip.id):
        frames_of(tmp_path, clip, [0])
