"""Is the one-step clean video of the person who was asked for, frame by frame?

Shapes: B samples, of which some are seen; C channels, T frames, H rows, W columns of latents; K
frames that are looked at of each.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from infra.errors import BadValue
from training.noise import STEPS
from training.objectives.identity import showing
from training.objectives.step import Step, Tools, needed, signal

_CURE = "prepare the clips with the tracks of their faces, or set it to 0."


def video_identity(tools: Tools, step: Step) -> Float[Tensor, ""]:
    """Compare the people of some frames of the one-step clean video with the target's.

    L = 1/B sum_i s_i / n_i sum_k d(E(x0_ik), e_i), s = snr / (1 + snr), over samples of s above
    1/2 and of each the ``video_identity_frames`` frames k, evenly over those n_i in which the face
    is seen. Faces are cropped where they were tracked in the target (``landmarks``, ``seen``), so
    no detector runs. Samples in which nobody is seen count nothing; recorded:
    ``video_identity_frames``, how many frames per sample were compared.

    With an autoencoder of pictures only these frames are decoded. One that compresses time has to
    decode the whole video to give any of its frames, with gradients: at 49 frames of 720 x 480 that
    is more memory than the network takes, so shorten the clips or leave this loss out there.

    References:
        ``identity`` over frames; PersonalVideo (arXiv:2411.17048) averages its identity reward so.

    Raises:
        BadValue: There are no tracks, or these are pictures.
    """
    weight = tools.settings.video_identity
    if step.pred.ndim != 5:
        cure = "these are pictures; use losses.identity, and set it to 0."
        raise BadValue("losses.video_identity", weight, cure)
    landmarks_BT52 = needed(step.batch, "landmarks", "video_identity", weight, _CURE)
    seen_BT = needed(step.batch, "seen", "video_identity", weight, _CURE) > 0
    assert tools.identity is not None
    rows, counted = showing(step)
    at, there = spread_over(seen_BT[rows], tools.settings.video_identity_frames, _turn(step)[rows])
    noised = step.noised
    clean = tools.clean(noised.z_t, noised.t, step.pred)[rows]
    pictures = frames_at(tools, clean, at).flatten(0, 1)
    points = landmarks_BT52[rows].gather(1, at[..., None, None].expand(-1, -1, 5, 2)).flatten(0, 1)
    vectors = tools.identity.vectors(pictures, points).view(*at.shape, -1)
    target = step.batch["target_identity"][rows][:, None]
    far = tools.identity.apart(vectors, target.expand(-1, at.shape[1], -1))
    looks = there * counted[:, None]
    step.record["video_identity_frames"] = looks.sum() / len(step.pred)
    each = torch.where(looks > 0, far, 0.0).sum(dim=1) / there.sum(dim=1).clamp(min=1)
    return (each * signal(noised)[rows]).sum() / len(step.pred)


def spread_over(
    seen: Bool[Tensor, "B T"], frames: int, turn: Float[Tensor, " B"]
) -> tuple[Int64[Tensor, "B K"], Float[Tensor, "B K"]]:
    """Choose frames evenly over those in which a face is seen.

    Args:
        seen: In which frames.
        frames: How many; of a shorter sample each comes once, and the rest counts nothing.
        turn: Where the first is, in 0 to 1 of the distance between two.

    Returns:
        Which frames, and 1 for each that counts.
    """
    many_B1 = seen.sum(dim=1, keepdim=True)
    k_K = torch.arange(min(frames, seen.shape[1]), device=seen.device)
    chosen_B1 = many_B1.clamp(max=len(k_K))
    place_BK = ((k_K + turn[:, None]) * many_B1 / chosen_B1.clamp(min=1)).long()
    there_BK = k_K < chosen_B1
    # Seen frames first, in their order: a place among them is a place in this list.
    order_BT = seen.long().argsort(dim=1, descending=True, stable=True)
    return order_BT.gather(1, torch.where(there_BK, place_BK, 0)), there_BK.float()


def frames_at(
    tools: Tools, clean: Float[Tensor, "B C T H W"], at: Int64[Tensor, "B K"]
) -> Float[Tensor, "B K 3 height width"]:
    """Decode some latent frames, the middle one of those that each stands for."""
    frames = clean.shape[2]
    if tools.features.clip_frames == tools.features.frames:  # each frame has latents of its own
        index = at[:, None, :, None, None].expand(-1, clean.shape[1], -1, *clean.shape[3:])
        return tools.pictures(clean.gather(2, index)).transpose(1, 2)
    videos = tools.pictures(clean).transpose(1, 2)
    middle = _middles(frames, videos.shape[1]).to(at.device)[at]
    return videos.gather(1, middle[..., None, None, None].expand(-1, -1, *videos.shape[2:]))


def _middles(latents: int, frames: int) -> Int64[Tensor, " T"]:
    """Return the middle frame of each latent's, the first of which stands for one frame."""
    each = (frames - 1) // max(latents - 1, 1)
    first = torch.arange(latents) * each - each + 1
    return torch.where(torch.arange(latents) > 0, first + each // 2, 0)


def _turn(step: Step) -> Float[Tensor, " B"]:
    """Return what the 1,000 times leave of ``time``: uniform, and independent of the noise."""
    return (step.batch["time"] * STEPS).frac()
