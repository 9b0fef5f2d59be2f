import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from infra.configuration import digest
from infra.errors import UnreadableSource
from tests.training.conftest import write_features
from training.features import Features, Prepared, write_pairs

SHAPES = ((4, 8, 8), (4, 6, 10))


def test_a_feature_is_read_by_sample_whatever_its_shard(features):
    prepared = Prepared(features)
    rows = prepared.read("identity", np.array([3, 0, 10]))
    again = prepared.read("identity", np.array([0]))
    assert rows.shape == (3, 8)
    assert rows[1].equal(again[0])


def test_a_person_is_wholly_on_one_side(features):
    prepared = Prepared(features)
    train, heldout = prepared.split(0.5)
    assert sorted([*train, *heldout]) == list(range(len(prepared)))
    assert {prepared.people[i] for i in train} & {prepared.people[i] for i in heldout} == set()
    assert len(train) > 0
    assert len(heldout) > 0


def test_without_a_share_nobody_is_held_out(features):
    train, heldout = Prepared(features).split(0.0)
    assert (len(train), len(heldout)) == (24, 0)


def test_a_folder_that_was_not_prepared_is_refused_with_the_cure(tmp_path):
    with pytest.raises(UnreadableSource, match="visage prepare"):
        Features.read(tmp_path)


def test_rows_of_many_shards_come_in_the_order_asked_for(features):
    prepared = Prepared(features)
    samples = np.array([7, 2, 2, 23, 0, 11])
    together = prepared.read("latents", samples)
    alone = [prepared.read("latents", np.array([sample]))[0] for sample in samples]
    assert together.equal(torch.stack(alone))


def test_latents_of_a_bucket_are_those_of_its_own_tensor(tmp_path):
    prepared = Prepared(write_features(tmp_path / "f", shapes=SHAPES))
    index = pq.read_table(tmp_path / "f/index.parquet").sort_by("id").to_pylist()
    for bucket, shape in enumerate(SHAPES):
        samples = np.flatnonzero(prepared.buckets == bucket)
        latents = prepared.read("latents", samples)
        assert latents.shape == (12, *shape)
        row = index[samples[3]]
        held = load_file(tmp_path / f"f/shards/shard-{row['shard']:05d}.safetensors")
        assert latents[3].equal(held[f"latents.{bucket}"][row["place"]].float())
        assert prepared.read("identity", samples[3:4])[0].equal(held["identity"][row["row"]])


def test_what_stands_for_dropped_text_is_there_only_with_text(features, tmp_path):
    assert Prepared(features).empty() == {}
    prepared = Prepared(write_features(tmp_path / "t", text=(7, 32), pooled=16))
    empty = prepared.empty()
    assert {name: tuple(tensor.shape) for name, tensor in empty.items()} == {
        "text": (7, 32),
        "pooled": (16,),
    }
    assert prepared.names >= {"text", "pooled", "size"}


def test_features_are_read_as_they_were_written(tmp_path):
    written = Prepared(write_features(tmp_path / "t", image=(5, 32), shapes=SHAPES)).features
    assert written.latent_shapes == SHAPES
    assert Features.read(tmp_path / "t") == written


def test_a_photograph_knows_which_ones_it_is_paired_with(features):
    assert Prepared(features).references == {}
    write_pairs(features, [("0006", "0000"), ("0012", "0000"), ("0000", "0006")])
    assert Prepared(features).references == {}, "these features are not said to have pairs"
    replace(Features.read(features), pairs="1f").write(features)
    assert Prepared(features).references == {0: [6, 12], 6: [0]}
    write_pairs(features, [])
    assert Prepared(features).references == {}
    assert not (features / "pairs.parquet").exists()


def test_a_folder_of_before_there_were_buckets_and_encoders_is_still_read(features):
    path = features / "features.json"
    held = json.loads(path.read_text())
    for new in ("pooled_dim", "text_encoder", "image_shape", "image_encoder", "latent_shapes",
                "weights", "pairs"):  # fmt: skip
        del held[new]
    path.write_text(json.dumps(held))
    index = pq.read_table(features / "index.parquet").drop(["bucket", "place"])
    pq.write_table(index, features / "index.parquet")
    prepared = Prepared(features)
    assert (prepared.features.pooled_dim, prepared.features.latent_shapes) == (0, ())
    assert prepared.read("mask", np.array([0, 5])).shape == (2, 8, 8)


@pytest.mark.parametrize("harm", ["lost", "cut"])
@pytest.mark.parametrize(
    "name", ["index.parquet", "shards/shard-00000.safetensors", "shards/shard-00001.safetensors"]
)
def test_a_lost_or_cut_file_is_named_with_the_cure(features, name, harm):
    path = features / name
    whole = path.read_bytes()
    path.unlink()
    if harm == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    said = "does not exist" if harm == "lost" else "is damaged"
    with pytest.raises(UnreadableSource, match=rf"{name}.* {said}.*same `visage prepare`"):
        Prepared(features).read("identity", np.arange(24))


def test_a_lost_first_shard_is_named_by_whoever_asks_for_the_features_names(features):
    (features / "shards/shard-00000.safetensors").unlink()
    prepared = Prepared(features)
    with pytest.raises(UnreadableSource, match="shard-00000"):
        _ = prepared.names


@pytest.mark.parametrize("held", ['{"corpus": "c0', "[]", '{"nobody": 1}'])
def test_damaged_words_about_features_are_refused_with_the_cure(features, held):
    (features / "features.json").write_text(held)
    with pytest.raises(UnreadableSource, match=r"features\.json.*is damaged.*visage prepare"):
        Features.read(features)


def test_a_cut_empty_prompt_is_refused(tmp_path):
    folder = write_features(tmp_path / "t", text=(7, 32))
    (folder / "empty.safetensors").write_bytes(b"\x08")
    with pytest.raises(UnreadableSource, match=r"empty\.safetensors"):
        Prepared(folder).empty()


def test_features_prepared_with_other_weights_have_another_digest(features):
    """Which names the run: what was trained on others must not be taken for done."""
    before = Prepared(features).digest
    assert Prepared(features).digest == before
    replace(Features.read(features), weights={"codec": "0" * 64}).write(features)
    assert Prepared(features).digest != before


def test_what_newer_versions_say_of_features_changes_no_digest_of_older_ones(features):
    path = features / "features.json"
    held = json.loads(path.read_text())
    del held["licences"], held["preparation"]
    path.write_text(json.dumps(held))
    older = Prepared(features)
    assert (older.features.licences, older.features.preparation) == ({}, "")
    assert older.digest == digest(held)
