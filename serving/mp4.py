"""Frames as an MP4 that browsers play: H.264 by PyAV."""

from fractions import Fraction
from pathlib import Path

import av

from serving.videos import Frames

MIME = "video/mp4"
_QUALITY = "20"  # x264's constant rate factor; 18 is taken for visually lossless


def write_mp4(frames: Frames, path: Path, fps: int) -> None:
    """Write frames to a file; their sides must be even.

    The index stands at the front (``faststart``), so that a player begins before it has all.
    """
    _, height_px, width_px, _ = frames.shape
    options = {"movflags": "+faststart"}
    with av.open(str(path), "w", format="mp4", container_options=options) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": _QUALITY})
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        stream.time_base = Fraction(1, fps)
        stream.codec_context.thread_count = 1  # the drawing has its threads already
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
