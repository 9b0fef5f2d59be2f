from dataclasses import replace

import pyarrow as pa
import pytest

from pipelines.reports.datasheet import datasheet, licenses, plain
from pipelines.reports.funnel import funnel
from pipelines.reports.page import RunSummary
from stages.columns import COLUMNS, DECISIONS, schema
from stages.models.faces import ModelCard

PACK = ModelCard("buffalo_l", "cd" * 32, "non-commercial research only", "file:~/buffalo_l")
RECIPE = """\
name: photos
fetch:
  deadline_s: 20.0
keep:
  human_terms: [people, names]
  min_side_px: 256
dedupe:
  max_pdq_distance: 31
"""
RUN = RunSummary(
    run="holiday-12ab",
    recipe_name="photos",
    recipe_yaml=RECIPE,
    source="s3://bucket/holiday.tar",
    rows=5,
    seconds=83.0,
    jobs=(),
    stages=(),
    models=(ModelCard("dlib-resnet", "ab" * 32, "CC0-1.0", "package:face_recognition_models"),),
    versions={"ray": "2.60.0"},
    code_version="0abc123",
    finished_at="2026-11-20T10:00:00+00:00",
)
SIZES = ["width_px", "height_px"]


def kept(*rows):
    keep = {"status": "keep", "rejected_by": "", "error": "", "num_faces": 1, "label": ""}
    rows = [{"url": "", "license": "", **keep, **row} for row in rows]
    return pa.Table.from_pylist(rows, schema=schema([*DECISIONS, *SIZES]))


def steps(table, rejected=3):
    lost = {"id": "x", "status": "reject", "rejected_by": "no_face", "error": ""}
    gone = pa.Table.from_pylist([lost] * rejected, schema=schema(DECISIONS))
    return funnel(pa.concat_tables([table.select(DECISIONS), gone]))


def sheet(*rows, **facts):
    table = kept(*rows)
    return datasheet(replace(RUN, **facts), table, steps(table))


@pytest.mark.parametrize(
    "heading",
    ["Motivation", "Composition", "Collection", "Preprocessing", "Licences", "Consent", "Uses",
     "Distribution", "Maintenance"],
)  # fmt: skip
def test_every_question_of_the_paper_has_its_chapter(heading):
    assert f"\n\n## {heading}\n\n" in sheet({}, {})


def test_composition_counts_rows_faces_and_sizes():
    text = sheet(
        {"num_faces": 1, "width_px": 900, "height_px": 600},
        {"num_faces": 3, "width_px": 300, "height_px": 1200},
    )
    assert "2 of 5 input rows\nwere kept (40.0 %)" in text
    assert "| 1 | 1 |\n| 3 | 1 |" in text
    assert "300 px at least, 450 px in the median, 600 px at most" in text


def test_sizes_that_nobody_recorded_are_not_invented():
    table = kept({}).drop(SIZES)
    assert "Not recorded here." in datasheet(RUN, table, steps(table))


def test_labels_are_counted_and_never_listed():
    text = sheet({"label": "Ada Lovelace"}, {"label": "Ada Lovelace"}, {"label": "Alan Turing"})
    assert "3 rows carry a label, 2 different ones" in text
    assert "Lovelace" not in text
    assert "No row carries a label" in sheet({})


def test_fetching_is_told_only_of_rows_from_the_web():
    web, local = sheet({"url": "https://a.example/1.jpg"}, {}), sheet({}, {})
    assert "1 of the kept rows were fetched over HTTP" in web
    assert "| `deadline_s` | 20.0 |" in web
    assert "No kept row was fetched over HTTP" in local
    assert "deadline_s" not in local


def test_how_refusals_were_taken_is_told():
    web = {"url": "https://a.example/1.jpg"}
    assert "Where robots.txt forbade it, or could not be had, nothing was asked." in sheet(web)
    assert "tdm-reservation was not kept" in sheet(web)
    rude = RECIPE.replace("fetch:\n", "fetch:\n  robots: ignore\n  optouts: ignore\n")
    text = sheet(web, recipe_yaml=rude)
    assert "robots.txt was **ignored**." in text
    assert "tdm-reservation) were **ignored**" in text


def test_rules_stand_with_their_counts_and_thresholds():
    text = sheet({}, {})
    assert "| `no_face` | fewer faces than the recipe wants | 3 | 60.0 % |" in text
    assert "| `min_side_px` | 256 |" in text
    assert "| `human_terms` | people, names |" in text
    assert "| `max_pdq_distance` | 31 |" in text


def test_models_stand_with_digest_and_licence():
    assert (
        f"| dlib-resnet | CC0-1.0 | package:face\\_recognition\\_models | `{'ab' * 32}` |"
        in sheet({})
    )


def test_a_research_licence_binds_the_corpus():
    assert "Not for commercial use" not in sheet({})
    assert "**Not for commercial use.** buffalo\\_l" in sheet({}, models=(PACK,))


def test_licences_are_tallied_and_the_unstated_come_last():
    table = kept(*({"license": name} for name in ["CC0", "", "CC BY", None, " ", "CC BY "]))
    assert list(licenses(table).items()) == [("CC BY", 2), ("CC0", 1), ("", 3)]
    assert "| unstated | 3 |" in datasheet(RUN, table, steps(table))


def test_all_licences_stated_leaves_none_unstated():
    assert "| unstated | 0 |" in sheet({"license": "CC0"})


def test_rare_licences_are_summed_so_that_the_tally_stays_short():
    names = [f"licence {n:02}" for n in range(25)]
    tally = licenses(kept(*({"license": name} for name in [*names, names[24]])))
    assert next(iter(tally)) == "licence 24"
    assert tally["5 others"] == 5
    assert len(tally) == 21
    assert sum(tally.values()) == 26


def test_foreign_text_cannot_break_out_of_its_place():
    text = sheet({"license": "x | y\n\n# Forged\n<script>alert(1)</script>"})
    assert "| x \\| y \\# Forged \\<script\\>alert(1)\\</script\\> | 1 |" in text
    assert "\n# Forged" not in text
    assert "<script>" not in text
    assert plain("[a](javascript:b) *c* `d`") == r"\[a\](javascript:b) \*c\* \`d\`"


def test_what_nobody_can_know_is_left_to_a_person():
    text = sheet({})
    assert text.count("**To be filled in:**") == 4
    assert "records no consent" in text
    assert "identifying, verifying or looking up real people" in text


def test_a_picture_can_be_found_to_be_removed_by_columns_that_exist():
    way = sheet({}).split("**How is a picture removed?**")[1].split("\n\n")[0]
    named = way.split("`")[1::2]
    assert {"url", "id", "sha256", "pdq", "dup_of"} <= set(named)
    assert set(named) - {"export"} <= set(COLUMNS)


def test_an_empty_corpus_has_a_datasheet():
    table = kept()
    assert "0 of 0 input rows" in datasheet(replace(RUN, rows=0), table, steps(table, rejected=0))


def test_every_table_has_a_blank_line_before_it():
    lines = sheet({"url": "https://a.example/1.jpg"}, models=(PACK,)).splitlines()
    heads = [n for n, line in enumerate(lines) if line.startswith("|--")]
    assert len(heads) >= 6
    assert all(lines[n - 2] == "" for n in heads)
