"""A corpus of people who do not exist, drawn by a model that is told identity alone.

Vectors of new people are drawn once (``people.parquet``). Their pictures are drawn, measured,
marked and written a few people at a time, each part whole or not at all, so that the same command
goes on where a crash came. The same settings give the same people, vectors and pixels; not the
same files where they are signed, as no two signatures are alike.

The folder is read as a curated corpus is: ``visage prepare RECIPE --corpus FOLDER``.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console

from infra.configuration import digest, to_dict
from infra.errors import BadValue
from infra.released import manifest
from infra.storage import Folder, open_store
from infra.weights import locate
from pipelines.job import JobRecord, code_version, locked, utc_now
from pipelines.progress import Reporter
from pipelines.synthesis.corpus import RealPeople, read_people
from pipelines.synthesis.faces import SCHEMA, Looker, described, png, signer
from pipelines.synthesis.plan import Plan, assigned, read_plan
from pipelines.synthesis.report import Report, write_report
from pipelines.synthesis.settings import SynthesizeSettings
from training.build import load_export
from training.evaluation.drawing import parts, pictures
from training.exports import drawn_digest
from training.method import Condition, Method, Sampling
from training.synthetic import BELOW, Space, describe, most_variation_deg, new_people, variation

RECORD, PEOPLE = "synthesize.json", "people.parquet"
_NO_EXPECTATION = 1e-6


@dataclass(frozen=True)
class _Task:
    """What every part needs."""

    settings: SynthesizeSettings
    """With the bound that holds, and its own digest."""
    digest: str
    plan: Plan
    space: Space
    vectors: np.ndarray
    """Of the new people."""
    cells: tuple[list[int], list[list[int]]]
    """Of each person, and of each picture."""
    home: Folder

    @property
    def data(self) -> Folder:
        """Where the pictures are written."""
        return self.home / "export/parquet"


def synthesize(settings: SynthesizeSettings, out: str, console: Console) -> Report:
    """Draw a corpus into ``out``, or go on with it, or find it done.

    Raises:
        BadInput: The model or the corpus cannot be used, or not together; there is no room for so
            many people; or the folder holds what other settings made.
        RunInUse: Another process is at it.
    """
    if not settings.model:
        raise BadValue("model", "", "name an export: file:<run>/step-<number>/export.")
    plan, folder = read_plan(settings.plan), locate(settings.model)
    real = read_people(settings.corpus, plan)
    asked = {k: v for k, v in to_dict(settings).items()
             if k not in ("model", "corpus", "plan", "device", "provenance")}  # fmt: skip
    which = digest(asked, plan, drawn_digest(manifest(folder)), real.digest)
    home = open_store(out)
    with locked(home):
        before = home.read_json(RECORD)
        if before and before["digest"] != which:
            cure = "it holds what other settings, or another model or corpus, made; name another."
            raise BadValue("out", out, cure)
        if before and before["finished_at"] and (done := Report.read(home)):
            console.print(f"Done before, the same way: {home}", markup=False)
            return done
        method = _method(folder, settings, real)
        below = settings.below or BELOW[_looker(method, settings).embedder.metric]
        if settings.variation_deg > most_variation_deg(below) + _NO_EXPECTATION:
            raise BadValue(
                "variation_deg",
                settings.variation_deg,
                f"with below {below:g}, give up to {most_variation_deg(below):.1f}: beyond, one "
                "person's vectors can be less alike than two people's.",
            )
        record = {
            "digest": which, "settings": to_dict(settings), "plan": to_dict(plan),
            "below": below, "code": code_version(), "began_at": utc_now(), "finished_at": "",
        }  # fmt: skip
        home.write_json(RECORD, before or record)
        task = _task(settings, which, plan, real, home, below, method)
        signed_by = _draw(task, method, console)
        report = write_report(home, plan, task.space, below, signed_by)
        rows = settings.people * settings.pictures
        done_record = JobRecord(
            job="export", fingerprint=which, data=f"{home.name}/export", output=which, rows=rows,
            keep=rows, settings=to_dict(settings), code=code_version(), finished_at=utc_now(),
        )  # fmt: skip
        (home / "export").write_json("job.json", asdict(done_record))
        home.write_json(RECORD, (before or record) | {"finished_at": utc_now()})
    return report


def _method(folder: Path, settings: SynthesizeSettings, real: RealPeople) -> Method:
    """Load the model, and see that it can draw these people."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise BadValue("device", "cuda", "torch sees no GPU here; give cpu.")
    method = load_export(folder)
    told = method.recipe.method
    if told.takes_text or told.takes_image or told.condition != "identity":
        raise BadValue(
            "model",
            settings.model,
            f"it is of the method {told.kind}, which is not told identity alone; give an export "
            "of arc2face, or of base with method.condition identity.",
        )
    if method.features.embedder != real.embedder:
        raise BadValue(
            "corpus",
            settings.corpus,
            f"it was measured with {real.embedder}, and the model is told vectors of "
            f"{method.features.embedder}; vectors of two encoders mean different things.",
        )
    return method.to(settings.device)


