import base64
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from infra.errors import JobFailed
from pipelines.reports.funnel import UnaccountedRows
from pipelines.reports.page import (
    Example,
    JobSummary,
    RunSummary,
    StageSummary,
    duration,
    main_faces,
    rate,
    restricted,
    write_report,
)
from stages.columns import DECISIONS, ERRORS, REJECTIONS, schema
from stages.models.faces import ModelCard

CC0 = ModelCard("dlib-resnet", "ab" * 32, "CC0-1.0", "package:face_recognition_models")
PACK = ModelCard("buffalo_l", "cd" * 32, "non-commercial research only", "file:~/buffalo_l")
EVIL = '<img src="https://evil.example/x.png" onerror=alert(1)><script>alert(2)</script>'
MEASURED = ["face_sizes_px", "face_yaws_deg", "face_pitches_deg", "face_sharpness"]
MEASURED += ["face_exposures"]

RUN = RunSummary(
    run="holiday-12ab",
    recipe_name="photos",
    recipe_yaml="name: photos\nkeep:\n  min_side_px: 256\n",
    source="s3://bucket/holiday.tar",
    rows=0,
    seconds=83.0,
    jobs=(JobSummary("seed", 9, 0.5, reused=True), JobSummary("ingest", 9, 80.0, reused=False)),
    stages=(StageSummary("Decode", 9, 0.25), StageSummary("DetectFaces", 8, 64.0)),
    models=(CC0,),
    versions={"ray": "2.60.0"},
    code_version="0abc123",
    finished_at="2026-11-20T10:00:00+00:00",
)


def picture(size=(400, 300)):
    file = BytesIO()
    Image.new("RGB", size, "steelblue").save(file, "PNG")
    return file.getvalue()


def decisions(*reasons):
    def row(n, reason):
        status = "error" if reason in ERRORS else "reject" if reason else "keep"
        return {
            "id": f"{n:032x}",
            "status": status,
            "rejected_by": reason if status == "reject" else "",
            "error": reason if status == "error" else "",
        }

    return pa.Table.from_pylist(
        [row(n, reason) for n, reason in enumerate(reasons)], schema=schema(DECISIONS)
    )


def measures(*rows):
    return pa.Table.from_pylist(list(rows), schema=schema(["id", *MEASURED]))


def example(reason="", **facts):
    return replace(Example(reason, "f" * 32, "", "", None), **facts)


def report(reasons=("",), examples=(), measured=(), thresholds=None, **facts):
    run = replace(RUN, rows=len(reasons), **facts)
    return write_report(run, decisions(*reasons), measures(*measured), list(examples), thresholds)


