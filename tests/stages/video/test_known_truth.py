"""Whole videos whose cuts and people are known, by the functions of the benchmark."""

import pytest

from tests.bench import video as bench


@pytest.mark.slow
def test_cuts_are_found_at_their_frames():
    assert bench.cuts(videos=6)["f1"] >= 0.98


@pytest.mark.slow
def test_every_track_is_of_its_person_and_stays_so():
    told = bench.identities(clips=5)
    assert told == {"clips": 5, "pairs": 10, "pairs_right": 10, "extra_tracks": 0}


@pytest.mark.slow
def test_people_who_pass_one_another_are_not_exchanged():
    told = bench.passing(switches=2)
    assert told["switches"] == 0
    assert told["tracks"] >= 2


@pytest.mark.long
def test_two_hours_fit_into_the_memory_of_minutes():
    told = bench.long(hours=2.0)
    assert told["frames"] == 14400
    assert told["grown_mib"] < 300
