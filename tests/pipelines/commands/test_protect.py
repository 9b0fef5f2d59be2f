import asyncio

import pytest

from infra.errors import BadInput, BadValue, UnreadableSource
from pipelines.commands.protect import main
from serving.database import open_database
from serving.people.protected import BOUNDS, Protected
from tests.serving.doors import faces, he, she


@pytest.fixture
def here(tmp_path):
    (tmp_path / "she.jpg").write_bytes(she())
    (tmp_path / "he.jpg").write_bytes(he())
    return tmp_path, str(tmp_path / "serving.db")


def test_a_person_is_listed_refused_and_taken_off_again(here, capsys):
    folder, records = here
    assert main(["add", str(folder / "she.jpg"), "--records", records, "--note", "asked to"]) == 0
    told = capsys.readouterr()
    assert told.err == f"New records: {records}\n"
    entry = told.out.strip()
    protected, below = Protected(open_database(records)), BOUNDS["dlib"].below
    vector = asyncio.run(faces().embed(she())).faces[0].vector
    assert protected.resembled(vector[None], faces().embedder, below) == entry
    assert main(["list", "--records", records]) == 0
    told = capsys.readouterr().out
    assert entry in told
    assert "asked to" in told
    assert "Expect 0.1% of other people's faces" in told
    assert main(["remove", entry, "--records", records]) == 0
    assert protected.all() == []
    with pytest.raises(BadValue, match="nobody is listed so"):
        main(["remove", entry, "--records", records])


def test_photographs_of_two_people_protect_nobody(here):
    folder, records = here
    photos = [str(folder / name) for name in ("she.jpg", "he.jpg")]
    with pytest.raises(BadInput, match="one person"):
        main(["add", *photos, "--records", records])
    assert Protected(open_database(records)).all() == []


def test_what_is_not_there_is_named(here):
    folder, records = here
    with pytest.raises(UnreadableSource, match=r"none\.jpg"):
        main(["add", str(folder / "none.jpg"), "--records", records])
    with pytest.raises(BadInput, match="There are no records"):
        main(["list", "--records", str(folder / "other.db")])


def test_without_a_verb_it_says_what_there_is(capsys):
    assert (main([]), main(["--help"]), main(["ad"])) == (2, 0, 2)
    assert capsys.readouterr().out.count("usage: visage protect add") == 3
