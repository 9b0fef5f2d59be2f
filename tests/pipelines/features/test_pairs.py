"""Features that know who is whom from curation, and which photograph is shown for which."""

import io
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from infra.errors import BadValue, UnreadableSource
from infra.storage import open_folder
from pipelines.cli import main
from pipelines.features import finish as prepare_finish
from pipelines.features.recipes import lfw64
from pipelines.loop import STEPS
from pipelines.loops.recipes import LoopRecipe, PairingSettings
from pipelines.loops.recipes import tiny as tiny_loop
from pipelines.loops.record import Looping, Step
from pipelines.pairs import pairs
from pipelines.prepare import prepare
from stages.people.settings import PairSettings
from tests.pipelines.corpora import OTHER, SHE, photographs, write_export
from training.data import Batches
from training.features import Prepared
from training.recipes import tiny

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
SAID = Console(file=io.StringIO())


@pytest.fixture(scope="module")
def rows(astronaut, six_people):
    return photographs(astronaut, six_people)


@pytest.fixture
def place(tmp_path):
    return open_folder(str(tmp_path)).make()


@pytest.fixture
def corpus(place, rows):
    return write_export(place / "run", rows)


def run(corpus, out, **changes):
    recipe = replace(lfw64(), corpus=corpus, people="identity", **changes)
    return prepare(recipe, out, SAID)


def shown(folder):
    """Return which photographs training shows for each, by number."""
    prepared = Prepared(Path(folder))
    samples = np.arange(len(prepared))
    recipe = replace(tiny(), batch=8, microbatch=8)
    vectors = prepared.read("identity", samples).numpy()

    def number(vector):
        return int(np.linalg.norm(vectors - vector, axis=1).argmin())

    found = defaultdict(set)
    for step in range(12):
        (batch,) = Batches(prepared, samples, recipe).micro(step)
        for target, reference in zip(batch["target_identity"], batch["identity"], strict=True):
            found[number(target.numpy())].add(number(reference.numpy()))
    return dict(found)


def test_people_are_who_curation_says_and_photographs_of_nobody_are_left_out(corpus, place):
    done = run(corpus, f"{place}/out")
    assert (done.samples, done.people, done.nobody, done.left_out) == (4, 2, 1, 1)
    assert Prepared(Path(f"{place}/out")).people == [SHE, SHE, SHE, OTHER]
    assert (done.pairs, done.paired) == (0, 0)
    assert shown(f"{place}/out") == {0: {1, 2}, 1: {0, 2}, 2: {0, 1}, 3: {3}}


def test_a_photograph_is_shown_for_those_that_it_is_paired_with(corpus, place):
    made = pairs(corpus, f"{place}/pairs", PairSettings(), SAID)
    assert made.matches["pair"] == 4
    done = run(corpus, f"{place}/out", pairs=f"{place}/pairs")
    assert (done.samples, done.pairs, done.paired) == (4, 4, 3)
    # 0 and 2 are nearly one photograph; 3 is the only one of that person.
    assert shown(f"{place}/out") == {0: {1}, 1: {0, 2}, 2: {1}, 3: {3}}


