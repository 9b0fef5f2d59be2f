import json

import pytest
from sqlalchemy import delete, update

from infra.errors import BadInput, UnknownKey
from pipelines.commands.audit import main
from serving.audit import AUDIT, Audit
from serving.database import open_database


@pytest.fixture
def records(tmp_path):
    path = str(tmp_path / "serving.db")
    audit = Audit(open_database(path))
    for i in range(4):
        audit.log("used", subject=f"person_{i}")
    return path


def change(records, statement):
    with open_database(records).begin() as transaction:
        transaction.execute(statement)


def test_a_whole_log_is_called_whole_and_its_head_is_told(records, capsys):
    assert main(["verify", "--records", records]) == 0
    told = capsys.readouterr()
    head = list(Audit(open_database(records)).rows())[-1]["digest"]
    assert told.out == f"4 rows in order\nhead {head}\n"
    assert main(["verify", "--records", records, "--head", head]) == 0


def test_a_changed_row_is_named_and_the_exit_code_says_so(records, capsys):
    change(records, update(AUDIT).where(AUDIT.c.number == 3).values(subject="person_9"))
    assert main(["verify", "--records", records]) == 1
    assert "row 3 was changed" in capsys.readouterr().err


def test_rows_that_were_cut_off_show_by_the_head_of_an_export(records, tmp_path, capsys):
    out = tmp_path / "audit.jsonl"
    assert main(["export", "--records", records, "--out", str(out)]) == 0
    head = capsys.readouterr().err.split()[1]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows == list(Audit(open_database(records)).rows())
    assert rows[-1]["digest"] == head
    change(records, delete(AUDIT).where(AUDIT.c.number == 4))
    assert main(["verify", "--records", records]) == 0
    assert main(["verify", "--records", records, "--head", head]) == 1
    assert "cut off" in capsys.readouterr().err


def test_an_export_goes_to_the_terminal_and_over_no_file(records, tmp_path, capsys):
    assert main(["export", "--records", records]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    (tmp_path / "there").write_text("mine")
    with pytest.raises(BadInput, match="is there already"):
        main(["export", "--records", records, "--out", str(tmp_path / "there")])
    assert (tmp_path / "there").read_text() == "mine"


def test_looking_makes_no_records(tmp_path):
    with pytest.raises(BadInput, match="There are no records"):
        main(["verify", "--records", str(tmp_path / "none.db")])
    assert list(tmp_path.iterdir()) == []


def test_without_a_verb_it_says_what_there_is(capsys):
    assert (main([]), main(["--help"]), main(["verfy"])) == (2, 0, 2)
    assert capsys.readouterr().out.count("usage: visage audit verify") == 3
    with pytest.raises(UnknownKey, match="Did you mean"):
        main(["verify", "--record", "x"])
