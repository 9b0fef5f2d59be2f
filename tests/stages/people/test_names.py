import pytest

from infra.errors import BadInput
from stages.people.names import name_identities, names_in


def called(*photos, **settings):
    faces, names = zip(*photos, strict=True)
    found = name_identities([f.split() for f in faces], [n.split() for n in names], **settings)
    return {identity: named.name for identity, named in found.items()}


def test_a_name_that_recurs_with_a_face_becomes_its_name():
    assert called(("a b", "Ann Bob"), ("a c", "Ann Cyd"), ("b c", "Bob Cyd"), ("a", "Ann")) == {
        "a": "Ann",
        "b": "Bob",
        "c": "Cyd",
    }


def test_two_who_are_only_seen_and_named_together_get_no_name():
    assert called(*[("a b", "Ann Bob")] * 5) == {}


def test_one_photo_alone_tells_who_neither_is_nor_who_the_other_is():
    photos = [("a b", "Ann Bob")] * 3 + [("a", "Ann")]
    assert called(*photos) == {"a": "Ann", "b": "Bob"}


def test_one_photo_is_too_few_unless_asked():
    assert called(("a", "Ann")) == {}
    assert called(("a", "Ann"), min_photos=1) == {"a": "Ann"}


def test_a_name_that_is_somewhere_in_many_captions_names_no_passer_by():
    photos = [("a", "Ann")] * 5 + [("x", "Ann Xen"), ("x", "Xen"), ("x", "Xen")]
    assert called(*photos) == {"a": "Ann", "x": "Xen"}


def test_what_speaks_for_a_name_is_told():
    named = name_identities([["a"]] * 4, [["Ann"], ["Ann"], ["Ann"], ["Bob"]])["a"]
    assert 2 < named.photos <= 3
    assert 0.5 < named.share <= 0.75


def test_faces_and_captions_of_nobody_are_passed_over():
    assert name_identities([], []) == {}
    assert name_identities([[""], ["a"], []], [["Ann"], [], ["Ann"]]) == {}


def test_the_order_of_photos_changes_nothing():
    photos = [("a b", "Ann Bob"), ("a c", "Ann Cyd"), ("b c", "Bob Cyd"), ("a", "Ann")] * 2
    assert called(*photos) == called(*reversed(photos))


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(BadInput, match="1 lists of names were given for 2 photos"):
        name_identities([["a"], ["b"]], [["Ann"]])


@pytest.mark.parametrize(
    ("caption", "names"),
    [
        ("Angela Merkel meets Tony Blair's wife in London", ["Angela Merkel", "Tony Blair"]),
        ("John van der Berg and Sean O'Brien", ["John van der Berg", "Sean O'Brien"]),
        ("The White House in New York", []),
        ("a portrait of mary", []),
        ("", []),
        ("Anna \u0160koda and Anna \u0160koda", ["Anna \u0160koda"]),
    ],
)
def test_full_names_are_found_in_captions(caption, names):
    assert names_in([caption]) == [names]
