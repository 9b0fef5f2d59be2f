"""The Arrow types of what is written of a video: its facts, shots, clips, and their tracks."""

import pyarrow as pa

_I32, _I64, _F32, _F64, _TEXT = pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string()
_FLOATS = pa.list_(_F32)
_VECTORS = pa.list_(_FLOATS)

_SPAN = [("start_frame", _I32), ("end_frame", _I32), ("start_s", _F64), ("end_s", _F64)]
"""``end`` is the first frame, and its time, that is no longer in it."""

VIDEO = pa.struct(
    [
        ("width_px", _I32), ("height_px", _I32), ("fps", _F32), ("frames", _I32),
        ("duration_s", _F64), ("codec", _TEXT), ("rotation_deg", _I32),
        ("variable_rate", pa.bool_()),
    ]
)  # fmt: skip

SHOTS = pa.list_(pa.struct(_SPAN))

TRACK = pa.struct(
    [
        ("track_id", _I32),  # from 0 in each clip
        *_SPAN[:2],
        # One entry per look at which the face was found; frames are those of the video.
        ("frames", pa.list_(_I32)),
        ("boxes_px", _VECTORS),
        ("scores", _FLOATS),
        ("landmarks_px", _VECTORS),  # x, y of five points
        ("yaws_deg", _FLOATS),
        ("pitches_deg", _FLOATS),
        ("rolls_deg", _FLOATS),
        ("sharpness", _FLOATS),  # Laplacian variance, grey levels squared
        ("embedding", _FLOATS),  # the template: a mean weighted by quality
        ("template_count", _I32),  # embeddings in it
        ("best_frame", _I32),
    ]
)

CLIPS = pa.list_(
    pa.struct(
        [
            ("clip_id", _TEXT),
            *_SPAN,
            ("file", _TEXT),  # below the folder of the clips
            ("bytes_len", _I64),
            ("sha256", _TEXT),
            ("width_px", _I32),
            ("height_px", _I32),
            ("fps", _F32),
            ("frames", _I32),
            # Diagonals of the picture per second.
            ("motion", _F32),
            ("camera_motion", _F32),
            ("person_motion", _F32),
            ("sharpness_p10", _F32),
            ("black_share", _F32),
            ("frozen_share", _F32),
            ("letterbox_px", pa.list_(_I32)),  # left, top, right, bottom
            ("text_share", _F32),
            ("tracks", pa.list_(TRACK)),
        ]
    )
)
