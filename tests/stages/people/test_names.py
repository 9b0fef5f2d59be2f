from collections import defaultdict

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
        # What stands around a name.
        ("Yesterday Angela Merkel spoke. Tony listened", ["Angela Merkel"]),
        ("US President George W. Bush waves", ["George W. Bush"]),
        ("Samuel L. Jackson\u2019s hat, Charles' dog", ["Samuel L. Jackson"]),
        ("Photo: Tom Hanks/Getty, 2019 -- Kate Winslet (r.)", ["Tom Hanks", "Kate Winslet"]),
        ("#TomHanks @katewinslet tom hanks Tom", []),
        ("Tom_Hanks_0001.jpg and IMG_2041.JPG", []),
        # Nicknames, and what is no nickname.
        ('Dwayne "The Rock" Johnson', ["Dwayne Johnson"]),
        ("Dwayne \u201cThe Rock\u201d Johnson", ["Dwayne Johnson"]),
        ("Dwayne 'The Rock' Johnson (left) smiles", ["Dwayne Johnson"]),
        ("Katherine (Kate) Middleton", ["Katherine Middleton"]),
        ('Tom Hanks in "Kate Smith" and more', ["Tom Hanks"]),
        # Letters that are not ASCII: composed or not, and small ones are not capitals.
        ("Jose\u0301 A\u0301lvarez \u00fcber Anna \u00f6ffnet", ["Jos\u00e9 \u00c1lvarez"]),
        ("\u0412\u043b\u0430\u0434\u0438\u043c\u0438\u0440 \u041f\u0443\u0442\u0438\u043d", []),
        ("\u6bdb\u6cfd\u4e1c \U0001f600 Tom\u00a0Hanks \U0001f600", ["Tom Hanks"]),
        # Capitals everywhere: headlines, and names that shout.
        ("Angela Merkel Visits Washington As Talks Begin", ["Angela Merkel"]),
        ("Tom Hanks And Kate Winslet At The Premiere", ["Tom Hanks", "Kate Winslet"]),
        ("TOM HANKS, KATE O'BRIEN", ["Tom Hanks", "Kate O'Brien"]),
        ("John Paul II blesses", ["John Paul II"]),
        # Hyphens, apostrophes, particles at the end of it.
        ("Mary-Kate Olsen and D'Angelo Russell", ["Mary-Kate Olsen"]),
        (
            "Ludwig van Beethoven; Anna de la Cruz; Anna van",
            ["Ludwig van Beethoven", "Anna de la Cruz"],
        ),
        ("George W. and Anna B.", []),
    ],
)
def test_full_names_are_found_in_captions(caption, names):
    assert names_in([caption]) == [names]


def test_the_spellings_of_a_name_are_one_name():
    captions = [
        "Pen\u00e9lope Cruz", "Penelope Cruz", "PENELOPE CRUZ", "Penelope Cruz, 35",
        "George W Bush", "George W. Bush", "George W. Bush", "Sean O\u2019Brien", "Sean O'Brien",
    ]  # fmt: skip
    found = names_in(captions)
    assert found == [["Penelope Cruz"]] * 4 + [["George W. Bush"]] * 3 + [["Sean O'Brien"]] * 2
    assert names_in(captions[::-1]) == found[::-1]


CAPTIONS = {
    "a": ["Actor Tom Hanks waves", "TOM HANKS AND KATE WINSLET ARRIVE", "Tom Hanks's car", "him"],
    "b": ["Kate Winslet", "TOM HANKS AND KATE WINSLET ARRIVE", "Kate Winslet (l.), 2009"],
    "two names": ["Marilyn Monroe", "Marilyn Monroe, born Norma Mortenson", "Marilyn Monroe"],
    "always two": ["Anna Smith, born Anna Jones"] * 4,
    "no names": ["a woman", "", "IMG_2041.JPG", "\u6bdb\u6cfd\u4e1c"],
    "once": ["Angela Merkel"],
}


def test_identities_are_named_from_captions_as_they_are_on_the_web():
    photos = defaultdict(list)
    for face, captions in CAPTIONS.items():
        for number, caption in enumerate(captions):
            alone = "TOM HANKS AND" not in caption
            photos[f"{face} {number}" if alone else caption, caption].append(face)
    names = names_in([caption for _, caption in photos])
    named = name_identities(list(photos.values()), names)
    assert {face: each.name for face, each in named.items()} == {
        "a": "Tom Hanks", "b": "Kate Winslet", "two names": "Marilyn Monroe",
    }  # fmt: skip
