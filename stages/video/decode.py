"""Decode a video once, frame by frame, trusting nothing the file says."""

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from types import TracebackType
from typing import Protocol, runtime_checkable

import av
from av.stream import Disposition

from stages.video.frames import Facts, Frame, Steps, Turn
from stages.video.settings import VideoSettings

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg"
"""Containers that are opened. Playlists (HLS, DASH, concat) are not: they name other files and
addresses, which would be fetched."""

_FASTEST_FPS = 240
_MISSING_SHARE = 0.05
_ODDEST_PIXEL = 4


@runtime_checkable
class ByteFile(Protocol):
    """An open file of bytes that can seek: Python's, or a stretch of another."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes; none at the end."""
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place, as ``io`` counts them."""
        ...

    def tell(self) -> int:
        """Return the place."""
        ...


class BadVideo(Exception):
    """A video that cannot be used: ``error`` is one of ``ERRORS``, ``detail`` the values."""

    def __init__(self, error: str, detail: str) -> None:
        self.error, self.detail = error, detail
        super().__init__(error, detail)

    def __str__(self) -> str:
        return f"{self.error}: {self.detail}"


class Video:
    """A video that is decoded once, from its beginning to its end, holding one frame at a time.

    Times are the file's own presentation times, also where the frame rate varies: nothing is
    doubled or dropped to make it even. A frame without a time, or with one that does not follow
    the frame before, is put one mean step behind it. Interlaced frames stay interlaced.

    Args:
        file: An open file that can seek.
        settings: The limits.

    Raises:
        BadVideo: ``not_a_video``, ``no_video_stream``, ``too_long``, ``too_many_pixels`` or
            ``broken_video``; while iterating too.
    """

    def __init__(self, file: ByteFile, settings: VideoSettings) -> None:
        self.settings = settings
        options = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
        begins_like_one = _begins_like_a_video(file)
        try:
            self._container = av.open(file, mode="r", container_options=options)
        except (av.FFmpegError, OSError, ValueError) as problem:
            error = "broken_video" if begins_like_one else "not_a_video"
            raise BadVideo(error, _words(problem)) from None
        try:
            self._stream = self._choose()
            self._check_header()
        except BaseException:
            self._container.close()
            raise
        self.decoded = 0
        """Frames decoded so far."""
        self._facts: Facts | None = None

    def __enter__(self) -> "Video":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._container.close()

    @property
    def time_base(self) -> Fraction:
        """Seconds of one tick of the stream's clock."""
        return self._stream.time_base or Fraction(1, 90_000)

    @property
    def mean_fps(self) -> float:
        """The rate that the header promises; 25 if it promises none."""
        return float(self._stream.average_rate or self._stream.guessed_rate or 25)

    @property
    def facts(self) -> Facts:
        """What the video was; only once all frames have been read."""
        if self._facts is None:
            raise RuntimeError("facts of a video are known after its last frame.")
        return self._facts

    def __iter__(self) -> Iterator[Frame]:
        """Decode every frame in the order of presentation."""
        steps = Steps(self.time_base, self.mean_fps)
        first: Frame | None = None
        for stored in self._decoded():
            if first is None:
                frame = first = self._upright(stored, 0, 0.0)
                steps.begin(stored.pts)
            else:
                self._check_frame(stored, first)
                time_s = steps.next(stored.pts)
                frame = Frame(
                    self.decoded, time_s, stored, first.turn, first.width_px, first.height_px
                )
            self._check_length(frame.time_s, self.decoded)
            self.decoded += 1
            yield frame
        if first is None:
            raise BadVideo("broken_video", "no frame can be decoded")
        self._check_complete(steps)
        self._facts = Facts(
            first.width_px, first.height_px, self.decoded / steps.duration_s, self.decoded,
            steps.duration_s, self._stream.codec_context.name, first.turn.clockwise_deg,
            steps.uneven,
        )  # fmt: skip

    def _choose(self) -> av.VideoStream:
        """Return the first stream of moving pictures; a cover picture is none."""
        pictures = [s for s in self._container.streams.video if not _is_cover(s)]
        if not pictures:
            kinds = ", ".join(sorted({s.type for s in self._container.streams})) or "nothing"
            raise BadVideo("no_video_stream", f"the file holds {kinds}")
        stream = pictures[0]
        if stream.codec_context is None:
            raise BadVideo("broken_video", "its codec is not known here")
        stream.codec_context.thread_count = self.settings.threads
        stream.thread_type = "AUTO"
        return stream

    def _check_header(self) -> None:
        """Refuse what the header already says is too much, before anything is decoded."""
        whole_s = (self._container.duration or 0) / av.time_base
        self._check_length(self._promised_s() or whole_s, self._stream.frames)
        self._check_pixels(self._stream.width, self._stream.height)

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > self.settings.max_megapixels * 1e6:
            allowed = f"{self.settings.max_megapixels:g} megapixels allowed"
            raise BadVideo("too_many_pixels", f"frames of {width} x {height} pixels, {allowed}")

    def _check_length(self, seconds: float, frames: int) -> None:
        most_s = self.settings.max_minutes * 60
        if seconds > most_s:
            said = f"{seconds / 60:.1f} minutes, {self.settings.max_minutes:g} allowed"
            raise BadVideo("too_long", said)
        if frames > most_s * _FASTEST_FPS:
            raise BadVideo("too_long", f"{frames} frames, {most_s * _FASTEST_FPS:.0f} allowed")

    def _promised_s(self) -> float | None:
        """Return how long the video says it is; None if it does not."""
        with suppress(KeyError, ValueError):  # how Matroska says it of one stream
            hours, minutes, seconds = self._stream.metadata["DURATION"].split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        # Otherwise FFmpeg gives a stream of it the length of the file, and sound may be longer.
        shared = "matroska" in self._container.format.name and len(self._container.streams) > 1
        ticks = None if shared else self._stream.duration
        return float(ticks * self.time_base) if ticks else None

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """Decode, and turn whatever a damaged file raises into one error."""
        try:
            for stored in self._container.decode(self._stream):
                if stored.is_corrupt:
                    raise BadVideo("broken_video", f"frame {self.decoded} is damaged")
                yield stored
        except (av.FFmpegError, OSError, ValueError) as problem:
            said = f"after {self.decoded} frames: {_words(problem)}"
            raise BadVideo("broken_video", said) from None

    def _upright(self, stored: av.VideoFrame, index: int, time_s: float) -> Frame:
        """Describe the first frame, whose shape all others must have."""
        self._check_pixels(stored.width, stored.height)
        turn = Turn.of(stored)
        ratio = float(self._stream.sample_aspect_ratio or 1)
        ratio = ratio if 1 / _ODDEST_PIXEL <= ratio <= _ODDEST_PIXEL else 1.0
        width, height = round(stored.width * ratio), stored.height
        self._check_pixels(width, height)
        if turn.swap:
            width, height = height, width
        return Frame(index, time_s, stored, turn, width, height)

    def _check_frame(self, stored: av.VideoFrame, first: Frame) -> None:
        now, then = (stored.width, stored.height), (first.stored.width, first.stored.height)
        if now != then:
            said = (
                f"frame {self.decoded} is {now[0]} x {now[1]}, those before {then[0]} x {then[1]}"
            )
            raise BadVideo("broken_video", said)

    def _check_complete(self, steps: "Steps") -> None:
        """Refuse a video that ends before it should; decoders do not always say so."""
        promised_s = self._promised_s()
        short = promised_s and steps.duration_s < promised_s * (1 - _MISSING_SHARE) - steps.step_s
        if short or self.decoded < self._stream.frames * (1 - _MISSING_SHARE) - 1:
            said = f"{steps.duration_s:.2f} s are left of {promised_s or 0:.2f}"
            raise BadVideo("broken_video", f"truncated: {said}, {self.decoded} frames")


def _is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


_SIGNATURES = (b"\x1aE\xdf\xa3", b"FLV", b"OggS", b"\0\0\1\xba", b"\x30\x26\xb2\x75")
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def _begins_like_a_video(file: ByteFile) -> bool:
    """Whether the first bytes are of a container of ``FORMATS``, however it goes on."""
    head = file.read(16)
    file.seek(0)
    riff = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    return head.startswith(_SIGNATURES) or head[4:8] in _BOXES or riff


def _words(problem: Exception) -> str:
    """Say what a library said, in one short line without its file names."""
    with suppress(AttributeError):
        return str(problem.strerror)[:200]  # type: ignore[attr-defined]
    return (str(problem) or type(problem).__name__)[:200]
