"""Pairs of an exported corpus that is made up; no Ray, no model."""

import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from infra.errors import UnreadableSource
from infra.storage import open_folder
from pipelines.cli import main
from pipelines.exported import export_files
from pipelines.forgetting.files import Gone, scrub
from pipelines.loop import STEPS
from pipelines.loops.recipes import PairingSettings, tiny
from pipelines.loops.record import Looping, Step
from pipelines.loops.report import summary
from pipelines.pairs import PAIRS, pairs
from stages.columns import COLUMNS, schema
from stages.people.settings import PairSettings

SAID = Console(file=io.StringIO())
WRITTEN = [name for name, column in COLUMNS.items() if not column.in_memory_only]


def row(number, identity, score=0.9):
    rng = np.random.default_rng(number)
    packed = io.BytesIO()
    Image.new("RGB", (100, 100), (number, 80, 120)).save(packed, "JPEG")
    centre = np.random.default_rng(sum(identity.encode())).standard_normal(16)
    return dict.fromkeys(WRITTEN) | {
        "id": f"{number:032x}", "identity": identity, "identity_score": score, "num_faces": 1,
        "face_embeddings": [(centre + 0.1 * rng.standard_normal(16)).tolist()],
        "face_boxes_px": [[10.0, 20.0, 60.0, 80.0]],
        "face_landmarks_px": [(np.array([55.0, 40, 45, 40, 15, 40, 25, 40, 35, 60])
                               + rng.uniform(-2, 2, 10)).tolist()],
        "face_yaws_deg": [float(rng.uniform(-40, 40))], "face_pitches_deg": [0.0],
        "pdq": rng.bytes(32), "pdq_mirror": rng.bytes(32), "embedder": "dlib-resnet@0",
        "width_px": 100, "height_px": 100, "mime": "image/jpeg", "caption": f"photo {number}",
        "url": "", "license": "CC0", "blob": packed.getvalue(),
    }  # fmt: skip


def corpus(place, rows):
    table = pa.Table.from_pylist(rows, schema=schema(WRITTEN))
    (place / "export/parquet").write_table("part-00000.parquet", table)
    return str(place)


@pytest.fixture
def place(tmp_path):
    return open_folder(str(tmp_path)).make()


@pytest.fixture
def made(place):
    rows = [row(n, f"person {n % 3}") for n in range(18)] + [row(18, ""), row(19, "person 0", 0.1)]
    return pairs(corpus(place / "run", rows), f"{place}/out", PairSettings(), SAID)


def test_what_is_written_is_what_training_reads(made, place):
    table = pq.read_table(f"{place}/out/pairs.parquet")
    assert table.schema.equals(PAIRS)
    assert made.identities == 3
    assert made.photos == 18, "neither nobody nor who is hardly somebody"
    assert sum(made.matches.values()) == table.num_rows
    assert len(set(table["id"].to_pylist())) == table.num_rows
    for each in table.to_pylist():
        assert each["reference_identity"] == each["target_identity"]
        assert len(each["reference_embedding"]) == 16
        assert (each["kind"] == "pair") == (each["other_id"] == "")
        assert each["pdq_distance"] > 31
        assert each["similarity"] > 0.8


def test_a_line_names_the_face_of_one_photo_and_all_else_of_another(made, place):
    home = place / "out"
    lines = [json.loads(line) for line in home.read("pairs.jsonl").splitlines()]
    assert len(lines) == made.matches["pair"]
    for line in lines:
        assert line["reference_id"] != line["target_id"]
        assert line["target_id"] in line["image_file"]
        assert line["caption"] == f"photo {int(line['target_id'], 16)}"
        assert np.shape(line["landmarks"]) == (5, 2)
    with Image.open(f"{home}/{lines[0]['face_file']}") as face:
        assert face.size == (50, 60)
    vector = np.load(f"{home}/{lines[0]['insightface_feature_file']}")
    assert vector.dtype == np.float32
    assert home.read(lines[0]["image_file"])[:2] == b"\xff\xd8"


