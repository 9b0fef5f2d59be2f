"""Every column once: its name, its Arrow type, its unit, who writes it.

A row is one picture. What belongs to its faces stands in list columns with one entry per face,
largest face first, so that a consumer reads only the measures it wants. A column without an Arrow
type lives in memory only: it passes between the stages of one pool and is never written.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from stages.video import rows

_FLOATS = pa.list_(pa.float32())
_VECTORS = pa.list_(pa.list_(pa.float32()))
_PARTS = pa.struct([(name, pa.string()) for name in ("face", "ears", "eyes", "nose", "mouth")])


@dataclass(frozen=True, slots=True)
class Column:
    """What one column holds."""

    name: str
    type: pa.DataType | None
    written_by: str
    doc: str

    @property
    def in_memory_only(self) -> bool:
        """Whether the column passes between stages without ever being written."""
        return self.type is None


_ALL = [
    # Where the row comes from.
    Column("id", pa.string(), "seed", "32 hex digits: BLAKE2b-128 of the canonical URL or file"),
    Column("url", pa.string(), "seed", "canonical URL; empty for a local picture"),
    Column("source", pa.string(), "seed", "table, folder or tar that named the picture"),
    Column("source_row", pa.int64(), "seed", "position in the source, from 0"),
    Column("member", pa.string(), "seed", "file inside the folder or tar; empty for a URL"),
    Column("offset", pa.int64(), "seed", "first byte inside the tar; 0 in a folder"),
    Column("length", pa.int64(), "seed", "size in bytes; null for a URL"),
    Column("caption", pa.string(), "seed", "text that came with the picture, or empty"),
    Column("label", pa.string(), "seed", "person named by the source (personal data), or empty"),
    Column("license", pa.string(), "seed", "licence stated by source or recipe, or empty"),
    Column("declared_width_px", pa.int32(), "seed", "width the table promises"),
    Column("declared_height_px", pa.int32(), "seed", "height the table promises"),
    # What became of it. "" means: not rejected, no error, no duplicate.
    Column("rejected_by", pa.string(), "Keep, seed, dedupe", "rule that said no: REJECTIONS"),
    Column("error", pa.string(), "any stage", "what went wrong: ERRORS"),
    Column("error_detail", pa.string(), "any stage", "the same in words, with the values"),
    Column("dup_of", pa.string(), "seed, dedupe", "id of the row kept in its place"),
    Column("dup_kind", pa.string(), "seed, dedupe", "url, exact, near or semantic"),
    Column("status", pa.string(), "the seam", "keep, reject or error, from the columns above"),
    Column("timings", pa.map_(pa.string(), pa.float32()), "the seam", "seconds by stage"),
    # The picture.
    Column("blob", pa.large_binary(), "Fetch, Read", "the file as found, if not anonymised"),
    Column("file", pa.string(), "Fetch", "of a video: where it was streamed to; else empty"),
    Column("http_status", pa.int16(), "Fetch", "of the last answer"),
    Column("final_url", pa.string(), "Fetch", "after redirects"),
    Column("attempts", pa.int16(), "Fetch", "how often the URL was tried; 0: never asked"),
    Column("fetch_s", pa.float32(), "Fetch", "seconds from request to last byte, all attempts"),
    Column("opt_out", pa.string(), "Fetch", "refusal in the answer's headers, as it was said"),
    Column("etag", pa.string(), "Fetch", "the server's name for this version of the file"),
    Column("last_modified", pa.string(), "Fetch", "when the server says that it last changed"),
    Column("pixels", None, "Decode", "upright RGB, uint8, long side at most work_px"),
    Column("width_px", pa.int32(), "Decode", "of the upright picture, before work_px"),
    Column("height_px", pa.int32(), "Decode", "of the upright picture, before work_px"),
    Column("mime", pa.string(), "Decode", "image/jpeg, image/png, image/webp, ..."),
    Column("bytes_len", pa.int64(), "Decode", "size of the file in bytes"),
    Column("sha256", pa.string(), "Hash", "of the file as found, 64 hex digits"),
    Column("pdq", pa.binary(32), "Hash", "perceptual hash, 256 bits"),
    Column("pdq_mirror", pa.binary(32), "Hash", "the hash of the mirrored picture"),
    Column("pdq_quality", pa.int32(), "Hash", "0 to 100; below 50 the hash means little"),
    # Its faces: one entry per face, largest first; pixels are those of width_px x height_px.
    Column("num_faces", pa.int32(), "DetectFaces", "faces found"),
    Column("face_boxes_px", _VECTORS, "DetectFaces", "left, top, right, bottom"),
    Column("face_scores", _FLOATS, "DetectFaces", "the detector's own confidence"),
    Column("face_landmarks_px", _VECTORS, "DetectFaces", "x, y of five points, see landmarks"),
    Column("detector", pa.string(), "DetectFaces", "name@first 12 digits of its sha256"),
    Column("face_area_shares", _FLOATS, "DetectFaces", "box area over picture area, 0 to 1"),
    Column("face_sizes_px", _FLOATS, "DetectFaces", "shorter side of the box"),
    Column("face_chips", None, "AlignFaces", "aligned RGB crops, uint8, faces x side x side x 3"),
    Column("face_embeddings", _VECTORS, "EmbedFaces", "identity vectors, raw; zero: anonymised"),
    Column("embedder", pa.string(), "EmbedFaces", "name@first 12 digits of its sha256"),
    Column("face_yaws_deg", _FLOATS, "ScorePose", "turned to the picture's right is positive"),
    Column("face_pitches_deg", _FLOATS, "ScorePose", "looking up is positive"),
    Column("face_rolls_deg", _FLOATS, "ScorePose", "tilted clockwise is positive"),
    Column("face_sharpness", _FLOATS, "ScoreSharpness", "Laplacian variance, grey levels squared"),
    Column("face_exposures", _FLOATS, "ScoreExposure", "mean luminance, 0 black to 1 white"),
    # A video: see stages/video/rows.py for what its lists hold.
    Column("video", rows.VIDEO, "Watch", "size, rate, length, codec of the upright video"),
    Column("shots", rows.SHOTS, "Watch", "what each camera saw without a break"),
    Column("clips", rows.CLIPS, "Watch", "files cut from the shots, their scores and face tracks"),
    Column("decoded_frames", pa.int64(), "Watch", "frames decoded: each once"),
    Column("main_track", pa.int32(), "KeepVideo", "of a clip: the track of its main person"),
    # Who the main face is, once all rows are known.
    Column("identity", pa.string(), "people", "32 hex digits, one per person; empty: nobody's"),
    Column("identity_score", pa.float32(), "people", "0 as near to somebody else, 1 surely itself"),
    Column("identity_name", pa.string(), "people", "from captions (personal data), if asked for"),
    # What is said of the picture, by the page, by measures or by a model; empty: nobody was asked.
    Column("caption_merged", pa.string(), "caption", "the caption that was made; names redacted"),
    Column("caption_attributes", pa.string(), "caption", "of it: the looks of the main person"),
    Column("caption_action", pa.string(), "caption", "of it: what happens, scene, light, framing"),
    Column("caption_parts", _PARTS, "caption", "face, ears, eyes, nose, mouth, if asked for"),
    Column("caption_source", pa.string(), "caption", "alt, template, http, transformers or vllm"),
    Column("caption_model", pa.string(), "caption", "who was asked, as it names itself"),
    Column("caption_prompt", pa.string(), "caption", "name@first 12 digits of its sha256, by +"),
    Column("caption_asks", pa.int16(), "caption", "questions, repairs included"),
    Column("caption_input_tokens", pa.int32(), "caption", "tokens of the questions"),
    Column("caption_output_tokens", pa.int32(), "caption", "tokens of the answers"),
    Column("caption_s", pa.float32(), "caption", "seconds of the model for this row"),
    Column("caption_redacted", pa.int16(), "caption", "names that were taken out"),
    Column("caption_match", pa.float32(), "caption", "cosine of CLIP's vectors, -1 to 1"),
]

COLUMNS: dict[str, Column] = {column.name: column for column in _ALL}

REJECTIONS: dict[str, str] = {
    "forgotten": "the person on it has asked to be forgotten",
    "duplicate_url": "an earlier row of the source has the same canonical URL",
    "declared_small": "the table itself says that the picture is too small",
    "no_human_term": "the caption names no person, nationality, ethnicity, profession or name",
    "small_picture": "the shorter side is below the floor",
    "no_clip": "no shot of the video is long enough for a clip",
    "short_clip": "the clip has too few frames",
    "black_clip": "too much of the clip is black",
    "frozen_clip": "too many frames repeat the one before",
    "written_clip": "too much of the picture is under writing",
    "soft_clip": "the clip is blurred",
    "still_clip": "hardly anything moves",
    "wild_clip": "so much moves that nothing can be followed",
    "no_face": "fewer faces than the recipe wants",
    "too_many_faces": "more faces than the recipe wants",
    "small_face": "a face covers too little of the picture",
    "soft_face": "the main face is blurred",
    "turned_face": "the main face looks too far away",
    "dark_face": "the main face is too dark",
    "bright_face": "the main face is too bright",
    "no_main_person": "another person is as large, and as long there, as the main one",
    "short_track": "the main person is seen for too few frames, or too rarely",
    "large_face": "the main face fills too much of the picture",
    "exact_duplicate": "another row has the same bytes",
    "near_duplicate": "another row shows the same picture",
    "semantic_duplicate": "another row shows the same picture, by its embedding",
    "nobody": "the main face belongs to no identity of the run",
    "caption_refused": "the model speaks of itself, or of not answering",
    "caption_short": "the caption has too few words",
    "caption_repeats": "the caption goes round in circles",
    "caption_long": "the caption has too many words",
    "caption_no_person": "the caption that was made speaks of no person",
    "caption_mismatch": "caption and picture do not go together, by CLIP",
}
"""Why a row can be rejected: a closed set, in the order in which the rules are asked."""

ERRORS: dict[str, str] = {
    "bad_url": "the URL cannot be parsed",
    "forbidden_scheme": "neither http nor https",
    "forbidden_address": "the host is a private, loopback or otherwise internal address",
    "robots_disallowed": "robots.txt does not let us ask",
    "robots_unavailable": "robots.txt cannot be had, so nothing may be asked (RFC 9309)",
    "host_paused": "not asked: the host wants a longer rest than the budget, or is long gone",
    "dns": "the host's name cannot be resolved",
    "connect": "no connection within its time, or it was refused or broke",
    "tls": "the certificate is wrong, expired or nobody's, or no secure connection came about",
    "first_byte": "no answer began within its time",
    "timeout": "the answer was not complete within the deadline",
    "too_many_redirects": "more redirects than allowed",
    "opted_out": "the answer's headers forbid such use: X-Robots-Tag or tdm-reservation",
    "unchanged": "asked again, and as it was (304): only of rows that a refresh puts aside",
    "http_4xx": "the server refuses",
    "http_5xx": "the server fails",
    "http_other": "an answer that is neither a picture nor a refusal",
    "bad_http": "the answer breaks the rules of HTTP",
    "too_many_headers": "more, or longer, headers than allowed",
    "truncated": "the body broke off before its end; nothing of it is kept",
    "too_large": "more bytes than allowed; nothing of it is kept",
    "wrong_type": "the first bytes are of no type that is allowed, whatever the server says",
    "empty": "no bytes at all",
    "missing_file": "the file is gone or shorter than when it was listed",
    "not_an_image": "the bytes are of no picture format that is allowed",
    "too_many_pixels": "the header promises more pixels than allowed: a decompression bomb",
    "broken_image": "a picture, but truncated or damaged",
    "not_a_video": "the bytes are of no video format that is allowed",
    "no_video_stream": "sound or pictures, but no moving ones",
    "broken_video": "a video, but truncated or damaged; nothing of it is kept",
    "too_long": "more minutes, or frames, than allowed",
    "not_anonymised": "somebody beside the main face would still be recognised; nothing is kept",
    "caption_schema": "the model's answer is not of the schema, nor is its repair",
    "caption_endpoint": "the caption server did not answer for this picture",
    "stage_failed": "a stage raised; error_detail has its words",
    "crashed": "the worker's process died of it, more than once: see stages/poison.py",
}
"""What can go wrong with a row: a closed set."""


def schema(names: Iterable[str]) -> pa.Schema:
    """Return the Arrow schema of ``names``, in that order, without the in-memory columns."""
    columns = [COLUMNS[name] for name in names]
    return pa.schema([(c.name, c.type) for c in columns if not c.in_memory_only])


SEED = [
    c.name
    for c in _ALL
    if c.written_by.startswith("seed")
    or c.name in ("rejected_by", "error", "error_detail", "dup_of", "dup_kind", "status")
]
"""What the seed job writes: all that is known of a picture before its bytes are seen."""

DECISIONS = [
    "id", "url", "source", "source_row", "member", "status", "rejected_by", "error",
    "error_detail", "num_faces", "dup_of", "dup_kind", "label", "license",
]  # fmt: skip
"""What is decided of every input row once copies are known."""

DECIDED = [*DECISIONS, "identity"]
"""The light row that every input row ends as."""
