import asyncio
import base64
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import cv2
import numpy as np
import pytest

from serving.audit import Audit
from serving.database import open_database
from serving.keys import Keys
from serving.people.enrol import Enrolment
from serving.people.protected import Protected
from serving.recipes import HttpSettings, PeopleSettings
from tests.serving.doors import PlainImages, data, door, faces, he, refused, she, visitor
from tests.stages.models.photos import astronaut, group

PEOPLE, DRAW, SEARCH = "/v1/people", "/v1/images/generations", "/v1/faces/search"
NOW = datetime.now(UTC)
CONSENT = {
    "purpose": "a campaign", "evidence": "form 7", "until": (NOW + timedelta(days=9)).isoformat(),
    "subject_name": "Eileen Example",
}  # fmt: skip
GREY = data(np.full((90, 90, 3), 50, np.uint8))


def changed(how):
    return data(np.ascontiguousarray(how(astronaut())))


@pytest.fixture
def records(tmp_path):
    return str(tmp_path / "serving.db")


@pytest.fixture
def me(records):
    return visitor(door(records=records)[0])


@pytest.fixture(scope="module")
def nobody(tmp_path_factory):
    """Somebody who asks where nobody is enrolled, and the records."""
    records = str(tmp_path_factory.mktemp("nobody") / "serving.db")
    return visitor(door(records=records)[0]), records


def enrol(me, *photos, **changes):
    files = [("photos", ("x.jpg", photo)) for photo in photos or [she()]]
    consent = {name: value for name, value in (CONSENT | changes).items() if value is not None}
    return me.post(PEOPLE, files=files, data={"consent": json.dumps(consent)})


def logged(records):
    rows = list(Audit(open_database(records)).rows())
    return [(row["event"], json.loads(row["details"])) for row in rows]


def test_a_person_is_enrolled_shown_listed_renewed_and_drawn(records):
    app, images = door(records=records)
    me = visitor(app)
    flipped = changed(lambda picture: picture[:, ::-1])
    answer = enrol(me, she(), flipped)
    assert answer.status_code == 201, answer.text
    person = answer.json()
    assert (person["photos"], person["crops"], person["liveness"]) == (2, False, "absent")
    assert person["consent"]["subject_name"] == "Eileen Example"
    assert me.get(f"{PEOPLE}/{person['id']}").json() == person
    assert me.get(PEOPLE).json()["data"] == [person]
    later = {**CONSENT, "until": (NOW + timedelta(days=99)).isoformat(), "purpose": "more"}
    renewed = me.patch(f"{PEOPLE}/{person['id']}", json={"consent": later}).json()
    assert renewed == {**person, "consent": renewed["consent"]}
    assert renewed["consent"]["purpose"] == "more"
    drawn = me.post(DRAW, json={"identity": person["id"], "seed": 1})
    assert drawn.status_code == 200, drawn.text
    expected = asyncio.run(faces().reference([she(), flipped]))
    assert np.abs(images.asks[0].reference.vector - expected.vector).max() < 1e-5
    assert images.asks[0].reference.faces == ()
    as_form = me.post(DRAW, data={"identity": person["id"], "seed": "1"}, files={"n": (None, "1")})
    assert as_form.status_code == 200, as_form.text
    assert np.array_equal(images.asks[1].reference.vector, images.asks[0].reference.vector)
    assert [event for event, _ in logged(records)] == ["enrolled", "renewed", "used", "used"]


def test_json_enrols_as_a_form_does(me):
    body = {"photos": [base64.b64encode(she()).decode()], "consent": CONSENT}
    assert me.post(PEOPLE, json=body).status_code == 201


def test_crops_are_kept_where_the_model_needs_them(records):
    app, images = door(records=records, people=PeopleSettings(crops=True))
    me = visitor(app)
    person = enrol(me).json()
    me.post(DRAW, json={"identity": [person["id"]]})
    (crop,) = images.asks[0].reference.faces
    assert np.array_equal(crop, asyncio.run(faces().reference([she()])).faces[0])


@pytest.mark.parametrize(
    ("photos", "changes", "code", "words"),
    [
        ([GREY], {}, "no_face", "Photograph 0 shows no face"),
        ([she(), data(group())], {}, "several_faces", "Photograph 1 shows"),
        ([she(), he()], {}, "different_people", "one person"),
        ([she()] * 9, {}, "invalid_value", "photos"),
        ([b"junk"], {}, "unsupported_media_type", "JPEG"),
        ([changed(lambda p: cv2.resize(p, (200, 200)))], {}, "poor_photo", "px wide, 60 is needed"),
        ([changed(lambda p: cv2.GaussianBlur(p, (0, 0), 2.5))], {}, "poor_photo", "sharpness"),
        ([she()], {"until": "2020-01-01T00:00:00Z"}, "consent_expired", "2020-01-01"),
        ([she()], {"granted_at": CONSENT["until"]}, "consent_in_future", "begins on"),
        ([she()], {"until": None}, "invalid_value", "consent.until"),
        ([she()], {"purpose": None}, "invalid_value", "consent.purpose"),
        ([she()], {"evidence": ""}, "invalid_value", "consent.evidence"),
        ([she()], {"name": "x"}, "unknown_field", "'consent.name'"),
    ],
)
def test_what_cannot_be_enrolled_is_refused_with_its_reason(nobody, photos, changes, code, words):
    me, records = nobody
    before = logged(records)
    error = refused(enrol(me, *photos, **changes), code)
    assert words in error["message"]
    assert me.get(PEOPLE).json()["data"] == []
    recorded = [] if code in ("invalid_value", "unknown_field") else [code]
    written = [("refused", {"code": one, "where": "enrolment"}) for one in recorded]
    assert logged(records) == before + written


