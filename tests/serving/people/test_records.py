import os
import sqlite3
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from serving.audit import Audit
from serving.database import open_database
from serving.errors import Refusal
from serving.people.consent import Consent
from serving.people.records import Measured, People
from serving.people.tables import PEOPLE
from tests.e2e.services import postgres

NOW = time.time()
CONSENT = Consent(
    purpose="a campaign", evidence="form 7", granted_at=NOW - 10, until=NOW + 9 * 86400,
    subject_name="Ada Example",
)  # fmt: skip
ENDED = replace(CONSENT, until=NOW - 5)
DAY_S = 86400


def seen(photos=2, crops=True, seed=0):
    rng = np.random.default_rng(seed)
    made = tuple(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(photos))
    vectors = rng.normal(size=(photos, 128)).astype(np.float32)
    return Measured(vectors=vectors, embedder="e@0", crops=made if crops else ())


@pytest.fixture
def records(tmp_path):
    engine = open_database(str(tmp_path / "serving.db"))
    Audit(engine)
    yield People(engine), engine, tmp_path
    engine.dispose()


def refusal(code, work, *arguments, **named):
    with pytest.raises(Refusal) as no:
        work(*arguments, **named)
    assert no.value.code == code
    return no.value


def test_what_was_enrolled_is_what_is_used(records):
    people, engine, _ = records
    given = seen()
    person = people.add("k1", CONSENT, given, most=9, request_id="r")
    used = People(engine).use(person.id, "k1")
    assert np.array_equal(used.vectors, given.vectors)
    assert all(np.array_equal(a, b) for a, b in zip(used.crops, given.crops, strict=True))
    assert (used.embedder, used.liveness) == ("e@0", "absent")
    assert people.get(person.id, "k1") == person
    assert (person.consent, person.photos, person.crops) == (CONSENT, 2, True)


def test_crops_are_kept_only_where_they_are_given(records):
    people, _, _ = records
    person = people.add("k1", CONSENT, seen(crops=False), most=9)
    assert (person.crops, people.use(person.id, "k1").crops) == (False, ())


def test_for_another_key_there_is_nobody(records):
    people, _, _ = records
    person = people.add("k1", CONSENT, seen(), most=9)
    for work in (people.get, people.use, people.leave):
        refusal("unknown_person", work, person.id, "k2")
    refusal("unknown_person", people.renew, person.id, "k2", CONSENT)
    assert people.list("k2", 10) == []
    assert people.use(person.id, "k1").embedder == "e@0"


def test_whose_consent_has_ended_is_shown_and_not_used_until_renewed(records):
    people, _, _ = records
    person = people.add("k1", ENDED, seen(), most=9)
    assert not people.get(person.id, "k1").active
    no = refusal("consent_expired", people.use, person.id, "k1")
    assert "renew" in no.message
    later = replace(CONSENT, subject_name="", purpose="another")
    renewed = people.renew(person.id, "k1", later)
    assert renewed.consent == replace(later, subject_name="Ada Example")
    assert people.use(person.id, "k1").embedder == "e@0"


def test_pages_follow_one_another_without_gap_or_repetition(records):
    people, _, _ = records
    made = [people.add("k1", CONSENT, seen(1, seed=i), most=9).id for i in range(5)]
    first = people.list("k1", 2)
    second = people.list("k1", 9, after=first[-1].id)
    assert {one.id for one in (*first, *second)} == set(made)
    assert len(first) + len(second) == 5


def test_a_key_has_no_more_people_than_it_may(records):
    people, _, _ = records
    people.add("k1", CONSENT, seen(), most=1)
    assert (
        "delete some"
        in refusal("too_many_people", people.add, "k1", CONSENT, seen(), most=1).message
    )
    people.add("k2", CONSENT, seen(), most=1)


