"""Whom an evaluation is of: a checkpoint of a training run, its features, the people held out."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.configuration import digest, from_yaml
from infra.errors import BadValue, UnreadableSource
from infra.released import manifest
from pipelines.evaluation.settings import EvaluateSettings
from pipelines.job import code_version
from training.evaluation.drawing import HeldOut, held_out
from training.evaluation.recognise import is_aligned
from training.exports import drawn_digest
from training.features import Prepared
from training.loop import finished, latest
from training.nets.references import weights_version
from training.settings import TrainRecipe


@dataclass
class Subject:
    """Whom an evaluation is of."""

    run: Path
    checkpoint: Path
    recipe: TrainRecipe
    prepared: Prepared
    people: HeldOut
    target: Path
    """Its folder."""

    @staticmethod
    def open(run: str, settings: EvaluateSettings) -> "Subject":
        """Find all that an evaluation needs, before anything heavy is loaded."""
        folder = Path(run)
        if not (folder / "recipe.yaml").exists():
            raise UnreadableSource(run, "it has no recipe.yaml", "Name a run of `visage train`.")
        checkpoint = chosen(folder, settings.checkpoint)
        recipe = from_yaml(folder / "recipe.yaml", TrainRecipe(name="unnamed"))
        if recipe.method.per_subject:
            why = f"{recipe.method.kind} learnt one person, of whom held-out people say nothing"
            raise UnreadableSource(run, why, "Serve it (visage deploy) and look at what it draws.")
        prepared = Prepared(Path(recipe.data.path))
        people = held_out(prepared, recipe.data.heldout_share, settings.people)
        scorers = [weights_version(r, ()) for r in weights_asked(prepared, settings).values()]
        asked = {**asdict(settings), "checkpoint": checkpoint.name, "scorers": scorers}
        export = drawn_digest(manifest(checkpoint / "export"))
        which = digest(asked, export, people.digest, code_version())
        target = folder / f"evaluations/{checkpoint.name}-{which[:8]}"
        return Subject(folder, checkpoint, recipe, prepared, people, target)

    @property
    def of_videos(self) -> bool:
        """Say whether it draws videos."""
        return self.prepared.features.frames > 0

    @property
    def aligned(self) -> bool:
        """Say whether it draws aligned faces, not whole pictures."""
        return not self.of_videos and is_aligned(self.prepared)


def weights_asked(prepared: Prepared, settings: EvaluateSettings) -> dict[str, str]:
    """Return the references of all encoders that are asked for, by the name of their setting.

    Raises:
        BadValue: One is asked for that only looks at videos, and these are pictures.
    """
    every = {name: getattr(settings, name) for name in ("clip", "dino", "i3d", "inception")}
    every |= {"flow": settings.flow} if settings.flow != "dis" else {}
    asked = {name: reference for name, reference in every.items() if reference}
    for name in asked.keys() - {"clip", "dino", "inception"}:
        if not prepared.features.frames:
            raise BadValue(name, asked[name], "it measures videos, and this run draws pictures.")
    return asked


def chosen(run: Path, checkpoint: str) -> Path:
    """Find a whole checkpoint of a run: ``latest``, ``best``, or by its name.

    Raises:
        UnreadableSource: There is none of that name, or none at all.
    """
    newest = latest(run)
    if newest is None:
        raise UnreadableSource(str(run), "it has no whole checkpoint", "Train it further first.")
    if checkpoint == "latest":
        return newest
    name = checkpoint
    if checkpoint == "best":
        marker = run / "best.json"
        if not marker.exists():
            cure = "Train with --keep-best and the name of a loss or score, or ask for `latest`."
            raise UnreadableSource(str(run), "it has no best.json", cure)
        name = str(json.loads(marker.read_text())["checkpoint"])
    elif name.removeprefix("step-").isdecimal():
        name = f"step-{int(name.removeprefix('step-')):07d}"
    whole = [path.name for path in finished(run)]
    if name not in whole:
        cure = f"It has {', '.join(whole)}."
        raise UnreadableSource(str(run), f"it has no whole checkpoint {name!r}", cure)
    return run / name
