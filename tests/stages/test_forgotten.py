from stages.columns import SEED, schema
from stages.forgotten import DropForgotten, forgotten_row, tombstone


def test_a_tombstone_is_32_digits_of_which_the_id_cannot_be_told():
    assert len(tombstone("a" * 32)) == 32
    assert tombstone("a") != tombstone("b")
    assert tombstone("a" * 32) != "a" * 32


def test_of_a_forgotten_row_its_place_is_left():
    row = dict.fromkeys(SEED, "text") | {"id": "1f", "source_row": 7, "source": "a.csv"}
    texts = [name for name in SEED if schema([name]).types[0] == "string"]
    left = forgotten_row(row, SEED, texts)
    assert {name: value for name, value in left.items() if value} == {
        "id": tombstone("1f"),
        "source": "a.csv",
        "source_row": 7,
        "status": "reject",
        "rejected_by": "forgotten",
    }
    assert list(left) == SEED


def test_a_forgotten_file_is_rejected_and_not_kept_whatever_its_name():
    stage = DropForgotten(frozenset({tombstone("aa")}))
    batch = {
        "blob": [b"1", b"2"], "sha256": ["aa", "bb"], "pdq": [b"x", b"y"],
        "pdq_mirror": [b"x", b"y"], "caption": ["Ada", "Bob"], "label": ["Ada", "Bob"],
        "rejected_by": ["", ""],
    }  # fmt: skip
    out = stage(batch)
    assert out["rejected_by"] == ["forgotten", ""]
    assert [column[0] for name, column in out.items() if name != "rejected_by"] == [
        None, "", None, None, "", "",
    ]  # fmt: skip
    assert {name: column[1] for name, column in out.items()} == {
        name: column[1] for name, column in batch.items()
    }