def test_other_pairs_make_no_feature_anew_and_the_same_ones_do_nothing(corpus, place, monkeypatch):
    pairs(corpus, f"{place}/pairs", PairSettings(), SAID)
    first = run(corpus, f"{place}/out", pairs=f"{place}/pairs")
    home = Path(f"{place}/out")
    about = json.loads((home / "features.json").read_text())
    before = {p: p.stat().st_mtime_ns for p in (home / "shards").iterdir()}
    assert run(corpus, f"{place}/out", pairs=f"{place}/pairs") == first
    assert json.loads((home / "features.json").read_text()) == about

    pairs(corpus, f"{place}/pairs", PairSettings(per_identity=1), SAID)
    with monkeypatch.context() as patch:
        patch.setattr(prepare_finish, "write_pairs", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(corpus, f"{place}/out", pairs=f"{place}/pairs")
    with pytest.raises(UnreadableSource, match=r"no features\.json"):
        Prepared(home)
    done = run(corpus, f"{place}/out", pairs=f"{place}/pairs")
    assert (done.pairs, done.paired) == (1, 1)
    assert json.loads((home / "features.json").read_text())["pairs"] != about["pairs"]
    assert run(corpus, f"{place}/out").pairs == 0
    assert not (home / "pairs.parquet").exists()
    assert {p: p.stat().st_mtime_ns for p in (home / "shards").iterdir()} == before


def test_the_commands_say_what_came_of_every_row(corpus, place, capsys):
    assert main(["pairs", corpus, "--out", f"{place}/pairs"]) == 0
    following = f"--corpus {corpus} --people identity --pairs {place}/pairs"
    assert following in capsys.readouterr().out
    words = ["--corpus", corpus, "--out", f"{place}/out", "--people", "identity"]
    assert main(["prepare", "lfw64", *words, "--pairs", f"{place}/pairs"]) == 0
    said = capsys.readouterr().out
    assert "4 samples of 2 people" in said
    assert "1 rows were left out: their main face is of no identity" in said
    assert "3 samples are drawn from photographs that they are paired with (4 pairs)" in said
    assert "the other 1 from any other of the same person, or from themselves" in said
    assert main(["prepare", "lfw64", "--corpus", corpus, "--pairs", f"{place}/pairs"]) == 2
    assert "give identity" in capsys.readouterr().err


def test_what_are_no_pairs_of_this_corpus_is_refused(corpus, place, rows):
    with pytest.raises(UnreadableSource, match=r"no finished pairs are there.*visage pairs RUN"):
        run(corpus, f"{place}/out", pairs=f"{place}/none")
    others = [row | {"id": f"{n + 100:032x}"} for n, row in enumerate(rows)]
    pairs(write_export(place / "elsewhere", others), f"{place}/pairs", PairSettings(), SAID)
    with pytest.raises(UnreadableSource, match=r"none of its 4 pairs is of photographs"):
        run(corpus, f"{place}/out", pairs=f"{place}/pairs")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"identity": ""}, r"4 photographs are of nobody.*--people label"),
        ({"face_embeddings": [[float("nan")] * 128]}, r"4 identity vectors hold NaN"),
    ],
)
def test_a_corpus_of_nobody_is_refused_with_the_reason(place, rows, change, why):
    faces = [row | change for row in rows[:4]]
    with pytest.raises(UnreadableSource, match=why):
        run(write_export(place / "run", faces), f"{place}/out")


def test_a_vector_that_is_none_is_left_out_and_counted(place, rows):
    bad = [rows[0] | {"face_embeddings": [[float("inf")] * 128]}, *rows[1:]]
    done = run(write_export(place / "run", bad), f"{place}/out")
    assert (done.samples, done.bad_embedding) == (3, 1)
    assert np.isfinite(Prepared(Path(f"{place}/out")).features.identity_mean).all()


def test_a_corpus_without_two_photographs_of_anybody_trains_as_before(place, rows):
    corpus = write_export(place / "run", rows[2:])
    pairs(corpus, f"{place}/pairs", PairSettings(), SAID)
    done = run(corpus, f"{place}/out", pairs=f"{place}/pairs")
    assert (done.samples, done.pairs) == (2, 0)
    assert shown(f"{place}/out") == {0: {0}, 1: {1}}


def test_a_loop_trains_on_the_pairs_that_it_made(corpus, place):
    recipe = replace(tiny_loop(), pairs=PairingSettings(make=True))
    work = Looping(
        recipe=recipe, home=place, folder=(place / "loop").make(), source="s",
        planned=("curate", "pairs", "prepare"), command="visage loop again", console=SAID,
    )  # fmt: skip
    work.steps["curate"] = Step(fingerprint="", seconds=0, finished_at="", result={"path": corpus})
    STEPS["pairs"](work)
    STEPS["prepare"](work)
    made = work.steps["prepare"].result
    assert (made["samples"], made["pairs"], made["nobody"]) == (4, 4, 1)
    STEPS["prepare"](work)
    assert work.steps["prepare"].reused


def test_a_loop_is_not_told_twice_who_belongs_together():
    base = LoopRecipe(name="mine")
    with pytest.raises(BadValue, match=r"give --pairs\.make instead"):
        replace(base, prepare=replace(base.prepare, people="identity", pairs="somewhere"))
    with pytest.raises(BadValue, match="the identities that curation found"):
        replace(base, pairs=PairingSettings(make=True),
                prepare=replace(base.prepare, people="self"))  # fmt: skip
