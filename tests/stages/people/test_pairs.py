from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from infra.errors import BadValue
from stages.landmarks import mean_face
from stages.people.pairs import Photos, aligned, match, pdq_distances
from stages.people.settings import PairSettings
from stages.people.thresholds import grouping_points

POINTS = grouping_points("dlib")


def photos(people=6, each=8, seed=0):
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), each)
    vectors = rng.standard_normal((people, 32))[who] + 0.1 * rng.standard_normal((len(who), 32))
    hashes = rng.integers(0, 256, (len(who), 32), dtype=np.uint8)
    return Photos(
        ids=[f"{n:03d}" for n in range(len(who))],
        identities=[f"person {n}" for n in who],
        vectors=vectors.astype(np.float32),
        pdq=hashes,
        pdq_mirror=rng.integers(0, 256, (len(who), 32), dtype=np.uint8),
        poses_deg=rng.uniform(-30, 30, (len(who), 2)) * [1, 0.3],
        landmarks=rng.standard_normal((len(who), 5, 2)) * 0.05,
    )


def shuffled(them, seed=1):
    order = np.random.default_rng(seed).permutation(len(them.ids))
    return Photos(
        [them.ids[n] for n in order], [them.identities[n] for n in order], them.vectors[order],
        them.pdq[order], them.pdq_mirror[order], them.poses_deg[order], them.landmarks[order],
    )  # fmt: skip


def told(them, found):
    return [
        (each.id, each.kind, *(them.ids[n] if n >= 0 else ""
                               for n in (each.reference, each.target, each.other)))
        for each in found
    ]  # fmt: skip


def test_reference_and_target_are_two_photos_of_one_person():
    them = photos()
    found = match(them, POINTS, PairSettings())
    assert {each.kind for each in found} == {"pair", "triplet", "group"}
    for each in found:
        assert each.reference != each.target
        assert them.identities[each.reference] == them.identities[each.target]
        if each.other >= 0:
            assert them.identities[each.other] != them.identities[each.reference]


def test_no_two_photos_that_are_nearly_one_are_a_pair_mirrored_or_not():
    them = photos(people=1, each=4)
    them.pdq[1] = them.pdq[0]
    them.pdq[1, 0] ^= 0b1111
    them.pdq_mirror[3] = them.pdq[2]
    found = match(them, POINTS, PairSettings(kinds=("pair",)))
    pairs = {(each.reference, each.target) for each in found}
    assert pairs & {(0, 1), (1, 0), (2, 3)} == set()
    assert (0, 2) in pairs
    ends = np.array(sorted(pairs)).T
    assert pdq_distances(them, *ends).min() > 31
    assert min(each.pdq_distance for each in found) > 31


def test_the_same_photos_in_another_order_give_the_same_matches_and_another_seed_others():
    them = photos()
    other = shuffled(them)
    found = told(them, match(them, POINTS, PairSettings()))
    assert told(other, match(other, POINTS, PairSettings())) == found
    assert told(them, match(them, POINTS, PairSettings(seed=1))) != found


def test_pairs_are_dealt_out_over_poses_and_landmarks():
    them = photos(people=1, each=16)
    few = match(them, POINTS, PairSettings(kinds=("pair",), per_identity=12))
    assert len(few) == 12
    every = match(them, POINTS, PairSettings(kinds=("pair",), per_identity=10_000))
    assert len(every) == 16 * 15
    strata = Counter(each.stratum for each in every)
    assert max(strata.values()) > 12, "one stratum could have filled all places"
    assert len({each.stratum for each in few}) == min(12, len(strata))


def test_the_third_of_a_triplet_looks_alike_but_not_so_much_that_it_could_be_the_same():
    them = photos(people=3, each=2)
    # Cosine distance is that of angles; photo 3 has another identity, and yet the same face.
    angles = np.radians([0, 5, 40, 1, 90, 95])
    them.vectors[:] = 0
    them.vectors[:, :2] = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    settings = PairSettings(kinds=("triplet",))
    (found,) = (each for each in match(them, POINTS, settings) if each.reference == 0)
    assert found.other == 2


def test_a_group_has_one_pose_in_common_and_another_apart():
    them, settings = photos(people=10, each=6), PairSettings(kinds=("group",))
    found = match(them, POINTS, settings)
    assert found
    for each in found:
        gap = np.linalg.norm(them.poses_deg[each.reference] - them.poses_deg[each.other])
        assert gap <= settings.same_pose_deg
        assert each.pose_gap_deg >= settings.other_pose_deg


@pytest.mark.parametrize("people", [0, 1, 5])
def test_people_of_one_photo_or_none_give_no_pairs(people):
    assert match(photos(people, 1), POINTS, PairSettings()) == []


def test_a_face_turned_scaled_and_shifted_has_the_same_aligned_points():
    face = mean_face("arcface5")[:, :2].astype(np.float32)
    turn = np.array([[0.8, -0.6], [0.6, 0.8]], np.float32)
    both = np.stack([face * 40 + 100, face @ turn.T * 70 - 20])
    points = aligned(both, "arcface5")
    assert np.allclose(points, face, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"per_identity": 0}, "per_identity"),
        ({"min_score": 2.0}, "min_score"),
        ({"min_pdq_distance": 0}, "min_pdq_distance"),
        ({"same_pose_deg": 30.0}, "same_pose_deg"),
        ({"kinds": ()}, "kinds"),
    ],
)
def test_settings_that_cannot_work_say_so(change, key):
    with pytest.raises(BadValue, match=key):
        replace(PairSettings(), **change)
