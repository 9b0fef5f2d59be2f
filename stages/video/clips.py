"""Write clips: stretches of a video, encoded anew while it is decoded."""

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from stages.video.frames import Frame
from stages.video.settings import VideoSettings

_READ_BYTES = 1 << 20


def clip_id(parent: str, start_frame: int, end_frame: int) -> str:
    """Return 32 hex digits: BLAKE2b-128 of the video's id and the clip's frames."""
    words = f"{parent}:{start_frame}-{end_frame}"
    return hashlib.blake2b(words.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Written:
    """A finished clip, as it lies on disk."""

    bytes_len: int
    sha256: str
    width_px: int
    height_px: int
    frames: int


class ClipFile:
    """One clip that is being written: H.264 in MP4, frame for frame, with the source's own times.

    It is encoded anew, since a stream can only be copied from one key frame to the next: what is
    exact are the frames and their times, not their bits. Sound is left out. The same frames,
    settings and library give the same bytes.

    Args:
        path: Where to write; not yet the clip's own name.
        time_base: Seconds of a tick of the video's clock.
        fps: The rate that players are told; the times of the frames decide.
        settings: Quality and speed of the encoder.
    """

    def __init__(
        self, path: Path, time_base: Fraction, fps: float, settings: VideoSettings
    ) -> None:
        self.path, self.frames = path, 0
        self._time_base, self._settings = time_base, settings
        self._fps = Fraction(fps).limit_denominator(1001)
        # The index goes to the front, so that the clip plays before all of it is there.
        options = {"movflags": "faststart"}
        self._out = av.open(str(path), "w", format="mp4", options=options)
        self._stream: av.VideoStream | None = None
        self._start_s, self._last_pts = 0.0, -1

    def add(self, frame: Frame) -> None:
        """Encode the next frame.

        Raises:
            OSError: The disk is full, or the place cannot be written.
        """
        shown = frame.yuv420p()
        if self._stream is None:
            self._stream = self._begin(shown)
            self._start_s = frame.time_s
        ticks = round((frame.time_s - self._start_s) / float(self._time_base))
        shown.pts = self._last_pts = max(ticks, self._last_pts + 1)
        shown.time_base = self._time_base
        # The type of the source's frame would force key frames where it had them.
        shown.pict_type = 0
        self._out.mux(self._stream.encode(shown))
        self.frames += 1

    def close(self) -> Written:
        """Finish the file and read it back for its hash.

        Raises:
            OSError: The disk is full, or the place cannot be written.
        """
        if self._stream is None:
            raise RuntimeError("a clip has at least one frame.")
        self._out.mux(self._stream.encode())
        self._out.close()
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while part := file.read(_READ_BYTES):
                digest.update(part)
        size = self.path.stat().st_size
        width, height = self._stream.width, self._stream.height
        return Written(size, digest.hexdigest(), width, height, self.frames)

    def discard(self) -> None:
        """Stop writing and leave nothing behind."""
        self._out.close()
        self.path.unlink(missing_ok=True)

    def _begin(self, shown: av.VideoFrame) -> av.VideoStream:
        """Start the stream, in the shape and colours of the first frame."""
        stream = self._out.add_stream("libx264", rate=self._fps)
        stream.width, stream.height, stream.pix_fmt = shown.width, shown.height, "yuv420p"
        context = stream.codec_context
        context.time_base = self._time_base
        context.thread_count = self._settings.threads
        # x264's macroblock tree reads memory that nobody has written: with it the same frames give
        # other bytes every time.
        settings = self._settings
        context.options = {"crf": str(settings.crf), "preset": settings.preset, "mbtree": "0"}
        context.colorspace, context.color_range = shown.colorspace, shown.color_range
        context.color_primaries, context.color_trc = shown.color_primaries, shown.color_trc
        return stream