def test_nobody_is_enrolled_without_consent(nobody):
    me, _ = nobody
    for answer in (
        me.post(PEOPLE, files={"photos": she()}),
        me.post(PEOPLE, json={"photos": base64.b64encode(she()).decode(), "consent": None}),
    ):
        assert "consent" in refused(answer, "consent_missing")["message"]
    refused(me.post(PEOPLE, json={"consent": CONSENT}), "invalid_value")


def test_an_upload_of_50_mb_is_refused(records):
    me = visitor(door(records=records, http=HttpSettings(max_body_bytes=2**20))[0])
    refused(enrol(me, she() + bytes(2**20)), "body_too_large")
    whole = visitor(door(records=records)[0])
    refused(enrol(whole, bytes(50 * 10**6)), "body_too_large")


def test_a_liveness_check_that_is_demanded_and_absent_refuses(records):
    settings = PeopleSettings(require_liveness=True)
    me = visitor(door(records=records, people=settings)[0])
    assert "people.liveness" in refused(enrol(me), "liveness_unavailable")["message"]


def test_a_protected_person_cannot_be_enrolled(me, records):
    vector = asyncio.run(faces().reference([she()])).vector
    Protected(open_database(records)).add(vector[None], faces().embedder, "")
    refused(enrol(me), "protected_person")
    assert enrol(me, he()).status_code == 201
    assert logged(records)[1] == ("refused", {"code": "protected_person", "where": "enrolment"})


def test_no_more_people_than_a_key_may_have(records):
    me = visitor(door(records=records, people=PeopleSettings(most=1))[0])
    assert enrol(me).status_code == 201
    refused(enrol(me, he()), "too_many_people")
    assert logged(records)[-1] == ("refused", {"code": "too_many_people", "where": "enrolment"})


def test_people_of_one_key_are_nobody_to_another(records, tmp_path):
    keys = Keys(tmp_path / "keys.db", make=True)
    app, _ = door(records=records, keys=keys)
    mine, other = (
        visitor(app, authorization=f"Bearer {keys.add(name, ['images', 'faces'])}")
        for name in ("a", "b")
    )
    identity = enrol(mine).json()["id"]
    path = f"{PEOPLE}/{identity}"
    refused(other.get(path), "unknown_person")
    refused(other.delete(path), "unknown_person")
    refused(other.patch(path, json={"consent": CONSENT}), "unknown_person")
    refused(other.post(DRAW, json={"identity": identity}), "unknown_person")
    assert other.get(PEOPLE).json()["data"] == []
    assert other.post(SEARCH, files={"image": she()}).json()["enrolled"] == 0
    assert mine.get(path).status_code == 200
    refused(visitor(app).get(path), "missing_key")


def test_who_expired_is_not_drawn_and_who_is_renewed_is(me, records, monkeypatch):
    identity = enrol(me).json()["id"]
    later = datetime.now(UTC) + timedelta(days=10)
    monkeypatch.setattr("time.time", later.timestamp)
    error = refused(me.post(DRAW, json={"identity": identity}), "consent_expired")
    assert "renew" in error["message"]
    assert me.get(f"{PEOPLE}/{identity}").json()["status"] == "expired"
    assert me.post(SEARCH, files={"image": she()}).json()["data"] == []
    renewed = {**CONSENT, "until": (later + timedelta(days=1)).isoformat()}
    assert me.patch(f"{PEOPLE}/{identity}", json={"consent": renewed}).json()["status"] == "active"
    assert me.post(DRAW, json={"identity": identity}).status_code == 200
    assert ("refused", {"code": "consent_expired", "where": "reference"}) in logged(records)


def test_who_expired_long_ago_is_forgotten_by_itself(me, records, monkeypatch):
    identity = enrol(me).json()["id"]
    later = datetime.now(UTC) + timedelta(days=40)
    monkeypatch.setattr("time.time", later.timestamp)
    assert me.get(PEOPLE).json()["data"] == []
    assert refused(me.get(f"{PEOPLE}/{identity}"), "unknown_person")["details"]["forgotten"]
    assert logged(records)[-1][0] == "expired"


