"""SCRFD in batches: insightface's detector takes one picture at a time, this takes many.

The preparation of pictures, the decoding and the suppression of doubles are insightface's, so that
every picture's faces are those of ``SCRFD.detect``. Only the run of the network is shared.

References:
    Guo et al., "Sample and computation redistribution for efficient face detection",
    arXiv:2105.04714.
"""

from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from jaxtyping import Float32

from infra.errors import BadValue, BadWeights
from stages.models.faces import Detections
from stages.types import RGB

Scrfd = Any
"""``insightface.model_zoo.scrfd.SCRFD``, unnamed so that this file imports without insightface."""
Session = Any
"""``onnxruntime.InferenceSession``."""
Floats = npt.NDArray[np.float32]

Layout = Literal["batched", "interleaved", "stacked", "single"]
"""How an exported network lays out the answers of several pictures.

``batched``: pictures x anchors x values. ``interleaved``: a place of the first picture, the same
place of the second, and so on (the exports of mmdetection). ``stacked``: all of the first picture,
then all of the second. ``single``: it takes one picture, or does something else with more.
"""

# Levels' strides, and anchors per place, by the number of outputs: scores, boxes and landmarks.
_HEADS = {9: ((8, 16, 32), 2), 15: ((8, 16, 32, 64, 128), 1)}
_PICTURES_PER_CALL = 8


