from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving.audit import Audit
from serving.database import open_database
from serving.people.records import Measured, People
from serving.people.search import Search
from tests.bench.search import crowd as many
from tests.serving.people.test_records import CONSENT, ENDED

RNG = np.random.default_rng(5)


@pytest.fixture
def crowd(tmp_path):
    engine = open_database(str(tmp_path / "serving.db"))
    Audit(engine)
    people = People(engine)
    yield people, engine
    engine.dispose()


def enrol(people, vector, owner="k", consent=CONSENT, embedder="e@0"):
    seen = Measured(vectors=vector[None], embedder=embedder)
    return people.add(owner, consent, seen, most=99).id


def some(many):
    return RNG.normal(size=(many, 16)).astype(np.float32)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_the_nearest_are_found_in_their_order(crowd, metric):
    people, engine = crowd
    vectors, query = some(20), some(1)[0]
    ids = [enrol(people, vector) for vector in vectors]
    expected = np.linalg.norm(vectors - query, axis=1)
    if metric == "cosine":
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
        expected = 1 - vectors @ query / lengths
    near, enrolled = Search(engine, "e@0", metric).nearest("k", query, 7)
    order = np.argsort(expected)[:7]
    assert [one.id for one in near] == [ids[i] for i in order]
    assert np.allclose([one.distance for one in near], expected[order], atol=1e-5)
    assert enrolled == 20


def test_nobody_is_found_for_another_key_nor_by_another_encoder(crowd):
    people, engine = crowd
    vector = some(1)[0]
    mine = enrol(people, vector)
    enrol(people, vector, owner="other")
    enrol(people, vector, embedder="e@1")
    search = Search(engine, "e@0", "l2")
    near, enrolled = search.nearest("k", vector, 9)
    assert ([one.id for one in near], enrolled) == ([mine], 1)
    assert search.nearest("third", vector, 9) == ([], 0)


def test_every_process_sees_who_comes_goes_and_is_renewed(crowd):
    people, engine = crowd
    vectors = some(3)
    first, second = (enrol(people, vector) for vector in vectors[:2])
    here, there = Search(engine, "e@0", "l2"), Search(engine, "e@0", "l2")

    def found(vector):
        seen = []
        for search in (here, there):
            near, enrolled = search.nearest("k", vector, 9)
            seen.append(([one.id for one in near], enrolled))
        assert seen[0] == seen[1]
        return seen[0][0]

    assert found(vectors[0]) == [first, second]
    third = enrol(people, vectors[2])
    assert found(vectors[2])[0] == third
    people.forget(first, "k")
    assert set(found(vectors[0])) == {second, third}
    people.renew(second, "k", ENDED)
    assert found(vectors[1]) == [third]
    people.renew(second, "k", CONSENT)
    assert found(vectors[1])[0] == second
    people.leave(third, "k")
    assert found(vectors[2]) == [second]
    people.forget(third, "k")
    people.forget(second, "k")
    assert found(vectors[0]) == []


def test_who_expires_while_held_in_memory_is_not_found(crowd, monkeypatch):
    people, engine = crowd
    vector = some(1)[0]
    enrol(people, vector)
    search = Search(engine, "e@0", "l2")
    assert search.nearest("k", vector, 9)[1] == 1
    monkeypatch.setattr("time.time", lambda: CONSENT.until + 1)
    assert search.nearest("k", vector, 9) == ([], 0)


def test_among_many_the_same_are_found_as_by_comparing_all(crowd):
    _, engine = crowd
    many(engine, 700, 16, np.random.default_rng(1))
    vectors = np.random.default_rng(1).normal(size=(700, 16)).astype(np.float32)
    search = Search(engine, "bench@0", "l2")
    for query in some(5):
        distances = np.linalg.norm(vectors - query, axis=1)
        near, enrolled = search.nearest("k", query, 10)
        assert [int(one.id[-4:], 16) for one in near] == distances.argsort()[:10].tolist()
        assert np.allclose([one.distance for one in near], np.sort(distances)[:10], atol=1e-5)
        assert enrolled == 700
    assert len(search.nearest("k", some(1)[0], 1000)[0]) == 700


def test_threads_that_search_while_people_come_and_go_all_get_whole_answers(crowd):
    people, engine = crowd
    many(engine, 50, 16, np.random.default_rng(1))
    search, query = Search(engine, "bench@0", "l2"), some(1)[0]

    def ask(_):
        near, enrolled = search.nearest("k", query, 100)
        return len({one.id for one in near}) == enrolled >= 45

    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(ask, range(60))
        for i in range(5):
            people.forget(f"person_{i:024x}", "k")
            enrol(people, some(1)[0], embedder="bench@0")
        assert all(answers)
    assert search.nearest("k", query, 1)[1] == 50
