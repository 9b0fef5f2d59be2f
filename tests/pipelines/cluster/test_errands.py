"""What is sent to a cluster, and what is known of it before."""

import zipfile

import pytest

from infra.errors import BadInput, BadValue, UnknownKey, UnknownRecipe
from pipelines.cluster import parcel
from pipelines.cluster.errands import VERBS, errand
from pipelines.cluster.parcel import TooLarge, pack
from pipelines.commands.submit import divide


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_places_are_the_same_wherever_the_program_stands(home):
    (home / "album").mkdir()
    asked = errand("curate", ["photos", "--source.path", "album", "--keep.min-side-px", "200"])
    assert asked.words == (
        "curate", "photos", "--source.path", "album", "--keep.min-side-px", "200",
        "--source.path", f"{home}/album", "--store", f"{home}/store", "--json",
    )  # fmt: skip
    assert asked.data == (f"{home}/album, a folder; every node must see it",)


def test_pairs_are_a_place_too(home):
    words = ["lfw64", "--corpus", "s3://b/run", "--people", "identity", "--pairs", "pairs"]
    assert errand("prepare", words).words[-7:-1] == (
        "--corpus", "s3://b/run", "--pairs", f"{home}/pairs", "--out", f"{home}/features",
    )  # fmt: skip


def test_a_bucket_stays_a_bucket():
    words = errand("curate", ["photos", "--source.path", "s3://b/t.parquet", "--store", "s3://b/s"])
    assert words.words[-5:] == (
        "--source.path",
        "s3://b/t.parquet",
        "--store",
        "s3://b/s",
        "--json",
    )
    assert words.data == ("s3://b/t.parquet",)


def test_the_last_flag_counts_for_the_verb_itself(home):
    from pipelines.cluster.errands import _read

    words = errand("train", ["tiny", "--data.path", "features"]).words
    assert _read("train", words[1], words[2:]).recipe.data.path == f"{home}/features"


def test_a_run_is_named_by_its_whole_path(home):
    assert errand("evaluate", ["trained/a", "--people", "9"]).words[1] == f"{home}/trained/a"
    assert errand("release", ["trained/a", "--as", "faceid"]).words == (
        "release", f"{home}/trained/a", "--as", "faceid", "--json",
    )  # fmt: skip


def test_a_recipes_file_is_taken_along(home):
    (home / "mine.yaml").write_text("name: mine\nkeep: {min_side_px: 99}\n")
    asked = errand("curate", [str(home / "mine.yaml"), "--source.path", "s3://b/t.csv"])
    assert (asked.words[1], asked.recipe, asked.files) == (
        "mine.yaml",
        "mine",
        (home / "mine.yaml",),
    )


def test_every_verb_says_what_it_reserves():
    def wanted(*words):
        return errand(words[0], words[1:]).wanted

    many = wanted("train", "tiny", "--scale.workers", "4", "--scale.zero-stage", "2")
    assert (many.cpus, many.gpus, many.driver_cpus) == (4 + 2, 0, 0)
    gpus = wanted("train", "ip_adapter_faceid_sdxl_8xh200")
    assert (gpus.cpus, gpus.gpus, gpus.at_once_gpus) == (8, 8, 1)
    alone = wanted("train", "ip_adapter_faceid_sd15")
    assert (alone.driver_cpus, alone.driver_gpus) == (1, 1)
    hands = ["--workers.lookers", "8", "--workers.gpus-per-looker", "0.25"]
    looked = wanted("curate", "photos", *hands)
    assert (looked.cpus, looked.gpus, looked.at_once_gpus) == (4, 2, 0.25)
    assert wanted("prepare", "sd15", "--gpus-per-task", "0.5").gpus == 0.5
    assert wanted("evaluate", "trained/x").driver_cpus == 1
    looped = wanted("loop", "faceid_sd15")
    assert (looped.driver_gpus, looped.gpus) == (1, 2)


@pytest.mark.parametrize(
    ("verb", "words", "kind", "told"),
    [
        ("curat", [], BadValue, "Did you mean 'curate'?"),
        ("curate", [], BadValue, "name a recipe after it"),
        ("evaluate", ["--people", "3"], BadValue, "name a training run after it"),
        ("train", ["lfw46"], UnknownRecipe, "Did you mean 'lfw64'?"),
        ("train", ["tiny", "--stepss", "3"], UnknownKey, "Did you mean '--steps'?"),
        ("curate", ["old.yaml"], UnknownKey, "has no setting 'min_side'"),
        ("loop", ["tiny", "--train.data.path", "x"], BadValue, "it is prepared"),
        ("deploy", ["--local"], BadValue, "do not submit"),
    ],
)
def test_what_the_verb_would_refuse_is_refused_before_it_is_sent(home, verb, words, kind, told):
    (home / "old.yaml").write_text("min_side: 3\n")
    with pytest.raises(kind, match=told.replace("?", r"\?")):
        errand(verb, words)


def test_every_verb_that_can_be_submitted_is_a_command():
    from pipelines.cli import VERBS as COMMANDS

    assert set(VERBS) <= set(COMMANDS)


def test_our_flags_are_parted_from_the_verbs():
    ours, theirs = divide(["photos", "--address", "http://h:1", "--store", "s", "--dry_run",
                           "--address=http://h:2", "--detach", "--json"])  # fmt: skip
    assert theirs == ["photos", "--store", "s"]
    assert ours == ["--address", "http://h:1", "--dry_run", "--address=http://h:2", "--detach",
                    "--json"]  # fmt: skip


def test_the_same_code_is_the_same_parcel(home):
    first, again = pack(home / "a.zip"), pack(home / "b.zip")
    assert first == again
    with zipfile.ZipFile(home / "a.zip") as held:
        names = held.namelist()
    assert "pipelines/cli.py" in names
    assert "pipelines/reports/report.html.j2" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]
    assert (home / "a.zip").stat().st_size < 2 * 2**20


def test_another_recipe_is_another_parcel(home):
    (home / "mine.yaml").write_text("name: mine\n")
    first = pack(home / "a.zip", [home / "mine.yaml"])
    (home / "mine.yaml").write_text("name: other\n")
    assert pack(home / "b.zip", [home / "mine.yaml"]) != first


def test_too_much_code_is_refused_with_what_is_large(home, monkeypatch):
    import numpy as np

    for name in parcel.PACKAGES:
        (home / name).mkdir()
    (home / "stages/weights.bin").write_bytes(np.random.default_rng(0).bytes(2**20))
    monkeypatch.setattr(parcel, "LIMIT_BYTES", 2**19)
    with pytest.raises(TooLarge, match=r"1\.0 MiB.*stages/weights\.bin \(1\.0 MiB\)") as told:
        pack(home / "a.zip", root=home)
    assert isinstance(told.value, BadInput)
