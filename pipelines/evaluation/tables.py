"""Scores as a person reads them in a terminal, and how far their making is."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

LINE_EVERY_S = 10.0
WORDS = {
    "auc": "AUC: own reference nearer than others'",
    "auc_ceiling": "  of real second photographs (ceiling)",
    "auc_floor": "  of shuffled references (floor)",
    "facesim": "FaceSim, no face counts as 0",
    "facesim_p10": "  of the tenth kept worst",
    "facesim_ceiling": "  of real second photographs (ceiling)",
    "facesim_published": "FaceSim as published, skipping pictures without a face",
    "facesim_published_p10": "  of the tenth kept worst",
    "own_distance": "distance to own reference",
    "other_distance": "distance to others'",
    "same_person_share": "called the same person",
    "face_share": "drawn with a face that the detector sees",
    "loss_gain": "loss with another's vector minus own",
    "leakage": "nearer to somebody trained on than to the reference",
    "leakage_real": "  of real second photographs",
    "diversity": "distance between seeds of one person",
    "diversity_real": "  between two real photographs",
    "clip_t": "CLIP-T, picture and prompt",
    "clip_i": "CLIP-I, picture and reference",
    "dino": "DINO, picture and reference",
    "fid_clip": "Fréchet distance of CLIP's vectors (FID-CLIP)",
    "fid_dino": "Fréchet distance of DINO's vectors (FID-DINO)",
    "fid": "Fréchet distance of Inception's vectors (FID)",
}
"""Every score, in the order in which it is shown."""
VIDEO_WORDS = {
    "auc": "AUC: own reference nearer than others'",
    "auc_ceiling": "  of real second clips (ceiling)",
    "facesim": "FaceSim over frames, no face counts as 0",
    "facesim_p10": "  of the tenth kept worst",
    "facesim_frames_p10": "  of the worst tenth of a video's frames",
    "facesim_frames_std": "  deviation between a video's frames",
    "facesim_ceiling": "  of real second clips (ceiling)",
    "facesim_published": "FaceSim as published, skipping frames without a face",
    "face_share": "frames with a face that the detector sees",
    "loss_gain": "loss with another's vector minus own",
    "motion": "optical flow, picture diagonals per second",
    "motion_real": "  of real clips",
    "dynamic_degree": "videos that move",
    "motion_smoothness": "motion smoothness: frames that follow from their neighbours",
    "temporal_consistency": "CLIP-I, neighbouring frames",
    "subject_consistency": "DINO, neighbouring frames",
    "clip_t": "CLIP-T, frames and prompt",
    "clip_i": "CLIP-I, frames and reference",
    "clipscore_published": "CLIPScore as published, red and blue exchanged",
    "fvd": "Fréchet video distance (FVD)",
    "fid_inception": "Fréchet distance of Inception's vectors of frames (FID)",
    "fid_published": "FID as published: squared distance of faces, frame by frame",
}
"""The same of videos."""


def scores_table(about: Mapping[str, Any]) -> Table:
    """Lay scores out, each with its interval, and say why others are absent."""
    rows = Table(
        title=f"{about['run']}, {about['checkpoint']}: {about['people']} people held out, "
        f"guidance {about['guidance']:g}, {about['steps']} steps",
        caption=f"FaceSim is the {about['facesim_of']} of {about['encoder']}. Intervals: 95 %, "
        "bootstrap over people.",
        box=None, pad_edge=False, header_style="bold", title_justify="left",
        caption_justify="left",
    )  # fmt: skip
    for name in ("", "score", "95 %", "n"):
        rows.add_column(name, justify="right" if name else "left", no_wrap=bool(name))
    for name, words in words_of(about).items():
        if score := about["scores"].get(name):
            p = about["p_values"].get(name)
            said = words if p is None else f"{words} (by chance: p = {p:.1g})"
            interval = f"{number(score['low'])} to {number(score['high'])}"
            rows.add_row(said, number(score["value"]), interval, str(score["n"]))
        elif name in about["absent"]:
            rows.add_row(f"[dim]{words}: absent, {about['absent'][name]}[/]")
    return rows


def words_of(about: Mapping[str, Any]) -> dict[str, str]:
    """Return the scores that an evaluation can have: of pictures, or of videos."""
    return VIDEO_WORDS if about.get("fps") else WORDS


def number(value: float) -> str:
    """Write a score with as many digits as it deserves."""
    return f"{value:.4f}" if abs(value) < 0.1 else f"{value:.3f}"


class Bar:
    """How far an evaluation is: a live bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._what, self._began, self._said = "", 0.0, 0.0
        self._task: Any = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, what: str, done: int, total: int) -> None:
        """Say how much of ``what`` is done; the first call, with 0, begins it."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._said = what, now, now
            self._task = self._bar.add_task(what, total=total, rate="")
        rate = done / max(now - self._began, 1e-9)
        self._bar.update(self._task, completed=done, rate=f"{rate:,.1f}/s")
        if not self.console.is_terminal and now - self._said > LINE_EVERY_S:
            self._said = now
            self.console.print(f"{what}: {done:,} of {total:,}, {rate:,.1f}/s")
