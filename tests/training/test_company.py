"""Losses that compare samples say before a run that there is nobody to compare with."""

from dataclasses import replace

import pytest

from infra.errors import BadValue
from tests.training.conftest import write_features
from tests.training.methods import subjects
from training.build import build
from training.methods.dis_booth import DisBooth
from training.objective import check_company
from training.recipes import RECIPES, tiny
from training.settings import DataSettings, LossSettings, MethodSettings, Scale

LORA = MethodSettings(kind="lora", lora_rank=4)
COMPARING = pytest.mark.parametrize("loss", ["triplet", "edit_direction", "decorrelate"])


def recipe(loss, *, weight=0.5, **more):
    return replace(tiny(), losses=LossSettings(**{loss: weight}), **more)


@COMPARING
def test_a_microbatch_of_one_is_refused_and_one_of_two_is_not(loss):
    cure = rf"losses\.{loss} cannot be 0\.5: it compares samples .* set microbatch to 2 or more\.$"
    with pytest.raises(BadValue, match=cure):
        check_company(recipe(loss, batch=8, microbatch=1), people=6)
    check_company(recipe(loss, batch=8, microbatch=2), people=6)
    check_company(recipe(loss, weight=0.0, batch=8, microbatch=1), people=6)


@COMPARING
def test_a_batch_that_leaves_each_worker_one_sample_is_a_microbatch_of_one(loss):
    with pytest.raises(BadValue, match=r"microbatch to 2 .* batch to as many for each worker"):
        check_company(recipe(loss, batch=4, microbatch=4, scale=Scale(workers=4)), people=6)
    both = Scale(workers=4, sequence=2)
    check_company(recipe(loss, batch=4, microbatch=4, scale=both), people=6)


def test_nobody_is_told_from_one_person():
    with pytest.raises(BadValue, match=r"losses\.triplet .* samples are of one; .*prior_share"):
        check_company(recipe("triplet"), people=1)
    check_company(recipe("edit_direction"), people=1)  # one person's prompts differ


def test_a_prior_of_nobody_is_refused():
    with pytest.raises(BadValue, match=r"losses\.prior .* no samples are of the class"):
        check_company(recipe("prior"), people=1)
    check_company(recipe("prior", data=DataSettings(subject="p3", prior_share=0.5)), people=6)


@pytest.mark.parametrize("name", RECIPES)
def test_every_run_that_we_stand_behind_has_its_company(name):
    subject = RECIPES[name]().method.per_subject and not RECIPES[name]().data.prior_share
    check_company(RECIPES[name](), people=1 if subject else 2)


@pytest.mark.parametrize("name", ["dis_booth_sd15", "stable_identity_sd15", "sefi_ide_sd15"])
def test_subjects_that_are_learnt_one_by_one_have_no_triplets(name):
    with pytest.raises(BadValue, match=r"losses\.triplet .* microbatch to 2"):
        check_company(replace(RECIPES[name](), losses=LossSettings(triplet=0.1)), people=1)


def test_a_subject_has_triplets_with_a_class_beside(tmp_path):
    folder = write_features(
        tmp_path / "f", shape=(4, 16, 16), codec="random:tiny-sd", text=(5, 32), dim=128
    )
    data = DataSettings(path=str(folder), heldout_share=0.0, subject="p3")
    alone = recipe("triplet", data=data, batch=2, microbatch=2)
    with pytest.raises(BadValue, match=r"losses\.triplet .* samples are of one"):
        build(alone)
    job = build(replace(alone, data=replace(data, prior_share=0.5)))
    batch = next(job.batches.micro(0))
    assert sorted(batch["is_prior"].tolist()) == [False, True]
    assert job.method.objective.weights["triplet"] == 0.5


def test_a_subject_s_words_follow_from_no_vector(tmp_path):
    """DisenBooth's tokens are a prompt's states, of which two photographs change nothing."""
    method = MethodSettings(kind="dis_booth", lora_rank=4)
    with pytest.raises(BadValue, match=r"losses\.decorrelate .* than the person's vector"):
        subjects.make(tmp_path, DisBooth, method, losses=LossSettings(decorrelate=0.1))