class BatchedScrfd:
    """Run one loaded SCRFD over many pictures.

    Args:
        model: The network as insightface loads it.
        detect_px: Side of the square that pictures are fitted into, a multiple of the coarsest
            stride. A network with a fixed input has its own size, and keeps it.

    Raises:
        BadValue: ``detect_px`` is no such multiple.
        BadWeights: The network gives no landmarks.
    """

    def __init__(self, model: Scrfd, detect_px: int) -> None:
        if len(model.output_names) not in _HEADS:
            raise BadWeights(
                str(model.model_file),
                f"has {len(model.output_names)} outputs, so it gives no landmarks",
                "Choose a pack whose detector does, one with 'kps' in its name.",
            )
        self.strides, self.anchors = _HEADS[len(model.output_names)]
        if detect_px <= 0 or detect_px % self.strides[-1]:
            raise BadValue("detect_px", detect_px, f"give a multiple of {self.strides[-1]}.")
        self.model = model
        size: tuple[int, int] = model.static_input_size or (detect_px, detect_px)
        self.width, self.height = size
        self.session = _with_free_batch(model)
        self.layout: Layout = self._find_layout()
        if self.layout == "single":
            self.session = model.session

    def detect(self, pictures: list[RGB], min_score: float) -> list[Detections]:
        """Find the faces of every picture, in slices of at most 8 pictures."""
        step = 1 if self.layout == "single" else _PICTURES_PER_CALL
        return [
            faces
            for start in range(0, len(pictures), step)
            for faces in self._detect(pictures[start : start + step], min_score)
        ]

    def _detect(self, pictures: list[RGB], min_score: float) -> list[Detections]:
        fitted, scales = zip(*(self._fit(picture) for picture in pictures), strict=True)
        outputs = self._run(self.session, list(fitted))
        by_picture = [split(o, len(pictures), self.layout, self.anchors) for o in outputs]
        return [
            self._decode([output[i] for output in by_picture], scale, min_score)
            for i, scale in enumerate(scales)
        ]

    def _fit(self, picture: RGB) -> tuple[RGB, float]:
        """Scale a picture into the top left corner of the network's input; the rest is black."""
        height, width = picture.shape[:2]
        if height / width > self.height / self.width:
            size = max(int(self.height / (height / width)), 1), self.height
        else:
            size = self.width, max(int(self.width * (height / width)), 1)
        canvas = np.zeros((self.height, self.width, 3), dtype=np.uint8)
        canvas[: size[1], : size[0]] = cv2.resize(picture, size)
        return canvas, size[1] / height

    def _run(self, session: Session, fitted: list[RGB], *, quietly: bool = False) -> list[Floats]:
        import onnxruntime

        model = self.model
        mean = (model.input_mean,) * 3
        size = (self.width, self.height)
        blob = cv2.dnn.blobFromImages(fitted, 1 / model.input_std, size, mean, swapRB=False)
        # Packs with embedded preprocessing take bytes.
        blob = blob.astype(getattr(model, "input_dtype", np.float32), copy=False)
        options = onnxruntime.RunOptions()
        if quietly:
            options.log_severity_level = 4
        answers: list[Floats] = session.run(model.output_names, {model.input_name: blob}, options)
        return answers

    def _decode(self, outputs: list[Floats], scale: float, min_score: float) -> Detections:
        """Turn the anchors of one picture into its faces, in that picture's pixels."""
        from insightface.model_zoo.scrfd import distance2bbox, distance2kps

        levels = len(self.strides)
        boxes, points = [np.empty((0, 5), np.float32)], [np.empty((0, 10), np.float32)]
        for level, stride in enumerate(self.strides):
            scores, edges, offsets = outputs[level::levels]
            found = np.flatnonzero(scores[:, 0] >= min_score)
            centres = self._centres(stride)[found]
            box = distance2bbox(centres, edges[found] * stride) / scale
            boxes.append(np.hstack([box, scores[found]]))
            points.append(distance2kps(centres, offsets[found] * stride) / scale)
        every = np.concatenate(boxes)
        best_first = np.argsort(-every[:, 4], kind="stable")
        every, landmarks_px = every[best_first], np.concatenate(points)[best_first]
        kept = self.model.nms(every)
        return Detections.of(every[kept, :4], every[kept, 4], landmarks_px[kept].reshape(-1, 5, 2))

    def _centres(self, stride: int) -> Float32[np.ndarray, "anchors 2"]:
        """Return x and y of a level's anchors, in pixels of the network's input."""
        rows, columns = np.mgrid[: self.height // stride, : self.width // stride]
        centres = np.stack([columns, rows], axis=-1).reshape(-1, 2) * stride
        return np.repeat(centres, self.anchors, axis=0).astype(np.float32)

    def _find_layout(self) -> Layout:
        """Run two pictures of noise together and each alone, and see which layout explains it.

        The alone answers come from the network as it was exported. When no layout, or more than
        one, gives them back, pictures are run one by one.
        """
        noise = np.random.default_rng(0)
        pair = [noise.integers(0, 256, (self.height, self.width, 3), np.uint8) for _ in range(2)]
        alone = [self._run(self.model.session, [picture]) for picture in pair]
        try:
            together = self._run(self.session, pair, quietly=True)
        except Exception:  # whatever onnxruntime says of a batch that a graph cannot take
            return "single"
        layouts: tuple[Layout, ...] = ("batched", "interleaved", "stacked")
        fitting = [
            layout
            for layout in layouts
            if all(
                _explains(layout, both, (first, second), self.anchors)
                for both, first, second in zip(together, *alone, strict=True)
            )
        ]
        return fitting[0] if len(fitting) == 1 else "single"


def split(
    output: Float32[np.ndarray, "..."], pictures: int, layout: Layout, anchors: int
) -> Float32[np.ndarray, "pictures candidates values"]:
    """Give every picture its own part of one output."""
    values = output.shape[-1]
    if layout == "interleaved":
        by_place = output.reshape(-1, pictures, anchors, values)
        return by_place.swapaxes(0, 1).reshape(pictures, -1, values)
    return output.reshape(pictures, -1, values)


def _explains(layout: Layout, both: Floats, alone: tuple[Floats, Floats], anchors: int) -> bool:
    """Whether ``both`` is the two answers in this layout, up to the rounding of a GPU."""
    if (layout == "batched") != (both.ndim == 3) or both.size != 2 * alone[0].size:
        return False
    if layout == "batched" and len(both) != 2:
        return False
    # A wrong layout puts half of the values into the wrong picture, so it errs by about half of
    # the pictures' difference; rounding, even in TF32, stays far below a tenth.
    tolerance = 0.1 * np.abs(alone[0] - alone[1]).mean() + 1e-6
    parts = split(both, 2, layout, anchors)
    expected = np.stack([answer.reshape(parts.shape[1:]) for answer in alone])
    return bool(np.abs(parts - expected).mean() < tolerance)


def _with_free_batch(model: Scrfd) -> Session:
    """Return a session of ``model`` that may take several pictures.

    Most published packs declare a batch of one although nothing in the graph depends on it; for
    those the graph is opened a second time without that promise. Whether its answers can then be
    told apart is for ``_find_layout`` to say.
    """
    if model.session.get_inputs()[0].shape[0] != 1:
        return model.session
    import onnx
    import onnxruntime

    copy = onnx.load(str(model.model_file))
    copy.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "pictures"
    for output in copy.graph.output:
        for axis in output.type.tensor_type.shape.dim:
            axis.Clear()
    del copy.graph.value_info[:]
    return onnxruntime.InferenceSession(
        copy.SerializeToString(),
        sess_options=model.session.get_session_options(),
        providers=model.session.get_providers(),
    )
