"""Captions of clips: which frames are shown, what a template can tell, and what goes wrong."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from stages.captions.checks import first_fault
from stages.captions.clips import CaptionClips, measure, read_frames, sampled
from stages.captions.http import HttpCaptioner
from stages.captions.settings import CaptionSettings, EndpointSettings
from stages.captions.template import describe_clip
from stages.video.decode import BadVideo
from tests.stages.captions.servers import PICTURE, by_prompt, serving
from tests.stages.video import made

FRAMES = 30


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A clip whose frame n is a grey of 8 n."""
    frames = [np.full((48, 64, 3), 8 * n, np.uint8) for n in range(FRAMES)]
    return made.write(tmp_path_factory.mktemp("film") / "a.mp4", frames, crf=1)


def track(number=0, start=100, end=130, box=(10, 10, 30, 30), yaws=(0.0, 5.0), best=120):
    looks = len(yaws)
    return {
        "track_id": number, "start_frame": start, "end_frame": end, "boxes_px": [list(box)] * looks,
        "yaws_deg": list(yaws), "pitches_deg": [0.0] * looks, "rolls_deg": [0.0] * looks,
        "best_frame": best,
    }  # fmt: skip


def clip(*tracks, **changes):
    return {
        "width_px": 64, "height_px": 48, "fps": 15.0, "frames": FRAMES, "start_frame": 100,
        "camera_motion": 0.0, "person_motion": 0.05, "tracks": list(tracks),
    } | changes  # fmt: skip


def caption(settings, *clips, captioner=None, match=None):
    stage = CaptionClips(settings, captioner, match)
    blank = [""] * len(clips)
    told = stage({"caption": ["a page's text for it"] * len(clips), "label": blank, "clip": clips})
    return [dict(zip(told, row, strict=True)) for row in zip(*told.values(), strict=True)]


def greys(body):
    """Return the level of every picture of a question, as the number of its frame."""
    parts = [part for part in body["messages"][1]["content"] if part["type"] == "image_url"]
    data = [base64.b64decode(part["image_url"]["url"].partition(",")[2]) for part in parts]
    return [round(float(np.asarray(Image.open(io.BytesIO(jpeg))).mean()) / 8) for jpeg in data]


def test_looks_are_asked_of_the_best_frame_and_action_of_frames_from_the_whole_clip(film):
    shown = measure(clip(track(best=120))) | {"path": str(film)}
    with serving(by_prompt) as server:
        endpoint = EndpointSettings(url=server.url, model="tiny", concurrency=1)
        settings = CaptionSettings(backend="http", http=endpoint, clip_frames=3)
        (row,) = caption(settings, shown, captioner=lambda: HttpCaptioner(endpoint, 100))
        looks, deeds, merge = server.asked
    assert greys(looks) == [20], "frame 120 of the video is frame 20 of the clip"
    assert greys(deeds) == [5, 15, 25]
    assert "grey wall" in merge["messages"][1]["content"]
    assert (row["caption_attributes"], row["caption_action"], row["caption_merged"]) == (
        PICTURE["attributes"], PICTURE["action"], PICTURE["merged"],
    )  # fmt: skip
    assert (row["caption_asks"], row["caption_output_tokens"]) == (3, 60)
    assert row["caption_prompt"].count("@") == 3


def test_parts_are_asked_of_the_best_frame(film):
    shown = measure(clip(track())) | {"path": str(film)}
    with serving(by_prompt) as server:
        endpoint = EndpointSettings(url=server.url, model="tiny", concurrency=1)
        settings = CaptionSettings(backend="http", http=endpoint, parts=True)
        (row,) = caption(settings, shown, captioner=lambda: HttpCaptioner(endpoint, 100))
        assert greys(server.asked[-1]) == [20]
    assert row["caption_parts"]["nose"] == "an ordinary nose"


