"""Which captions features are told by: those that were made, halves of them, or the page's."""

from dataclasses import replace
from io import StringIO

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from infra.errors import UnreadableSource
from infra.storage import open_folder
from pipelines.features.recipes import lfw64, tiny
from pipelines.prepare import prepare
from tests.pipelines.corpora import photographs, write_export
from training.features import Prepared

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
PARTS = {"face": "oval", "ears": "hidden", "eyes": "brown", "nose": "straight", "mouth": "closed"}


@pytest.fixture(scope="module")
def rows(astronaut, six_people):
    return photographs(astronaut, six_people)[:3]


def told(row, number):
    return row | {
        "caption_merged": f"all {number}", "caption_attributes": f"looks {number}",
        "caption_action": f"deeds {number}", "caption_parts": PARTS,
    }  # fmt: skip


@pytest.fixture(scope="module")
def corpus(rows, tmp_path_factory):
    """Three photographs of one person, described."""
    said = [told(row, number) for number, row in enumerate(rows)]
    return write_export(open_folder(str(tmp_path_factory.mktemp("told"))), said)


@pytest.fixture(scope="module")
def plain(rows, tmp_path_factory):
    """The same without a captions job."""
    return write_export(open_folder(str(tmp_path_factory.mktemp("plain"))), rows)


def index(corpus, out, **changes):
    recipe = replace(lfw64(), corpus=corpus, people="self", **changes)
    prepare(recipe, str(out), Console(file=StringIO()))
    return pq.read_table(out / "index.parquet").sort_by("id")


@pytest.mark.parametrize(
    ("kind", "captions"),
    [
        ("auto", ["all 0", "all 1", "all 2"]),
        ("merged", ["all 0", "all 1", "all 2"]),
        ("attributes", ["looks 0", "looks 1", "looks 2"]),
        ("action", ["deeds 0", "deeds 1", "deeds 2"]),
        ("alt", ["her 0", "her 1", "her 2"]),
    ],
)
def test_features_are_told_by_the_wanted_caption(corpus, tmp_path, kind, captions):
    assert index(corpus, tmp_path, caption=kind)["caption"].to_pylist() == captions


def test_without_a_captions_job_the_pages_text_is_taken_unless_another_is_asked_for(
    plain, tmp_path
):
    done = index(plain, tmp_path)
    assert done["caption"].to_pylist() == ["her 0", "her 1", "her 2"]
    assert "caption_parts" not in done.column_names
    for kind in ("merged", "attributes", "action"):
        with pytest.raises(UnreadableSource, match=rf"kind '{kind}'.*captions\.backend template"):
            index(plain, tmp_path, caption=kind)


def test_an_alt_text_that_nobody_wrote_is_missed_only_by_who_asks_for_it(rows, tmp_path):
    silent = write_export(open_folder(f"{tmp_path}/run"), [row | {"caption": ""} for row in rows])
    with pytest.raises(UnreadableSource, match=r"kind 'alt'.*--caption auto"):
        index(silent, tmp_path / "out", caption="alt")
    assert index(silent, tmp_path / "out")["caption"].to_pylist() == [""] * 3


def test_descriptions_of_the_parts_of_a_face_reach_the_index(corpus, tmp_path):
    assert index(corpus, tmp_path)["caption_parts"].to_pylist() == [PARTS] * 3


@pytest.mark.slow
def test_the_text_encoder_reads_the_caption_that_was_chosen(corpus, tmp_path):
    from training.nets.text import load_text_encoder

    recipe = replace(tiny(), corpus=corpus, people="self", caption="attributes", image_encoder="")
    prepare(recipe, str(tmp_path), Console(file=StringIO()))
    held = Prepared(tmp_path)
    (said, *_), _ = load_text_encoder("random:tiny-sd").encode(["looks 0"])
    assert (held.read("text", held.split(0.0)[0][:1])[0] - said).abs().max() < 2e-3
