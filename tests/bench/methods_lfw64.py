"""Which method keeps people best at equal steps: ``python -m tests.bench.methods_lfw64``.

On Labeled Faces in the Wild at 64 px (VISAGE_TEST_DATA names the folder of lfw-dev.tar), by the
commands that people type: a base that learns faces by their captions (`lfw64_text_base`), and on it
FaceID, InstantID and Arc2Face, each without more losses, with the identity loss and with the
triplet loss; equal steps, batches, seeds, held-out people and noise. Arc2Face trains the base
itself, from the same weights, with the encoder that read the captions.

A whole run takes hours on a CPU. Every step is found again when the command is given again, so it
can be stopped at any time; ``--lanes`` runs are made at a time. Captions say how heads are held, so
prompts are followed as far as ``lfw64_pose`` says; CLIP-T is absent unless CLIP is given.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

VISAGE = str(Path(sys.executable).with_name("visage"))
METHODS = {
    "FaceID": ["--method.kind", "ip_adapter_faceid", "--method.identity-norm", "standard"],
    "InstantID": ["--method.kind", "instant_id", "--method.identity-norm", "standard",
                  "--method.tokens", "16"],
    "Arc2Face": ["--method.kind", "arc2face", "--method.identity-norm", "standard"],
}  # fmt: skip
"""Vectors are standardised in all three: dlib's are crowded, and unit ones are nearly one."""
SCORES = ("facesim", "auc", "clip_t", "own_distance", "face_share", "pose")
TEXT = "random:tiny-sd128"
"""A transformer of random weights that nobody trains: what differs between captions differs in its
states too, and that is all a base needs to learn what they mean."""


def losses_of(identity: float, triplet: float) -> dict[str, list[str]]:
    """Return what each column adds to a recipe."""
    return {
        "none": [],
        "identity": ["--losses.identity", str(identity)],
        "triplet": ["--losses.triplet", str(triplet)],
    }


def visage(*words: object) -> dict[str, Any]:
    """Carry a verb out; return its last line."""
    sys.stderr.write(f"visage {' '.join(map(str, words))}\n")
    told = subprocess.run(
        [VISAGE, *map(str, words), "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    said: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return said


def prepare(home: Path) -> Path:
    """Curate and prepare the photographs; return the features' folder."""
    source = Path(os.environ["VISAGE_TEST_DATA"]) / "lfw-dev.tar"
    if not tarfile.is_tarfile(source):
        sys.exit(f"{source} is no tar of photographs: set VISAGE_TEST_DATA to its folder.")
    run = visage("curate", "lfw", "--source.path", source, "--store", home / "store")["path"]
    visage("prepare", "lfw64", "--corpus", run, "--out", home / "features",
           "--text-encoder", TEXT, "--caption", "attributes")  # fmt: skip
    return home / "features"


def with_words(export: Path, home: Path) -> Path:
    """Put the captions' encoder beside a base, so that Arc2Face has a prompt for people."""
    if home.exists():
        return home
    from training.nets.text import load_clip_text

    beside = home.with_name(f".{home.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(export / "unet", beside / "unet")
    tokenizer, encoder = load_clip_text(TEXT)
    encoder.save_pretrained(beside / "text_encoder")
    tokenizer.save_pretrained(beside / "tokenizer")
    beside.replace(home)
    return home


def pose(run: str, features: Path, asked: argparse.Namespace, *more: str) -> dict[str, Any] | None:
    """Say how far prompts turn heads; see ``lfw64_pose``."""
    words = [sys.executable, "-m", "tests.bench.lfw64_pose", run, "--features", str(features),
             "--people", str(asked.people), "--steps", str(asked.drawing_steps), *more]  # fmt: skip
    told = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    said: dict[str, Any] | None = json.loads(told.stdout.splitlines()[-1])
    return said


def runs(asked: argparse.Namespace) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    """Train and score everything; yield method, loss, seed and what `evaluate` says."""
    home = asked.home.absolute()
    features = asked.features.absolute() if asked.features else prepare(home)
    alike = ["--data.path", features, "--out", home / "trained", "--batch", asked.batch,
             "--microbatch", asked.batch]  # fmt: skip
    base = visage("train", "lfw64_text_base", *alike, "--scale.threads", asked.base_threads,
                  "--steps", asked.base_steps, "--save-every", asked.base_steps,
                  "--method.width", asked.width)  # fmt: skip
    export = Path(base["export"])
    prompted = with_words(export, home / f"base-{Path(base['path']).name}")
    scored = ["--people", asked.people, "--seeds", 1, "--steps", asked.drawing_steps]
    if asked.clip:
        scored += ["--clip", asked.clip]

    def one(seed: int, method: str, settings: list[str], losses: list[str]) -> dict[str, Any]:
        where = prompted if method == "Arc2Face" else export
        ends = ["--steps", asked.steps, "--save-every", asked.steps, "--seed", seed,
                "--scale.threads", asked.threads]  # fmt: skip
        run = visage("train", "lfw64_adapter", *alike, *ends, *settings, *losses,
                     "--base.weights", f"file:{where}")  # fmt: skip
        told = visage("evaluate", run["path"], *scored)
        told["scores"]["pose"] = pose(run["path"], features, asked)
        return told

    real = pose(base["path"], features, asked, "--photographs")
    yield "photographs", "", 0, {"scores": {"pose": real}, "absent": {}}
    alone = pose(base["path"], features, asked)
    yield "the base alone", "", 0, {"scores": {"pose": alone}, "absent": {}}
    with ThreadPoolExecutor(asked.lanes) as lanes:
        every = [
            (method, name, seed, lanes.submit(one, seed, method, settings, losses))
            for seed in asked.seeds
            for name, losses in losses_of(asked.identity, asked.triplet).items()
            for method, settings in METHODS.items()
        ]
        for method, name, seed, made in every:
            yield method, name, seed, made.result()


def line(method: str, losses: str, seed: int, told: dict[str, Any]) -> str:
    """Return one row of the table."""
    cells = [method, losses, str(seed)]
    for name in SCORES:
        score = told["scores"].get(name)
        cells.append(
            f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})" if score else "-"
        )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Train, score and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--home", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--features", type=Path, help="of `visage prepare lfw64`, if there are")
    parser.add_argument("--base-steps", type=int, default=1800)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=int, default=96, help="of the base")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--identity", type=float, default=0.1, help="weight of that loss")
    parser.add_argument("--triplet", type=float, default=0.1, help="weight of that loss")
    parser.add_argument("--people", type=int, default=200, help="held-out people, at most")
    parser.add_argument("--drawing-steps", type=int, default=30)
    parser.add_argument("--clip", default="", help="for CLIP-T: file:<folder>")
    parser.add_argument("--base-threads", type=int, default=2, help="of the base's training")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--lanes", type=int, default=1, help="runs that are made at a time")
    asked = parser.parse_args()
    asked.home.mkdir(parents=True, exist_ok=True)
    rows: list[str] = []
    absent: dict[str, str] = {}
    for found in runs(asked):
        rows.append(line(*found))
        absent |= {n: why for n, why in found[3]["absent"].items() if n in SCORES}
        sys.stderr.write(f"{rows[-1]}\n")
    print(f"base {asked.base_steps} steps, then {asked.steps} each, batch {asked.batch}, at most "
          f"{asked.people} held-out people, 95 % over people")  # fmt: skip
    print(
        f"| method | losses | seed | {' | '.join(SCORES)} |\n|---|---|---:|{'---:|' * len(SCORES)}"
    )
    print("\n".join(rows))
    for name, why in absent.items():
        print(f"{name} is absent: {why}")


if __name__ == "__main__":
    main()
