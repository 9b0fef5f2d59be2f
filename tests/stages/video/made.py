"""Videos whose every frame, cut and face is known, from photographs that packages carry."""

from fractions import Fraction

import av
import cv2
import numpy as np

from tests.stages.models.photos import astronaut, group, hanks

QUARTER = 1 << 16
TURNED = [0, QUARTER, 0, -QUARTER, 0, 0, 0, 0, 1 << 30]
"""The display matrix of a phone held upright: a quarter turn clockwise."""


def write(path, frames, *, fps=25, codec="libx264", pixels="yuv420p", crf=12, ticks=None,
          matrix=None, form=None, audio=False, pixel_ratio=None):  # fmt: skip
    """Write RGB frames; ``ticks`` are their times in 1/1000 s where the rate varies."""
    with av.open(str(path), "w", format=form) as out:
        stream = None
        for i, frame in enumerate(frames):
            if stream is None:
                stream = out.add_stream(codec, rate=fps)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = pixels
                if codec.startswith("libx26"):
                    stream.options = {"crf": str(crf), "preset": "ultrafast", "threads": "1"}
                if pixel_ratio:
                    stream.codec_context.sample_aspect_ratio = pixel_ratio
                if ticks is not None:
                    stream.codec_context.time_base = Fraction(1, 1000)
                if matrix:
                    stream.set_display_matrix(matrix)
                sound = out.add_stream("aac", rate=16000) if audio else None
            shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            if ticks is not None:
                shown.pts, shown.time_base = ticks[i], Fraction(1, 1000)
            out.mux(stream.encode(shown))
        out.mux(stream.encode())
        if sound:
            _hum(out, sound, 1.0)
    return path


def only_sound(path):
    """A second of a hum, without any picture."""
    with av.open(str(path), "w") as out:
        _hum(out, out.add_stream("aac", rate=16000), 1.0)
    return path


def _hum(out, stream, seconds):
    wave = np.sin(np.arange(int(16000 * seconds)) * 0.17).astype(np.float32)[None]
    sound = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
    sound.sample_rate = 16000
    out.mux(stream.encode(sound))
    out.mux(stream.encode())


def grow(picture, count, size=(320, 240), faster=0.004, aside=0.6):
    """Zoom slowly into a picture and pan over it, like a camera that is never quite still."""
    high, wide = picture.shape[:2]
    width, height = size
    fit = max(width / wide, height / high)
    for i in range(count):
        scale = fit * (1.1 + faster * i)
        left = (wide * scale - width) / 2 + aside * (i - count / 2)
        top = (high * scale - height) / 2
        matrix = np.float32([[scale, 0, -left], [0, scale, -top]])
        yield cv2.warpAffine(
            picture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )


def half(count=10, size=(320, 240)):
    """Frames that are red above and blue below, with a white corner at the top left."""
    frame = np.zeros((size[1], size[0], 3), np.uint8)
    frame[: size[1] // 2, :, 0] = frame[size[1] // 2 :, :, 2] = 200
    frame[: size[1] // 4, : size[0] // 4] = 255
    return [frame] * count


def portrait(name):
    """A person's photograph, cropped around the head."""
    if name == "astronaut":
        return astronaut()[0:320, 60:400]
    if name == "hanks":
        return hanks()
    return group()


def shots(lengths, size=(320, 240), names=("astronaut", "hanks")):
    """Hard cuts between slow zooms over people, who take turns."""
    for i, length in enumerate(lengths):
        yield from grow(portrait(names[i % len(names)]), length, size, aside=0.6 * (-1) ** i)