def test_a_clip_that_is_gone_or_too_short_costs_its_own_row_alone(film, tmp_path):
    good = measure(clip(track())) | {"path": str(film)}
    gone = good | {"path": str(tmp_path / "gone.mp4")}
    short = good | {"best_frame": FRAMES}
    with serving(by_prompt) as server:
        endpoint = EndpointSettings(url=server.url, model="tiny")
        settings = CaptionSettings(backend="http", http=endpoint)
        rows = caption(settings, gone, good, short, captioner=lambda: HttpCaptioner(endpoint, 100))
    assert [row["error"] for row in rows] == ["missing_file", "", "broken_video"]
    assert f"no frame {FRAMES}" in rows[2]["error_detail"]
    with pytest.raises(BadVideo, match=r"gone\.mp4 is gone"):
        read_frames(tmp_path / "gone.mp4", {0}, 64)


def test_a_caption_that_does_not_match_the_best_frame_is_rejected(film):
    seen = []

    def match(pictures, texts):
        seen.extend(pictures)
        return [0.1] * len(texts)

    settings = CaptionSettings(backend="template", match_model="file:x", min_match=0.2)
    shown = measure(clip(track())) | {"path": str(film)}
    (row,) = caption(settings, shown, match=lambda: match)
    assert row["rejected_by"] == "caption_mismatch"
    assert [round(float(picture.mean()) / 8) for picture in seen] == [20]


@pytest.mark.parametrize(
    ("frames", "count", "wanted"),
    [(30, 3, [5, 15, 25]), (2, 6, [0, 1]), (1, 1, [0]), (30, 0, []), (7, 7, list(range(7)))],
)
def test_frames_are_the_middles_of_equal_stretches(frames, count, wanted):
    assert sampled(frames, count) == wanted


def test_a_template_tells_people_framing_pose_and_motion():
    still = measure(clip(track(), camera_motion=0.0, person_motion=0.0))
    assert describe_clip(still) == {
        "attributes": "One person facing the camera.",
        "action": "A head-and-shoulders shot of 2-second length, in which the person keeps still "
        "and the camera keeps still.",
        "merged": "A 2-second landscape video of one person, a head-and-shoulders shot, facing "
        "the camera; the person keeps still, the camera keeps still.",
    }
    pair = clip(track(), track(1, box=(40, 10, 44, 14)), camera_motion=0.3, person_motion=0.05)
    told = describe_clip(measure(pair))["merged"]
    assert "two people" in told
    assert "the person moves slowly, the camera moves fast" in told
    assert "turning the head" in describe_clip(measure(clip(track(yaws=(-40.0, 40.0)))))["merged"]


def test_people_who_take_turns_are_not_counted_together():
    assert measure(clip(track(0, 100, 110), track(1, 110, 130)))["people"] == 1
    assert measure(clip(track(0, 100, 111), track(1, 110, 130)))["people"] == 2


def test_the_main_track_is_the_one_that_is_named_else_the_largest():
    small, large = track(0, best=101), track(1, box=(0, 0, 40, 40), best=102)
    assert measure(clip(small, large))["best_frame"] == 2
    assert measure(clip(small, large, main_track=0))["best_frame"] == 1
    assert measure(clip())["best_frame"] == FRAMES // 2, "nobody is seen: the middle"


@pytest.mark.parametrize(
    "made_of",
    [(), (track(),), (track(0), track(1), track(2), track(3))],
    ids=["nobody", "one", "four"],
)
def test_every_template_of_a_clip_passes_the_rules_for_captions(made_of):
    for motion in (0.0, 0.05, 1.0, None):
        measured = measure(clip(*made_of, camera_motion=motion, person_motion=motion))
        assert first_fault(describe_clip(measured)["merged"], CaptionSettings()) == ""


def test_alt_takes_the_text_that_came_with_the_video():
    (row,) = caption(CaptionSettings(backend="alt", human_terms=()), measure(clip()))
    assert (row["caption_merged"], row["caption_source"]) == ("a page's text for it", "alt")