def test_who_is_forgotten_is_nowhere_on_disk(records):
    people, _, folder = records
    consent = replace(CONSENT, subject_name=f"Ada {os.urandom(8).hex()}", evidence="form 118-x-7")
    given = seen()
    person = people.add("k1", consent, given, most=9)
    other = people.add("k1", CONSENT, seen(seed=1), most=9)
    people.renew(person.id, "k1", consent)
    with closing(sqlite3.connect(folder / "serving.db")) as file:
        asked = "SELECT vector, crop FROM people_photos WHERE person = ?"
        row = file.execute(asked, (person.id,)).fetchall()
    mean = given.vectors.mean(axis=0).tobytes()
    secrets = [
        consent.subject_name.encode(), b"form 118-x-7", mean[:24], mean[-24:],
        *(part for vector, crop in row for part in (vector[:24], crop[64:96], crop[-64:-32])),
    ]  # fmt: skip
    before = b"".join(file.read_bytes() for file in folder.iterdir())
    assert all(secret in before for secret in secrets)
    people.leave(person.id, "k1")
    assert people.forget(person.id, "k1", request_id="r9")
    after = b"".join(file.read_bytes() for file in folder.iterdir())
    assert [secret for secret in secrets if secret in after] == []
    assert people.use(other.id, "k1").embedder == "e@0"
    no = refusal("unknown_person", people.get, person.id, "k1")
    assert no.details == {"forgotten": True}
    assert "were forgotten on 20" in no.message


def test_between_the_first_word_and_the_last_nobody_uses_who_is_being_forgotten(records):
    people, engine, _ = records
    person = people.add("k1", CONSENT, seen(), most=9)
    people.leave(person.id, "k1")
    for work in (people.get, people.use):
        refusal("unknown_person", work, person.id, "k1")
    assert people.list("k1", 10) == []
    people.leave(person.id, "k1")  # asked again
    assert People(engine).overdue(30) == [(person.id, "k1", "forgotten")]


def test_those_whose_consent_ended_long_ago_are_to_be_forgotten(records):
    people, _, _ = records
    long_ago = people.add("k1", replace(CONSENT, until=NOW - 31 * DAY_S), seen(), most=9)
    people.add("k1", replace(CONSENT, until=NOW - 29 * DAY_S), seen(), most=9)
    people.add("k1", CONSENT, seen(), most=9)
    assert people.overdue(30) == [(long_ago.id, "k1", "expired")]


def test_a_disk_that_could_not_be_cleaned_is_cleaned_by_whoever_comes_next(records, monkeypatch):
    people, engine, _ = records
    person = people.add("k1", CONSENT, seen(), most=9)
    with monkeypatch.context() as patch:
        patch.setattr("serving.people.records.scrub", lambda *_: False)
        assert people.forget(person.id, "k1") is False
    cleaned = []
    monkeypatch.setattr("serving.people.records.scrub", lambda *_: cleaned.append(1) or True)
    assert People(engine).scrub() is True
    assert People(engine).scrub() is True
    assert cleaned == [1]


def test_the_audit_log_has_every_deed_and_no_name(records):
    people, engine, _ = records
    person = people.add("k1", CONSENT, seen(), most=9, request_id="r1")
    people.renew(person.id, "k1", CONSENT, "r2")
    people.forget(person.id, "k1", request_id="r3")
    people.forget(person.id, "k1", request_id="r4")  # there is nobody any more
    rows = list(Audit(engine).rows())
    assert [(row["event"], row["key_id"], row["request_id"]) for row in rows] == [
        ("enrolled", "k1", "r1"), ("renewed", "k1", "r2"), ("forgotten", "k1", "r3"),
    ]  # fmt: skip
    assert {row["subject"] for row in rows} == {person.id}
    assert not any(word in str(rows) for word in ("Ada", "campaign", "form 7"))
    assert Audit(engine).verify().problem == ""


@pytest.mark.slow
def test_postgres_keeps_and_forgets_people_as_well():
    with postgres() as url:
        engine = open_database(url)
        people, given = People(engine), seen()
        Audit(engine)
        person = people.add("k1", CONSENT, given, most=9)
        people.renew(person.id, "k1", CONSENT)
        assert np.array_equal(people.use(person.id, "k1").vectors, given.vectors)
        assert people.forget(person.id, "k1")
        refusal("unknown_person", people.get, person.id, "k1")
        with engine.connect() as connection:
            assert connection.execute(PEOPLE.select()).all() == []
        assert [row["event"] for row in Audit(engine).rows()] == [
            "enrolled",
            "renewed",
            "forgotten",
        ]
        assert Audit(engine).verify().problem == ""
        engine.dispose()
