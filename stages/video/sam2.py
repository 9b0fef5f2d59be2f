"""Mask a face through a clip with SAM 2, from its boxes: a backend for whoever has the weights."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int

from infra.errors import BadWeights
from infra.weights import locate
from stages.types import RGB

_FACE = 1
_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
_SPREAD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


class Sam2Masker:
    """Follow a face from the boxes it was found in, through the frames between and around them.

    All boxes of the track are given as prompts, where ConsisID gives the surest one and lets the
    mask drift. The frames and their features are held in memory, so clips must be short.

    Args:
        folder: ``file:<path>`` of a folder with a ``Sam2VideoModel`` in safetensors, as
            ``save_pretrained`` writes it, such as facebook/sam2.1-hiera-large.
        device: ``cpu`` or ``cuda``.

    Raises:
        BadWeights: The folder is not there, or holds no such model.

    References:
        Ravi et al., "SAM 2: Segment anything in images and videos", arXiv:2408.00714.
    """

    def __init__(self, folder: str, device: str = "cpu") -> None:
        # transformers takes seconds to import, and only this backend needs it.
        from transformers import Sam2VideoModel

        path, self.device = locate(folder), device
        try:
            model = Sam2VideoModel.from_pretrained(
                path, local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError) as problem:
            said = str(problem).splitlines()[0][:200]
            raise BadWeights(str(path), f"is no SAM 2 folder ({said})") from None
        self._model = model.to(device).eval()
        self._side_px = int(model.config.image_size)

    def masks(
        self,
        frames: Sequence[RGB],
        looks: Int[np.ndarray, " looks"],
        boxes_px: Float32[np.ndarray, "looks 4"],
        landmarks_px: Float32[np.ndarray, "looks 5 2"],
    ) -> Bool[np.ndarray, "frames height width"]:
        """Return a mask per frame, see ``Masker``; also before the first box and after the last."""
        import torch

        del landmarks_px  # a box says it all
        high, wide = frames[0].shape[:2]
        out = np.zeros((len(frames), high, wide), dtype=np.bool_)
        if not len(looks):
            return out
        with torch.inference_mode():
            session = self._session(frames)
            # The prompt encoder's own numbers for the two corners of a box.
            corner_labels = torch.tensor([[[2, 3]]], dtype=torch.int32)
            scale = self._side_px / np.array([wide, high] * 2, dtype=np.float32)
            for look, box in zip(looks.tolist(), boxes_px * scale, strict=True):
                corners = torch.from_numpy(box).reshape(1, 1, 2, 2)
                prompt = {"point_coords": corners, "point_labels": corner_labels}
                session.add_point_inputs(session.obj_id_to_idx(_FACE), look, prompt)
                session.obj_with_new_inputs = [_FACE]
                self._model(session, frame_idx=look)
            for reverse in (False, True):
                for found in self._model.propagate_in_video_iterator(
                    session, start_frame_idx=int(looks[0]), reverse=reverse
                ):
                    logits = torch.nn.functional.interpolate(
                        found.pred_masks.float(), (high, wide), mode="bilinear"
                    )
                    out[found.frame_idx] = (logits[0, 0] > 0).cpu().numpy()
        return out

    def _session(self, frames: Sequence[RGB]) -> Any:  # noqa: ANN401
        """Hand over the frames as the model's processor would, which needs torchvision."""
        import torch
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        side = (self._side_px, self._side_px)
        small = np.stack([cv2.resize(f, side, interpolation=cv2.INTER_LINEAR) for f in frames])
        shown = (small.astype(np.float32) / 255 - _MEAN) / _SPREAD
        return Sam2VideoInferenceSession(
            video=torch.from_numpy(np.moveaxis(shown, -1, 1).copy()),
            video_height=frames[0].shape[0],
            video_width=frames[0].shape[1],
            inference_device=self.device,
            inference_state_device=self.device,
            dtype=torch.float32,
        )