def _looker(method: Method, settings: SynthesizeSettings) -> Looker:
    return Looker(
        method.features, aligned=settings.aligned, pack=settings.pack, device=settings.device
    )


def _task(
    settings: SynthesizeSettings, which: str, plan: Plan, real: RealPeople, home: Folder,
    below: float, method: Method,
) -> _Task:  # fmt: skip
    """Describe the real people; draw the new ones, or read those that were drawn before."""
    space = describe(
        real.vectors, real.whose, _looker(method, settings).embedder.metric,
        groups=real.groups, measured=real.measured,
    )  # fmt: skip
    for name in sorted({name for cell in plan.pictures for name in cell.ranges}):
        if name not in space.attributes:
            cure = f"the corpus {settings.corpus!r} has measured it on no face."
            raise BadValue("plan", name, cure)
    cells = assigned(plan, settings.people, settings.pictures)
    path = Path(home.path) / PEOPLE
    if not path.exists():
        labels = [str(cell) if cell.labels else "" for cell in plan.people]
        for label in labels:
            if label not in space.means:
                raise BadValue("plan", label, "nobody in the corpus is like that.")
        vectors = new_people(space, [labels[c] for c in cells[0]], below, settings.seed)
        home.write_table(PEOPLE, pa.table({
            "person": np.arange(len(vectors)),
            "cell": [str(plan.people[cell]) for cell in cells[0]],
            "vector": list(vectors),
        }))  # fmt: skip
    held = pq.read_table(path)["vector"].to_pylist()
    return _Task(settings, which, plan, space, np.array(held, np.float32), cells, home)


def _draw(task: _Task, method: Method, console: Console) -> str:
    """Write the parts that are not there; return who signed them."""
    settings = task.settings
    looker = _looker(method, settings)
    sign, signed_by = signer(settings.provenance, f"{method.recipe.name}/{task.digest}")
    total, each = settings.people * settings.pictures, settings.people_per_part
    todo = [(n, range(start, min(start + each, settings.people)))
            for n, start in enumerate(range(0, settings.people, each))]  # fmt: skip
    todo = [(n, whom) for n, whom in todo if not task.data.exists(_name(n))]
    before = total - sum(len(whom) for _, whom in todo) * settings.pictures
    reporter, done = Reporter(console), 0
    with reporter.job("synthesize", total, before):
        for number, whom in todo:
            rows: list[dict[str, Any]] = []
            for drawn, numbers, vectors in _pictures(task, method, whom):
                blobs = [png(picture, method.recipe.name) for picture in drawn]
                blobs = [sign(blob) for blob in blobs] if sign else blobs
                seen = looker.look(list(drawn), blobs)
                for at, (person, picture) in enumerate(numbers):
                    cell = (str(task.plan.people[task.cells[0][person]]),
                            str(task.plan.pictures[task.cells[1][person][picture]]))  # fmt: skip
                    about = described(task.digest, cell, (person, picture), vectors[at], blobs[at])
                    size = {"width_px": drawn.shape[2], "height_px": drawn.shape[1]}
                    rows.append(about | size | seen[at])
                done += len(numbers)
                reporter.rows(done)
            task.data.write_table(_name(number), pa.Table.from_pylist(rows, schema=SCHEMA))
    return signed_by


def _name(part: int) -> str:
    return f"part-{part:05d}.parquet"


def _pictures(
    task: _Task, method: Method, whom: range
) -> Iterator[tuple[np.ndarray, list[tuple[int, int]], np.ndarray]]:
    """Draw all pictures of some people; yield pictures, whose and which they are, and vectors.

    Chance is each picture's own, so that it is the same whatever it is drawn together with.
    """
    settings, plan = task.settings, task.plan
    sampling = Sampling(steps=settings.steps, guidance=settings.guidance)
    numbers = [(person, n) for person in whom for n in range(settings.pictures)]
    for part in parts(len(numbers), method.features.image_px):
        vectors, noises = [], []
        for person, picture in numbers[part]:
            rng = np.random.default_rng([settings.seed, 1, person, picture])
            cell = plan.pictures[task.cells[1][person][picture]]
            wanted = {name: float(rng.uniform(*ends)) for name, ends in cell.ranges.items()}
            vectors.append(
                variation(task.space, task.vectors[person], wanted, settings.variation_deg, rng)
            )
            noises.append(torch.Generator().manual_seed(int(rng.integers(2**62))))
        asked = np.stack(vectors)
        drawn = method.generate(
            Condition(torch.from_numpy(asked).to(settings.device)), noises, sampling
        )
        yield pictures(drawn), numbers[part], asked
