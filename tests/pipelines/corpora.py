"""Small exports of real photographs, as ``visage curate`` writes them, without a curation."""

import io

import numpy as np
import pyarrow as pa
from PIL import Image

from stages.columns import COLUMNS, schema
from stages.models.dlib_faces import DlibDetector, DlibEmbedder

WRITTEN = [name for name, column in COLUMNS.items() if not column.in_memory_only]
SHE, OTHER = "a" * 32, "b" * 32
CROPS = {
    "her 0": (SHE, (60, 0, 400, 340)),
    "her 1": (SHE, (100, 0, 340, 240)),
    "her 2": (SHE, (20, 10, 440, 430)),
    "other": (OTHER, (1050, 225, 1280, 455)),
    "nobody": ("", (460, 210, 690, 440)),
    "blank": ("", None),
}
"""Whose photograph each is, by its caption, and which part of a picture it is."""


def photographs(astronaut, six_people):
    """Return rows of three photographs of one person, one of another, one of nobody, and a wall.

    The hashes say that the first and the third photograph are nearly the same.
    """
    whole = {name: Image.open(path).convert("RGB") for name, path in
             (("her", astronaut), ("six", six_people))}  # fmt: skip
    detector, embedder = DlibDetector(800, min_score=0.0), DlibEmbedder()
    rng = np.random.default_rng(0)
    hashes = [rng.bytes(32) for _ in CROPS]
    hashes[2] = hashes[0]
    rows = []
    for number, (caption, (identity, box)) in enumerate(CROPS.items()):
        picture = Image.new("RGB", (400, 400), "white")
        if box:
            picture = whole["her" if identity == SHE else "six"].crop(box).resize((400, 400))
        pixels = np.asarray(picture)
        (found,) = detector.detect([pixels])
        assert (len(found.scores) == 1) == (box is not None)
        packed = io.BytesIO()
        picture.save(packed, "PNG")
        faces = {"num_faces": 0, "face_boxes_px": [], "face_landmarks_px": [],
                 "face_embeddings": [], "face_yaws_deg": [], "face_pitches_deg": []}  # fmt: skip
        if box:
            vectors = embedder.embed(embedder.align(pixels, found.landmarks_px))
            faces = {
                "num_faces": 1, "face_boxes_px": found.boxes_px.tolist(),
                "face_landmarks_px": found.landmarks_px.reshape(-1, 10).tolist(),
                "face_embeddings": vectors.tolist(), "face_yaws_deg": [10.0 * number],
                "face_pitches_deg": [0.0],
            }  # fmt: skip
        rows.append(dict.fromkeys(WRITTEN) | faces | {
            "id": f"{number:032x}", "identity": identity, "identity_score": 0.9 if identity else 0,
            "caption": caption, "label": "", "url": "", "license": "CC0", "mime": "image/png",
            "blob": packed.getvalue(), "width_px": 400, "height_px": 400,
            "pdq": hashes[number], "pdq_mirror": rng.bytes(32), "embedder": embedder.card.tag,
        })  # fmt: skip
    return rows


def write_export(home, rows, rows_per_file=4):
    """Write rows as the export of a run; return the run's path."""
    table = pa.Table.from_pylist(rows, schema=schema(WRITTEN))
    for number, start in enumerate(range(0, max(len(rows), 1), rows_per_file)):
        part = table.slice(start, rows_per_file)
        (home / "export/parquet").write_table(f"part-{number:05d}.parquet", part)
    return str(home)
