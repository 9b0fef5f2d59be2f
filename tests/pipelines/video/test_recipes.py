"""Recipes of videos, and what is said of those that cannot be carried out."""

import io
import tarfile

import pytest

from infra.configuration import from_yaml, to_yaml
from infra.errors import BadValue
from pipelines.cli import main
from pipelines.cluster.errands import errand
from pipelines.recipes import FaceSettings, Source
from pipelines.sources import VIDEOS, list_source, members
from pipelines.video.recipes import RECIPES, VideoRecipe, faceid_video, recipe
from stages.web.settings import FetchSettings


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_carries_its_name_and_survives_yaml(name, tmp_path):
    made = recipe(name)
    assert made.name == name
    (tmp_path / "r.yaml").write_text(to_yaml(made))
    assert from_yaml(tmp_path / "r.yaml", VideoRecipe(name="other")) == made


def test_its_rules_begin_with_those_of_consisid():
    rules = faceid_video().keep
    assert (rules.min_frames, rules.min_track_frames) == (49, 49)
    assert rules.min_face_share > 0, "theirs is 0"


def test_what_videos_cannot_have_is_refused():
    with pytest.raises(BadValue, match=r"fetch\.types"):
        VideoRecipe(name="x", fetch=FetchSettings())
    with pytest.raises(BadValue, match=r"faces\.anonymise"):
        VideoRecipe(name="x", faces=FaceSettings(anonymise="blur"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--video.crf", "77"], "video.crf cannot be 77: give 0 to 51."),
        (
            ["--keep.min-seen-share", "2"],
            "keep.min_seen_share cannot be 2.0: give a share, 0 to 1.",
        ),
        (["--keep.min-frame", "9"], "Did you mean '--keep.min-frames'?"),
        (["--refresh"], "has no setting '--refresh'"),
    ],
)
def test_a_wrong_setting_ends_with_one_sentence(words, said, tmp_path, capsys):
    place = ["--source.path", str(tmp_path), "--store", str(tmp_path / "store")]
    assert main(["curate", "faceid_video", *place, *words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_a_folder_without_a_video_ends_with_one_sentence(tmp_path, capsys):
    (tmp_path / "album").mkdir()
    (tmp_path / "album/face.jpg").write_bytes(b"")
    asked = ["curate", "faceid_video", "--source.path", str(tmp_path / "album")]
    assert main([*asked, "--store", str(tmp_path / "store")]) == 2
    told = capsys.readouterr().err
    assert "nothing in it is understood (['.jpg'])" in told
    assert "a folder of videos" in told
    assert not (tmp_path / "store").exists()


def test_urls_need_somebody_to_write_to(tmp_path, capsys):
    (tmp_path / "urls.txt").write_text("https://films.test/a.mp4\n")
    asked = ["curate", "faceid_video", "--source.path", str(tmp_path / "urls.txt")]
    assert main([*asked, "--store", str(tmp_path / "store")]) == 2
    assert "fetch.contact cannot be ''" in capsys.readouterr().err


def test_an_object_store_is_refused_for_clips_are_written_to_a_folder(tmp_path, capsys):
    (tmp_path / "a.mp4").write_bytes(b"")
    asked = ["curate", "faceid_video", "--source.path", str(tmp_path), "--store", "mock:///store"]
    assert main(asked) == 2
    assert "clips are written while videos are watched" in capsys.readouterr().err


def test_it_can_be_carried_out_on_a_cluster(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    words = (
        "faceid_video",
        "--source.path",
        str(tmp_path),
        "--store",
        "/shared",
        "--video.crf",
        "20",
    )
    sent = errand("curate", words)
    assert (sent.recipe, sent.store) == ("faceid_video", "/shared")
    assert sent.words[:2] == ("curate", "faceid_video")


def test_a_plan_names_the_jobs(tmp_path, capsys):
    (tmp_path / "a.mp4").write_bytes(b"")
    asked = ["curate", "faceid_video", "--source.path", str(tmp_path), "--dry-run"]
    assert main(asked) == 0
    told = capsys.readouterr().out
    assert "seed -> watch -> clips -> keep -> dedupe -> people -> pairs -> export" in told
    assert "run      faceid_video-" in told


def test_videos_of_a_tar_come_with_their_captions_and_pictures_do_not(tmp_path):
    with tarfile.open(tmp_path / "films.tar", "w") as tar:
        for name, data in (("1.webm", b"film"), ("1.txt", b"a man"), ("2.jpg", b"picture")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    listing = list_source(Source(path=str(tmp_path / "films.tar")), VIDEOS)
    assert [(m.member, m.caption, m.length) for m in members(listing)] == [("1.webm", "a man", 4)]
    assert [m.member for m in members(list_source(Source(path=str(tmp_path))))] == ["2.jpg"]
