"""What the report shows of copies and of people."""

import base64
import io

import pyarrow as pa
import pytest
from PIL import Image

from pipelines.people import summary
from pipelines.reports.people import people_sections, slices
from pipelines.reports.thumbnails import face_thumbnail
from stages.columns import DECIDED, schema


def picture(colour="red", side=200):
    packed = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(packed, "PNG")
    return packed.getvalue()


def decisions(*rows):
    blank = dict.fromkeys(DECIDED, "") | {"source_row": 0, "num_faces": 1, "status": "keep"}
    return pa.Table.from_pylist([blank | row for row in rows], schema=schema(DECIDED))


def mains(*rows):
    names = ("id", "face", "identity", "identity_score", "identity_name", "reason")
    made = [dict(zip(names, (id_, 0, who, score, "", ""), strict=True)) for id_, who, score in rows]
    return pa.Table.from_pylist(made) if made else pa.table({n: [] for n in names})


def measures(*rows):
    names = ["id", "face_yaws_deg", "face_sizes_px", "face_sharpness"]
    return pa.Table.from_pylist(
        [dict(zip(names, (id_, [yaw], [size], [100.0]), strict=True)) for id_, yaw, size in rows],
        schema=schema(names),
    )


def sections(decided, known, read=None):
    asked = []

    def pictures(ids):
        asked.append(list(ids))
        return {id_: {"blob": picture(), "face_boxes_px": [[50, 50, 90, 90]]} for id_ in asked[-1]}

    told = summary(known, [])
    found = people_sections(decided, known, measures(), told, read or pictures)
    assert len(asked) <= 1, "pictures are read once"
    return found


def test_the_kept_picture_comes_first_and_then_its_copies():
    copies = [{"id": f"b{n}", "dup_of": "a0", "dup_kind": "near", "status": "reject",
               "rejected_by": "near_duplicate"} for n in range(5)]  # fmt: skip
    url = {"id": "c0", "dup_of": "a0", "dup_kind": "url", "status": "reject",
           "rejected_by": "duplicate_url"}  # fmt: skip
    found = sections(decisions({"id": "a0"}, *copies, url), mains())
    (strip,) = found.copies
    assert [p.words for p in strip.pictures] == ["kept", "near", "near", "near"]
    assert strip.words == "5 copies, 3 shown"
    assert strip.pictures[0].small.width_px == 200


def test_sheets_show_the_largest_the_smallest_and_the_least_sure():
    rows = [(f"a{n}", "many", 0.9) for n in range(12)] + [(f"b{n}", "few", 0.8) for n in range(2)]
    rows += [(f"c{n}", "vague", 0.1 + n / 100) for n in range(3)] + [("d0", "", 0.0)]
    found = sections(decisions(*({"id": id_} for id_, _, _ in rows)), mains(*rows))
    first = {kind: strips[0] for kind, strips in found.sheets}
    assert first["Most photos"].title == "many"
    assert first["Fewest photos"].title == "few"
    assert first["Least sure"].title == "vague"
    assert len(first["Most photos"].pictures) == 8
    assert [p.words for p in first["Least sure"].pictures] == ["0.10", "0.11", "0.12"]
    assert first["Least sure"].pictures[0].small.width_px == 112
    assert "10 or more: 1" in found.photos_plot


def test_without_copies_people_or_pictures_there_is_nothing_but_no_error():
    found = sections(decisions(), mains())
    assert (found.copies, found.sheets, found.photos_plot, found.slices) == ([], [], "", [])
    known = mains(("a", "x", 0.5), ("b", "x", 0.5))
    found = sections(decisions({"id": "a"}, {"id": "b"}), known, lambda _: {})
    assert all(p.small is None for _, strips in found.sheets for s in strips for p in s.pictures)


def test_slices_say_what_is_kept_and_known_of_each():
    decided = decisions(
        {"id": "a", "identity": "x"}, {"id": "b"}, {"id": "c", "status": "reject"},
    )  # fmt: skip
    found = {
        (each.title, each.range): each
        for each in slices(measures(("a", -5, 50), ("b", 10, 150), ("c", -50, 50)), decided)
    }
    ahead = found["Pose", "below 15 degrees of yaw"]
    assert (ahead.rows, ahead.kept, ahead.known) == (2, 1, 0.5)
    assert found["Pose", "45 or more degrees of yaw"].kept == 0
    assert found["Size", "below 64 px"].kept == 0.5
    assert sum(e.rows for e in found.values() if e.title == "Sharpness") == 3


def test_a_face_is_cut_out_as_a_square_with_what_is_around_it():
    image = Image.new("RGB", (400, 300), "blue")
    image.paste("red", (100, 100, 150, 150))
    packed = io.BytesIO()
    image.save(packed, "PNG")
    small = face_thumbnail(packed.getvalue(), (100, 100, 150, 150))
    assert (small.width_px, small.height_px) == (112, 112)
    face = Image.open(io.BytesIO(base64.b64decode(small.base64)))
    assert face.getpixel((56, 56))[0] > 200
    assert face.getpixel((4, 4))[2] > 200
    assert face_thumbnail(b"no picture", (0, 0, 1, 1)) is None


@pytest.mark.parametrize("box", [(-50, -50, 10, 10), (390, 290, 420, 330)])
def test_a_face_at_the_edge_is_still_a_square(box):
    assert face_thumbnail(picture(side=400), box).width_px == 112
