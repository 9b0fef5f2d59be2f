"""What the quickstart shows of an endpoint: a person drawn, faces compared, and lines to try it."""

import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

PERSON, ANOTHER = "astronaut", "lace"
"""Labels of the sample web: one person with two photographs, and somebody else."""
_SAVE = "import base64, json, sys; sys.stdout.buffer.write(base64.b64decode({}))".format(
    "json.load(sys.stdin)['data'][0]['b64_json']"
)


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Curated photographs as files."""

    person: Path
    again: Path
    """The same person, cut out of the photograph anew."""
    another: Path
    """Somebody else."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the endpoint answered."""

    drawn: str
    """The picture's file."""
    model: str
    """``NAME/version`` of what drew it."""
    signed: dict[str, Any]
    """Where the picture is from, as ``/v1/provenance`` tells: ``verdict``, ``credential``, ..."""
    same: dict[str, Any]
    """Two photographs of one person: ``same_person``, ``distance``, ..."""
    another: dict[str, Any]
    """Photographs of two people."""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """What to type; every line works as it is, from the folder that it was printed in."""

    deploy: str
    """Serves the model."""
    curl: tuple[str, ...]
    python: str


def photos(corpus: str, home: Path) -> Photos:
    """Write three photographs of a curated corpus into a folder.

    Args:
        corpus: A run of ``visage curate`` on the sample web.
        home: Where they are written.
    """
    rows = pq.read_table(f"{corpus}/export/parquet", columns=["label", "width_px", "blob"])
    # Which of two copies was kept depends on the web's port; the larger cut comes first.
    found = sorted(rows.to_pylist(), key=lambda row: -row["width_px"])
    blobs = {
        who: [row["blob"] for row in found if row["label"] == who] for who in (PERSON, ANOTHER)
    }
    person, again, *_ = blobs[PERSON]
    made = Photos(
        person=home / f"{PERSON}.jpg",
        again=home / f"{PERSON}-again.jpg",
        another=home / f"{ANOTHER}.jpg",
    )
    files = ((made.person, person), (made.again, again), (made.another, blobs[ANOTHER][0]))
    for path, blob in files:
        path.write_bytes(blob)
    return made


def show(url: str, faces: Photos, home: Path) -> Shown:
    """Ask an endpoint for a picture of the person, and whom it takes for one person.

    Raises:
        Refusal: It refuses; says why.
    """
    from serving.client import Visage
    from serving.client_provenance import Provenance

    with Visage(url) as visage:
        drawn = visage.generate(identity=[faces.person], seed=7)
        path = home / "drawn.png"
        path.write_bytes(drawn.pictures[0])
        return Shown(
            drawn=str(path),
            model=drawn.model,
            signed=Provenance(visage).inspect(path),
            same=visage.verify(faces.person, faces.again),
            another=visage.verify(faces.person, faces.another),
        )


def lines(deploy: str, url: str, faces: Photos) -> Lines:
    """Return what to type against an endpoint.

    Args:
        deploy: The command that starts it.
        url: Where it listens then.
        faces: Photographs to ask it with.
    """
    person, again = _short(faces.person), _short(faces.again)
    out = _short(faces.person.with_name("again.png"))
    ask = f"curl --fail-with-body --silent {url}"
    draw = f"--form {shlex.quote(f'identity=@{person}')} --form seed=8"
    pair = f"--form {shlex.quote(f'image_a=@{person}')} --form {shlex.quote(f'image_b=@{again}')}"
    return Lines(
        deploy=deploy,
        curl=(
            f"{ask}/v1/faces/verify {pair}",
            f'{ask}/v1/images/generations {draw} | python3 -c "{_SAVE}" > {shlex.quote(out)}',
        ),
        python=f"""\
from pathlib import Path
from serving.client import Visage

with Visage("{url}") as visage:
    drawn = visage.generate(identity=[{json.dumps(person)}], seed=9)
    Path({json.dumps(out)}).write_bytes(drawn.pictures[0])
    answer = visage.verify({json.dumps(person)}, {json.dumps(again)})
    print(answer["same_person"])
""",
    )


def _short(path: Path) -> str:
    """Return a path as one would type it here."""
    here = os.path.relpath(path)
    return str(path) if here.startswith("..") else here
