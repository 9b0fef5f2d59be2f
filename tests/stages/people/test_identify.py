import numpy as np
import pytest

from infra.errors import BadValue
from stages.people.identify import identify, label_identity, limits_of
from stages.people.settings import PeopleSettings
from tests.stages.people.crowds import POINTS


def crowd(*counts, seed=0):
    """Make photos of people: unit vectors about a centre each."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((len(counts), 32))
    who = np.repeat(np.arange(len(counts)), counts)
    vectors = centres[who] + 0.1 * rng.standard_normal((len(who), 32))
    return [f"{n:04d}" for n in range(len(who))], vectors.astype(np.float32), who


def test_without_labels_the_vectors_alone_say_who_is_who():
    ids, vectors, who = crowd(3, 4, 1)
    found = identify(ids, vectors, ["x"] * len(ids), PeopleSettings(), POINTS)
    assert len({(identity, person) for identity, person in zip(found.identity, who, strict=True)
                if identity}) == 2  # fmt: skip
    assert found.identity[-1] == ""
    assert found.reason[-1] == "lone_face"
    assert found.steps == []


def test_a_clean_label_names_its_people_and_a_wrong_one_is_dropped():
    ids, vectors, who = crowd(5, 5)
    labels = ["Ada" if person == 0 else "Bob" for person in who]
    labels[0] = "Bob"
    found = identify(ids, vectors, labels, PeopleSettings(labels="use"), POINTS)
    assert found.identity[0] == ""
    assert found.reason[0] == "not_the_person"
    assert set(found.identity[1:5]) == {label_identity("Ada")}
    assert set(found.identity[5:]) == {label_identity("Bob")}
    assert found.steps[0].name == "labelled"


def test_a_face_without_a_label_joins_the_label_of_its_group():
    ids, vectors, _ = crowd(4, 3)
    labels = ["Ada", "Ada", "Ada", "", "", "", ""]
    found = identify(ids, vectors, labels, PeopleSettings(labels="use"), POINTS)
    assert found.identity[3] == label_identity("Ada")
    assert len(set(found.identity[4:])) == 1
    assert found.identity[4] not in ("", label_identity("Ada"))


def test_the_order_of_faces_does_not_matter():
    ids, vectors, who = crowd(4, 3, 2)
    labels = [f"p{person}" for person in who]
    order = np.random.default_rng(1).permutation(len(ids))
    settings = PeopleSettings(labels="use")
    found = identify(ids, vectors, labels, settings, POINTS)
    again = identify(
        [ids[n] for n in order], vectors[order], [labels[n] for n in order], settings, POINTS
    )
    assert [found.identity[n] for n in order] == again.identity
    assert [found.reason[n] for n in order] == again.reason


def test_settings_replace_the_distances_of_the_embedder():
    assert limits_of(PeopleSettings(), POINTS) == POINTS
    assert limits_of(PeopleSettings(pair_below=0.03), POINTS).pair_below == 0.03
    with pytest.raises(BadValue, match=r"pair_below <= group_below"):
        identify(*crowd(2)[:2], ["", ""], PeopleSettings(pair_below=0.5), POINTS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"min_photos": 0}, "give 1 or more"),
        ({"pair_below": -1.0}, "give 0 or more"),
        ({"enabled": False, "reject_strangers": True}, "leave people.enabled on"),
    ],
)
def test_settings_that_cannot_work_say_so(change, said):
    with pytest.raises(BadValue, match=said):
        PeopleSettings(**change)
