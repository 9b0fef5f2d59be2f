import asyncio

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.schema import ServeDeploySchema

from infra.errors import BadValue, UnknownKey, UnknownRecipe
from serving.deploy import app
from serving.errors import Refusal
from serving.lint import lint
from serving.ray_metrics import RayMetrics
from serving.remote import RayImages, Trial, refusal
from tests.serving.doors import PlainImages
from tests.serving.test_images import ask


def configuration(**deployment):
    return {
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "applications": [
            {
                "name": "visage",
                "import_path": "serving.deploy:app",
                "args": {"recipe": "gpu", "whatever": {"the_builder": "reads"}},
                "deployments": [{"name": "Gateway", **deployment}],
            }
        ],
    }


def deployments(application):
    """Return an application's deployments by name."""
    bound = application._bound_deployment
    found = {bound.name: bound}
    for below in (*bound.init_args, *bound.init_kwargs.values()):
        if hasattr(below, "_bound_deployment"):
            found |= deployments(below)
    return found


def test_a_configuration_names_a_recipe_and_any_of_its_settings():
    made = deployments(app({"recipe": "gpu", "keys": "/k.db", "model": "face@champion"}))
    assert set(made) == {"Gateway", "ImageGenerator"}
    settings = made["Gateway"].init_args[0]
    assert (settings["keys"], settings["images"]["device"]) == ("/k.db", "cuda")
    drawing = made["ImageGenerator"]
    assert drawing.user_config == {"model": "face@champion"}
    assert drawing.ray_actor_options["num_gpus"] == 1
    scaled = drawing._deployment_config.autoscaling_config
    assert (scaled.min_replicas, scaled.max_replicas) == (1, 4)


def test_without_a_model_there_is_only_the_gateway():
    assert set(deployments(app({"recipe": "local"}))) == {"Gateway"}


@pytest.mark.parametrize(
    ("args", "error", "words"),
    [
        ({"recipe": "gpus"}, UnknownRecipe, "Did you mean 'gpu'"),
        ({"recipe": "local", "modle": "x"}, UnknownKey, "Did you mean 'model'"),
        ({"recipe": "local", "http": {"host": "0.0.0.0"}}, BadValue, "without --keys"),
    ],
)
def test_settings_that_are_none_are_refused(args, error, words):
    with pytest.raises(error, match=words):
        app(args)


def test_a_right_configuration_passes():
    lint(configuration(max_ongoing_requests=5, autoscaling_config={"min_replicas": 1}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_ongoing_requets": 5}, "Gateway has no setting 'max_ongoing_requets'. Did you mean "
         "'max_ongoing_requests'"),
        ({"max_concurrent_queries": 5}, "no setting 'max_concurrent_queries'"),
        ({"autoscaling_config": {"max_replica": 2}}, "autoscaling_config has no setting "
         "'max_replica'. Did you mean 'max_replicas'"),
        ({"autoscaling_config": {"max_ongoing_requests": 2}}, "no setting 'max_ongoing_requests'"),
        ({"autoscaling_config": {"smoothing_factor": 2}}, "no setting 'smoothing_factor'"),
        ({"ray_actor_options": {"num_gpu": 1}}, "Did you mean 'num_gpus'"),
        ({"logging_config": {"enable_acess_log": False}}, "Did you mean 'enable_access_log'"),
    ],
)  # fmt: skip
def test_a_key_that_serve_would_ignore_is_refused_with_the_right_one(changes, words):
    with pytest.raises(UnknownKey, match=words):
        lint(configuration(**changes))


def test_serve_itself_says_nothing_of_a_misspelt_key():
    ServeDeploySchema.model_validate(configuration(max_ongoing_requets=5))


@pytest.mark.parametrize("top", [{"http_option": {}}, {"application": []}])
def test_keys_at_the_top_are_checked_too(top):
    with pytest.raises(UnknownKey, match="Serve's configuration has no setting"):
        lint(configuration() | top)


def test_values_that_serve_refuses_are_told_with_their_place():
    with pytest.raises(BadValue, match=r"applications\.0.*max_ongoing_requests"):
        lint(configuration(max_ongoing_requests=-1))


