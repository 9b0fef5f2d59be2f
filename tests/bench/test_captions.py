from tests.bench.captions import ANSWER_S, main


def test_asking_a_server_is_concurrent_and_a_template_costs_nearly_nothing():
    found = main(pictures=32, concurrency=16)
    assert found["http_captions_per_s"] > 1 / ANSWER_S, "requests went out one after the other"
    assert found["template_captions_per_s"] > 200