def test_the_same_again_does_nothing_and_other_settings_replace_it(made, place):
    before = (place / "out").read("pairs.parquet")
    assert pairs(f"{place}/run", f"{place}/out", PairSettings(), SAID) == made
    assert (place / "out").read("pairs.parquet") == before
    few = pairs(f"{place}/run", f"{place}/out", PairSettings(per_identity=1), SAID)
    assert few.matches["pair"] == 3
    named = set(pq.read_table(f"{place}/out/pairs.parquet")["target_image_file"].to_pylist())
    there = {path.removeprefix(f"{place}/out/") for path in (place / "out/images").files()}
    assert named <= there
    assert len(there) < 18, "files that no match names are gone"


@pytest.mark.parametrize("rows", [[], [row(0, "")], [row(0, "a")], [row(0, "a"), row(1, "b")]])
def test_a_corpus_without_two_photos_of_anybody_has_no_pairs(place, rows):
    done = pairs(corpus(place / "run", rows), f"{place}/out", PairSettings(), SAID)
    assert done.matches == {}
    assert pq.read_table(f"{place}/out/pairs.parquet").schema.equals(PAIRS)
    assert (place / "out").read("pairs.jsonl") == b""


def test_what_is_no_corpus_says_what_to_name(place, capsys):
    with pytest.raises(UnreadableSource, match="Name a run of `visage curate`"):
        pairs(f"{place}/none", f"{place}/out", PairSettings(), SAID)
    old = pa.table({"id": ["a"]})
    (place / "old/export/parquet").write_table("part-00000.parquet", old)
    with pytest.raises(UnreadableSource, match=r"its rows have no identity.*curate it again"):
        pairs(f"{place}/old", f"{place}/out", PairSettings(), SAID)
    assert main(["pairs", f"{place}/none", "--out", f"{place}/out"]) == 2
    assert "no exported corpus is there" in capsys.readouterr().err
    assert main(["pairs", f"{place}/none", "--per-identiti", "3"]) == 2
    assert "--per-identity" in capsys.readouterr().err


def test_an_export_is_found_where_it_is_and_only_when_it_is_whole(place):
    run, record = place / "run", {"job": "export", "data": "run/export", "finished_at": "today"}
    corpus(run, [row(n, "somebody") for n in range(3)])
    (place / "same/export").write_json("job.json", record)
    for where in ("run", "run/export", "run/export/parquet", "same"):
        _, files = export_files(f"{place}/{where}", "identity")
        assert files == [f"{run}/export/parquet/part-00000.parquet"]
    (run / "export").write_json("job.json", record | {"finished_at": ""})
    for where in ("run", "run/export", "run/export/parquet"):
        with pytest.raises(UnreadableSource, match="its export is not finished"):
            export_files(f"{place}/{where}")
    (place / "tars").write_json("run.json", {"keep": 3})
    with pytest.raises(UnreadableSource, match=r"parquet among --export\.formats"):
        export_files(f"{place}/tars")
    (place / "none").write_json("run.json", {"keep": 0})
    assert export_files(f"{place}/none")[1] == []


def test_a_loop_makes_them_where_its_recipe_asks_for_it(place):
    rows = [row(n, f"person {n % 3}") for n in range(9)]
    recipe = replace(tiny(), pairs=PairingSettings(make=True))
    work = Looping(
        recipe=recipe, home=place, folder=(place / "loop").make(), source="s",
        planned=("curate", "pairs"), command="visage loop again", console=SAID,
    )  # fmt: skip
    curated = {"path": corpus(place / "run", rows)}
    work.steps["curate"] = Step(fingerprint="", seconds=0, finished_at="", result=curated)
    STEPS["pairs"](work)
    made = work.steps["pairs"].result
    assert made["identities"] == 3
    assert "pairs" in summary("pairs", made)
    assert open_folder(made["path"]).exists("pairs.jsonl")


def test_a_forgotten_photo_leaves_the_pairs_and_their_files(made, place):  # noqa: ARG001
    home = place / "out"
    lost = f"{4:032x}"
    gone = Gone([lost], [], [])
    for path in home.files():
        scrub(home, path, gone)
    table = pq.read_table(f"{home}/pairs.parquet")
    assert table.num_rows > 0
    for role in ("reference", "target", "other"):
        assert lost not in table[f"{role}_id"].to_pylist()
    lines = [json.loads(line) for line in home.read("pairs.jsonl").splitlines()]
    assert lines
    assert not any(lost in json.dumps(line) for line in lines)
    assert not [path for path in home.files() if lost in path]
    assert all(home.exists(line["image_file"]) for line in lines), "others' pictures stay"
