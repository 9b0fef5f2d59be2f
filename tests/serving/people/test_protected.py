import numpy as np
import pytest

from infra.errors import BadValue
from serving.audit import Audit
from serving.database import open_database
from serving.errors import Refusal
from serving.people.protected import BOUNDS, Protected, bound
from stages.models.backend import BACKENDS

E = np.eye(8, dtype=np.float32)


@pytest.fixture
def guarded(tmp_path):
    engine = open_database(str(tmp_path / "serving.db"))
    yield Protected(engine), engine, tmp_path
    engine.dispose()


def near(vector, distance):
    """Return a vector at a cosine distance, of another length."""
    side = E[7] - (E[7] @ vector) * vector
    cosine = 1 - distance
    return (3 * (cosine * vector + np.sqrt(1 - cosine**2) * side)).astype(np.float32)


def test_a_face_resembles_from_the_bound_on_and_whoever_is_nearest_is_named(guarded):
    protected, _, _ = guarded
    one = protected.add(2 * E[:2], "e@0", "asked to")
    other = protected.add(E[2:3], "e@0", "")

    def told(*vectors, below=0.1):
        return protected.resembled(np.stack(vectors), "e@0", below)

    assert told(near(E[0], 0.09)) == one
    assert told(near(E[1], 0.09)) == one
    assert told(near(E[0], 0.11)) == ""
    assert told(E[5], near(E[2], 0.01), near(E[0], 0.05)) == other
    assert told(E[5], E[6]) == ""
    assert protected.resembled(np.empty((0, 8), np.float32), "e@0", 0.1) == ""


def test_another_process_knows_at_once_who_came_and_went(guarded):
    protected, engine, _ = guarded
    elsewhere = Protected(engine)
    assert elsewhere.empty("e@0")
    entry = protected.add(E[:1], "e@0", "")
    assert not elsewhere.empty("e@0")
    assert elsewhere.resembled(E[:1], "e@0", 0.1) == entry
    protected.remove(entry)
    assert elsewhere.empty("e@0")
    assert elsewhere.resembled(E[:1], "e@0", 0.1) == ""


def test_who_was_measured_by_another_encoder_is_not_left_unprotected_in_silence(guarded):
    protected, _, _ = guarded
    protected.add(E[:1], "e@0", "")
    with pytest.raises(Refusal, match="add them again") as no:
        protected.resembled(E[:1], "other@1", 0.1)
    assert no.value.code == "protection_unavailable"
    with pytest.raises(Refusal, match="1 protected people"):
        protected.empty("other@1")


def test_the_list_names_its_entries_and_forgets_those_that_are_removed(guarded):
    protected, engine, folder = guarded
    vectors = np.random.default_rng(3).normal(size=(2, 8)).astype(np.float32)
    entry = protected.add(vectors, "e@0", "a singer's lawyer wrote")
    (listed,) = protected.all()
    assert (listed.id, listed.note, listed.photos) == (entry, "a singer's lawyer wrote", 2)
    with pytest.raises(BadValue, match="nobody is listed so"):
        protected.remove("protected_x")
    assert protected.remove(entry)
    assert protected.all() == []
    kept = b"".join(file.read_bytes() for file in folder.iterdir())
    assert vectors.tobytes()[:16] not in kept
    assert b"lawyer" not in kept
    rows = list(Audit(engine).rows())
    assert [(row["event"], row["subject"]) for row in rows] == [
        ("protected", entry), ("unprotected", entry),
    ]  # fmt: skip


def test_nobody_is_protected_by_no_photograph(guarded):
    with pytest.raises(BadValue, match="at least one"):
        guarded[0].add(E[:0], "e@0", "")


def test_every_backend_has_a_bound_and_another_may_be_given():
    assert set(BOUNDS) == set(BACKENDS)
    assert bound("dlib").below == 0.075
    assert bound("dlib", 0.05).below == 0.05
    assert bound("dlib", 0.05).false_alarms is None