def test_forgetting_reaches_all_that_is_kept_of_a_person(records, tmp_path):
    app, _ = door(records=records, people=PeopleSettings(crops=True))
    me, told, main = visitor(app), [], threading.get_ident()
    app.state.door.forgetters.append(lambda one: told.append((one, threading.get_ident() == main)))
    identity = enrol(me, subject_name="Eileen 4711").json()["id"]
    assert any(b"Eileen 4711" in file.read_bytes() for file in tmp_path.iterdir())
    answer = me.delete(f"{PEOPLE}/{identity}").json()
    assert answer == {"id": identity, "object": "person.deleted", "deleted": True, "erased": True}
    assert told == [(identity, False)]
    assert not any(b"Eileen 4711" in file.read_bytes() for file in tmp_path.iterdir())
    for answer in (me.delete(f"{PEOPLE}/{identity}"), me.get(f"{PEOPLE}/{identity}")):
        assert refused(answer, "unknown_person")["details"] == {"forgotten": True}
    refused(me.post(DRAW, json={"identity": identity}), "unknown_person")
    assert [event for event, _ in logged(records)] == ["enrolled", "forgotten", "refused"]


def test_forgetting_that_failed_midway_is_carried_out_by_whoever_comes_next(records):
    app, _ = door(records=records)
    me, broken = visitor(app), [True]

    def forgetter(_):
        if broken:
            raise OSError("the disk is away")

    app.state.door.forgetters.append(forgetter)
    identity = enrol(me).json()["id"]
    refused(me.delete(f"{PEOPLE}/{identity}"), "internal")
    refused(me.post(DRAW, json={"identity": identity}), "unknown_person")
    assert me.get(PEOPLE).json()["data"] == []  # nor does another one's request fail of it
    assert [event for event, _ in logged(records)].count("forgotten") == 0
    broken.clear()
    me.get(PEOPLE)
    assert [event for event, _ in logged(records)].count("forgotten") == 1


def test_the_enrolled_are_found_by_a_photograph(me, records):
    ids = [enrol(me, photo).json()["id"] for photo in (she(), he())]
    found = me.post(SEARCH, files={"image": changed(lambda p: p[:, ::-1])}).json()
    assert [one["id"] for one in found["data"]] == ids
    assert [one["same_person"] for one in found["data"]] == [True, False]
    assert (found["enrolled"], found["threshold"]) == (2, 0.6)
    assert len(me.post(SEARCH, data={"limit": "1"}, files={"image": he()}).json()["data"]) == 1
    refused(me.post(SEARCH, files={"image": GREY}), "no_face")
    refused(me.post(SEARCH, data={"limit": "0"}, files={"image": he()}), "invalid_value")
    assert ("searched", {"same": 1}) in logged(records)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=-1", "limit=1.5"])
def test_a_page_of_no_size_is_refused(nobody, query):
    refused(nobody[0].get(f"{PEOPLE}?{query}"), "invalid_value")


@pytest.mark.parametrize(
    "name", ["x", "person_", "person_" + "G" * 24, "person_" + "0" * 24, "%00"]
)
def test_an_id_that_nobody_has_is_nobodys(nobody, name):
    refused(nobody[0].get(f"{PEOPLE}/{name}"), "unknown_person")
    refused(nobody[0].get(f"{PEOPLE}?after={name}"), "unknown_person")


def test_records_that_do_not_answer_stop_everything_that_needs_them(records, monkeypatch):
    monkeypatch.setattr("serving.database.BUSY_S", 0.2)
    app, images = door(records=records)
    me = visitor(app)
    identity = enrol(me).json()["id"]
    with app.state.door.guard.people.engine.begin():
        refused(me.post(DRAW, json={"identity": identity}), "records_unavailable")
        refused(me.delete(f"{PEOPLE}/{identity}"), "records_unavailable")
        assert images.asks == []
    assert me.post(DRAW, json={"identity": identity}).status_code == 200


def test_settings_that_cannot_work_are_refused():
    from infra.errors import BadValue, BadWeights

    recipe = door()[0].state.door.recipe
    with pytest.raises(BadValue, match="file:<path>"):
        PeopleSettings(liveness="liveness.onnx")
    with pytest.raises(BadValue, match="min_face_px"):
        PeopleSettings(min_face_px=-1)
    with pytest.raises(BadWeights, match="is not there"):
        Enrolment(replace(recipe, people=PeopleSettings(liveness="file:/no/such")), faces())
    with pytest.raises(BadValue, match="PGPASSWORD") as error:
        replace(recipe, records="postgresql+psycopg2://me:hunter2@host/db")
    assert "hunter2" not in str(error.value)
    with pytest.raises(BadValue, match="is not on this machine"):
        _ = replace(recipe, records="", store="s3://bucket/trained").database


def test_the_quickest_images_route_needs_no_record_of_people(records):
    images = PlainImages()
    me = visitor(door(images, records=records)[0])
    assert me.post(DRAW, json={"prompt": "a"}).status_code == 200
    assert logged(records) == []