class Page(HTMLParser):
    """Every element with its attributes, and all text that is shown."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.shown, self.inside = [], [], ""
        self.feed(html)
        self.text = " ".join(" ".join(self.shown).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.inside = tag

    def handle_data(self, data):
        if self.inside != "style":
            self.shown.append(data)


def test_the_headline_and_the_funnel_say_where_rows_went():
    page = Page(report(["", "", "", "no_face", "no_face", "near_duplicate", "dns", "http_4xx"]))
    assert "Kept 37.5 % 3 rows" in page.text
    assert "Rejected 37.5 % 3 rows" in page.text
    assert "Errors 25.0 % 2 rows" in page.text
    assert "3 kept + 3 rejected + 2 in error = 8 rows" in page.text
    assert "no_face fewer faces than the recipe wants 2 25.0 %" in page.text
    assert "Sum of the steps 8 100.0 %" in page.text


def test_a_row_with_an_unknown_reason_is_refused():
    with pytest.raises(UnaccountedRows, match="too_blue"):
        report(["", "too_blue"])


def test_a_missing_decision_is_refused():
    with pytest.raises(JobFailed, match="given 3 rows and wrote 2"):
        write_report(replace(RUN, rows=3), decisions("", ""), measures(), [])


def test_foreign_text_is_shown_and_not_run():
    facts = {"title": EVIL, "url": f"https://a.example/{EVIL}", "note": EVIL}
    page = Page(
        report(
            ["", "dns"],
            [example(blob=picture(), **facts), example("dns", **facts)],
            source=EVIL,
            recipe_yaml=EVIL,
            models=(replace(CC0, license=EVIL),),
        )
    )
    assert "script" not in [tag for tag, _ in page.elements]
    assert all(not name.startswith("on") for _, names in page.elements for name in names)
    assert [a["src"][:5] for tag, a in page.elements if tag == "img"] == ["data:"]
    assert page.text.count(EVIL) >= 7


def test_nothing_outside_the_page_is_referenced():
    html = report(
        ["", "dns"],
        [example(blob=picture(), url="https://a.example/1.jpg"), example("dns", url="http://b")],
        measured=[{"id": f"{0:032x}", "face_yaws_deg": [3.0]}],
        thresholds={"face_yaws_deg": (-60, 60)},
    )
    page = Page(html)
    assert {"svg", "img", "style"} <= {tag for tag, _ in page.elements}
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
    links = [a[n] for _, a in page.elements for n in ("src", "href", "xlink:href") if n in a]
    assert links
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in links)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "@import" not in html


def test_ids_are_unique_and_every_link_and_clip_leads_to_one():
    one = [{"id": f"{0:032x}", **{name: [0.5] for name in MEASURED}}]
    html = report(["", "no_face"], [example()], measured=one)
    ids = [a["id"] for _, a in Page(html).elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([\w-]+)', html)) <= set(ids)


def test_every_picture_and_plot_says_what_it_shows():
    html = report(
        ["", "no_face"],
        [example(blob=picture(), title="At the lake", boxes_px=[[0, 0, 9, 9]])],
        measured=[{"id": f"{0:032x}", "face_yaws_deg": [3.0]}],
        thresholds={"face_yaws_deg": (-60, 60)},
    )
    page = Page(html)
    assert [a["alt"] for tag, a in page.elements if tag == "img"] == [
        "kept: At the lake; 1 face marked"
    ]
    told = [a["aria-label"] for tag, a in page.elements if tag == "svg"]
    assert "kept 1 (50.0 %)" in told[0]
    assert "yaw in degrees of 1 faces: median 3" in told[1]
    assert "thresholds at -60 and 60" in told[1]
    assert "Decode 36, DetectFaces 0.125" in told[2]


def test_every_reason_with_an_example_has_a_section():
    reasons = ["", *REJECTIONS, *ERRORS]
    html = report(reasons, [example(reason) for reason in reversed(reasons)])
    sections = re.findall(r"</i>(\w+)</h3>", html)
    assert sections[0] == "kept"
    assert sorted(sections) == sorted(["kept", *REJECTIONS, *ERRORS])


def test_an_example_of_an_ending_that_no_row_had_is_refused():
    with pytest.raises(ValueError, match="ended by 'dns', but no row did"):
        report([""], [example("dns")])


def test_eight_of_one_reason_are_shown():
    html = report(["no_face"] * 20, [example("no_face", blob=picture())] * 11)
    assert html.count("data:image/jpeg") == 8
    assert "8 of 20" in Page(html).text


def test_an_example_without_a_picture_is_told_in_words():
    broken = example("broken_image", id="c0ffee" * 5 + "00", blob=b"no picture", note="cut off")
    page = Page(report(["broken_image"], [broken]))
    assert "img" not in [tag for tag, _ in page.elements]
    assert "c0ffeec0ffee cut off" in page.text


def test_a_thumbnail_shows_the_face_box_in_its_place():
    box = [100, 60, 300, 240]
    html = report([""], [example(blob=picture((800, 600)), boxes_px=[[2 * v for v in box]])])
    (data,) = re.findall(r"base64,([^\"]+)", html)
    small = np.asarray(Image.open(BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
    scale = small.shape[1] / 400
    drawn = np.abs(small - small[2, 2]).sum(axis=2) > 100
    rows, columns = np.nonzero(drawn)
    found = np.array([columns.min(), rows.min(), columns.max(), rows.max()]) / scale
    assert found == pytest.approx(box, abs=4)
    assert not drawn[
        rows.min() + 12 : rows.max() - 12, columns.min() + 12 : columns.max() - 12
    ].any()


def test_the_note_of_a_duplicate_is_shown():
    shown = example("near_duplicate", blob=picture(), note=f"near copy of {'0a' * 16}")
    page = Page(report(["near_duplicate", ""], [shown, example(id="0a" * 16)]))
    assert "near copy of 0a0a0a0a0a0a " in page.text
    assert page.text.count(" 0a0a0a0a0a0a ") == 2


def test_only_the_main_face_of_rows_with_faces_is_measured():
    table = measures(
        {"id": "a", "face_yaws_deg": [10.0, 99.0]},
        {"id": "b", "face_yaws_deg": []},
        {"id": "c", "face_yaws_deg": None},
        {"id": "d", "face_yaws_deg": [float("nan")]},
        {"id": "e", "face_yaws_deg": [-5.0]},
    )
    measure = main_faces(table, "face_yaws_deg", pa.array(["e"]))
    assert measure.values.tolist() == [10.0, -5.0]
    assert measure.kept.tolist() == [False, True]


@pytest.mark.parametrize("value", [0.0, 1.0, 250.0])
def test_faces_that_all_measure_the_same_are_plotted(value):
    rows = [{"id": f"{n:032x}", **{name: [value] for name in MEASURED}} for n in range(3)]
    lines = dict.fromkeys(MEASURED, (0.0, 20.0))
    html = report(["", "", "soft_face"], measured=rows, thresholds=lines)
    assert html.count("Histogram of ") == len(MEASURED)


def test_a_run_without_rows_faces_stages_or_models_has_a_report():
    page = Page(report([], jobs=(), stages=(), models=()))
    assert "Sum of the steps 0 0.0 %" in page.text
    assert "No model with weights took part" in page.text


def test_models_stand_with_digest_and_licence_and_what_follows():
    free, bound = Page(report()).text, Page(report(models=(CC0, PACK))).text
    assert "CC0-1.0 package:face_recognition_models " + "ab" * 32 in free
    assert "Not for commercial use" not in free
    assert "Not for commercial use. buffalo_l is licensed" in bound
    assert "cd" * 32 in bound


@pytest.mark.parametrize(
    ("license", "bound"),
    [
        ("CC0-1.0", False),
        ("MIT", False),
        ("Apache-2.0", False),
        ("cc-by-nc-4.0", True),
        ("Non-Commercial use", True),
        ("noncommercial", True),
        ("research only", True),
        (" ", True),
    ],
)
def test_a_licence_that_forbids_or_says_nothing_binds(license, bound):
    card = replace(CC0, license=license)
    assert restricted([card]) == ([card] if bound else [])


def test_a_reused_job_says_so_and_the_recipe_is_there():
    page = Page(report())
    assert "seed 9 0.5 s 18 done by an earlier run" in page.text
    assert "min_side_px: 256" in page.text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.7, "1 min 0 s"), (83, "1 min 23 s"), (7380, "2 h 3 min")],
)
def test_times_are_written_as_one_says_them(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("per_s", "text"), [(0.125, "0.125"), (19.84, "19.8"), (5943.2, "5,943")])
def test_rates_have_three_digits(per_s, text):
    assert rate(per_s) == text


def test_importing_the_report_loads_neither_ray_nor_the_plotting_library():
    loaded = "print({'ray', 'matplotlib', 'jinja2'} & set(sys.modules))"
    code = f"import sys, pipelines.reports.page; {loaded}"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
