import asyncio

import numpy as np
import pytest

from infra.errors import BadValue
from serving.errors import Refusal
from serving.people.enrol import Enrolment
from serving.recipes import PeopleSettings, ServeRecipe
from stages.models.faces import ModelCard
from stages.models.liveness import Judgement
from tests.serving.doors import data, faces, he, she
from tests.stages.models.photos import astronaut
from tests.stages.models.test_liveness import network


class Says:
    """A liveness check with an opinion; remembers the landmarks it was shown."""

    card, scheme = ModelCard("says", "0" * 64, "", ""), "dlib5"

    def __init__(self, live, score):
        self.told, self.seen = Judgement(live, score), []

    def judge(self, picture, landmarks_px):
        self.seen.append((picture.shape, landmarks_px.tolist()))
        return self.told


def enrolment(**settings):
    return Enrolment(ServeRecipe(name="test", people=PeopleSettings(**settings)), faces())


def measured(made, *photos):
    return asyncio.run(made.measure(photos))


def test_each_photograph_is_measured_as_the_face_routes_do():
    flipped = data(np.ascontiguousarray(astronaut()[:, ::-1]))
    seen = measured(enrolment(crops=True), she(), flipped)
    alone = [asyncio.run(faces().embed(photo)).faces[0].vector for photo in (she(), flipped)]
    assert np.abs(seen.vectors - np.stack(alone)).max() < 1e-5
    assert len(seen.crops) == 2
    assert (seen.liveness, seen.embedder) == ("absent", faces().embedder)


def test_a_liveness_check_sees_every_photograph_with_its_main_face():
    made = enrolment(require_liveness=True)
    made.liveness = says = Says(True, 0.9)
    assert measured(made, she(), she()).liveness == "passed"
    face = asyncio.run(faces().detect(she())).faces[0]
    assert says.seen[0][0] == (512, 512, 3)
    assert np.allclose(says.seen[1][1], face.landmarks_px)


@pytest.mark.parametrize(
    ("live", "code", "words"),
    [(False, "not_live", "picture of a picture"), (None, "poor_photo", "step back")],
)
def test_whoever_does_not_pass_it_is_not_enrolled(live, code, words):
    made = enrolment()
    made.liveness = Says(live, 0.2)
    with pytest.raises(Refusal, match=words) as no:
        measured(made, he())
    assert no.value.code == code


def test_a_check_that_needs_other_landmarks_is_refused_at_the_start(tmp_path):
    path = network(tmp_path / "liveness.onnx")
    with pytest.raises(BadValue, match=r"--faces\.backend insightface"):
        enrolment(liveness=f"file:{path}")
