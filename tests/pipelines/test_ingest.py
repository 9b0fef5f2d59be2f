import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
from PIL import Image

from pipelines.ingest import looking
from pipelines.recipes import FaceSettings, photos
from stages.chain import Chain
from stages.columns import schema
from tests.stages.models.photos import group, hanks

FACES = FaceSettings(detect_px=1280)


def saved(picture):
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=92)
    return out.getvalue()


def looked_at(faces):
    blobs = [saved(group()), saved(hanks()), saved(np.full((99, 99, 3), 9, np.uint8)), b"no"]
    chain = Chain([make() for make in looking(replace(photos(), faces=faces))])
    return blobs, chain(pa.table({"blob": blobs}, schema=schema(["blob"]))).to_pylist()


def test_bystanders_are_hidden_in_the_file_that_is_kept_if_a_recipe_says_so():
    blobs, plain = looked_at(FACES)
    _, hidden = looked_at(replace(FACES, anonymise="cover"))
    assert [row["blob"] for row in plain] == blobs
    assert [row["blob"] for row in hidden[1:]] == blobs[1:]
    assert [row["error"] for row in hidden] == [row["error"] for row in plain]
    crowd, before = hidden[0], plain[0]
    assert crowd["blob"] != before["blob"]
    assert len(crowd["blob"]) == crowd["bytes_len"]
    for same in ("num_faces", "sha256", "face_boxes_px", "face_sharpness", "width_px", "mime"):
        assert crowd[same] == before[same]
    assert crowd["face_embeddings"][0] == before["face_embeddings"][0]
    assert not np.any(crowd["face_embeddings"][1:])
    assert np.all(np.any(before["face_embeddings"], axis=1))
