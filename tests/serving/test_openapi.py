"""The document that clients are made from, held complete."""

import json
import re
from pathlib import Path

import hypothesis
import pytest
import schemathesis

from serving.errors import STATUS
from serving.jobs.schemas import VideoAsk
from serving.people.schemas import EnrolAsk, RenewAsk, SearchAsk
from serving.provenance.schemas import AnonymiseAsk
from serving.schemas import EditAsk, GenerationAsk, PairAsk, PhotoAsk
from tests.serving.doors import door, visitor

SNAPSHOT = Path(__file__).parent / "openapi.json"
BODIES = {
    "/v1/images/generations": GenerationAsk, "/v1/images/edits": EditAsk,
    "/v1/faces/detect": PhotoAsk, "/v1/faces/embed": PhotoAsk, "/v1/faces/verify": PairAsk,
    "/v1/people": EnrolAsk, "/v1/people/{person}": RenewAsk, "/v1/faces/search": SearchAsk,
    "/v1/provenance": PhotoAsk, "/v1/images/anonymise": AnonymiseAsk, "/v1/videos": VideoAsk,
}  # fmt: skip
APP, _ = door()
DOCUMENT = APP.openapi()
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}


def refusals(operation):
    """Return a route's documented codes by status."""
    return {
        int(status): set(told["content"]["application/json"]["examples"])
        for status, told in operation["responses"].items()
        if int(status) >= 400
    }


def outline():
    """Return what clients may rely on: fields asked and answered, codes, by route."""
    schemas = DOCUMENT["components"]["schemas"]
    return {
        "routes": {
            name: {
                "asks": sorted(
                    operation.get("requestBody", {"content": {"application/json": {"schema": {}}}})
                    ["content"]["application/json"]["schema"].get("properties", {})
                ),
                "refuses": sorted(set().union(*refusals(operation).values())),
            }
            for name, operation in sorted(OPERATIONS.items())
        },
        "answers": {name: sorted(schemas[name].get("properties", {})) for name in sorted(schemas)},
    }  # fmt: skip


def test_what_clients_rely_on_has_not_changed():
    """Delete the snapshot and run this twice where a change is meant."""
    if not SNAPSHOT.exists():
        SNAPSHOT.write_text(json.dumps(outline(), indent=1) + "\n")
        pytest.fail("There was no snapshot; it is written now. Look at it, and run again.")
    assert outline() == json.loads(SNAPSHOT.read_text())


def test_the_document_is_served_and_names_every_route():
    assert visitor(APP).get("/openapi.json").json() == json.loads(json.dumps(DOCUMENT))
    mounted = {route.path for route in APP.router.routes if hasattr(route, "path")}
    documented = set(DOCUMENT["paths"]) | {"/openapi.json"}
    assert {re.sub(r":path", "", path) for path in mounted} <= documented


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_route_has_words_a_tag_and_its_refusals(name):
    operation = OPERATIONS[name]
    assert operation["summary"]
    assert len(operation["tags"]) == 1
    assert operation["tags"][0] in {tag["name"] for tag in DOCUMENT["tags"]}
    for status, codes in refusals(operation).items():
        assert {STATUS[code] for code in codes} == {status}
    told = set().union(*refusals(operation).values())
    assert {"bad_request", "method_not_allowed", "timed_out", "internal"} <= told
    if "security" in operation:
        assert {"missing_key", "wrong_key", "revoked_key", "out_of_scope"} <= told
    if "requestBody" in operation:
        assert {"unknown_field", "invalid_value", "body_too_large"} <= told
        forms = operation["requestBody"]["content"]
        assert set(forms) == {"application/json", "multipart/form-data"}
        path = name.partition(" ")[2]
        for form in forms.values():
            assert set(form["schema"]["properties"]) == set(BODIES[path].model_fields)
            assert form["schema"]["additionalProperties"] is False


def test_every_code_is_documented_somewhere_and_in_the_table():
    told = set().union(*(set().union(*refusals(one).values()) for one in OPERATIONS.values()))
    assert told == set(STATUS)
    table = dict(re.findall(r"\| `(\w+)` \| (\d+) \|", DOCUMENT["info"]["description"]))
    assert {code: int(status) for code, status in table.items()} == STATUS


SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)


@SCHEMA.parametrize()
@hypothesis.settings(
    max_examples=12, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)  # fmt: skip
def test_no_request_that_the_document_allows_or_forbids_is_answered_with_a_failure(case):
    answer = case.call()
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.json()["error"]["code"] in STATUS