def test_ray_exports_what_the_gateway_counts_under_the_same_names():
    metrics = RayMetrics()
    assert metrics.mirrored == {family.name for family in metrics.registry.collect()}


def test_both_counters_are_told():
    metrics = RayMetrics()
    seen = []
    for each in (*metrics._ray.values(), *metrics._ray_seen.values(), metrics._ray_open):
        for verb in ("inc", "observe", "set"):
            if hasattr(each, verb):
                name = each.info["name"]
                setattr(each, verb, lambda value=1, name=name, **_: seen.append((name, value)))
    metrics.opened(1)
    metrics.opened(-1)
    metrics.answered("/v1/models", 200, 0.1)
    metrics.refused("no_face")
    metrics.saw("detect", 0)
    metrics.saw("detect", 2)
    drawn = asyncio.run(PlainImages().draw(ask(pictures=2)))
    metrics.drew(drawn, "face/1", 10)
    assert {name for name, _ in seen} == metrics.mirrored
    assert [v for n, v in seen if n == "visage_requests_open"] == [1, 0]
    assert dict(seen)["visage_steps"] == 20
    assert dict(seen)["visage_faces"] == 2


def test_a_share_is_the_same_for_one_request_and_as_large_as_told():
    trial = Trial(candidate="face/2", percent=10)
    chosen = [trial.chooses(f"request-{number}") for number in range(5000)]
    assert chosen == [trial.chooses(f"request-{number}") for number in range(5000)]
    assert 0.08 < sum(chosen) / 5000 < 0.12
    assert not Trial(candidate="face/2", percent=0).chooses("request-1")


def test_refusals_survive_the_way_and_what_died_may_be_asked_again():
    no = Refusal("invalid_value", "size cannot be 3.", {"field": "size"})
    raised = RayTaskError("draw", "traceback", no).as_instanceof_cause()
    told = refusal(raised)
    assert type(told) is Refusal
    assert (told.code, told.message, told.details) == (no.code, no.message, no.details)
    full = refusal(BackPressureError(3, 2, 429, 5))
    assert (full.code, full.retry_after_s) == ("overloaded", 5)
    assert refusal(ActorDiedError()).code == "model_unavailable"


class Dying:
    """Stands in for a handle whose replica dies so many times before it answers."""

    def __init__(self, deaths, after=0):
        self.deaths, self.after, self.calls = deaths, after, 0
        self.draw = self.stream = self

    def options(self, **_):
        return self

    def remote(self, _):
        self.calls += 1
        return _Answer(self.calls <= self.deaths, self.after)


class _Answer:
    def __init__(self, dies, after):
        self.dies, self.after = dies, after

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        if self.dies:
            raise ActorDiedError
        return "drawn"

    async def __aiter__(self):
        for number in range(self.after):
            yield number
        if self.dies:
            raise ActorDiedError
        yield "drawn"

    def cancel(self):
        pass


def streamed(handle):
    seen = []

    async def read():
        async for step in RayImages(handle).stream(ask()):
            seen.append(step)  # noqa: PERF401 - what came before an error counts

    try:
        asyncio.run(read())
    except Refusal as no:
        seen.append(no.code)
    return seen


def test_a_request_whose_replica_died_is_sent_once_more():
    once = Dying(1)
    assert asyncio.run(RayImages(once).draw(ask())) == "drawn"
    assert once.calls == 2
    twice = Dying(2)
    with pytest.raises(Refusal, match="model_unavailable"):
        asyncio.run(RayImages(twice).draw(ask()))
    assert twice.calls == 2


def test_a_stream_is_begun_again_only_if_nothing_of_it_was_seen():
    assert streamed(Dying(1)) == ["drawn"]
    assert streamed(Dying(2)) == ["model_unavailable"]
    assert streamed(Dying(1, after=1)) == [0, "model_unavailable"]


def test_a_trial_reports_how_requests_end_and_nothing_else_does():
    images, told = RayImages(Dying(0)), []
    images.report = told.append
    asyncio.run(images.draw(ask()))
    assert told == []
    images.trial = Trial(candidate="face/2", percent=100)
    asyncio.run(images.draw(ask()))
    asyncio.run(images.draw(ask(adapter="smile")))
    assert [(each.model, each.kind) for each in told] == [("face/2", "drawn")]
