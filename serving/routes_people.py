"""People: enrolled with consent, found again, renewed, forgotten."""

import asyncio
import logging
from functools import partial
from typing import Any

from fastapi import APIRouter, Request

from serving.bodies import read
from serving.database import asked
from serving.door import OF_FACES, OF_PICTURES, Door, body, documented
from serving.edges import answered
from serving.errors import RETRYABLE, Refusal
from serving.keys import Key
from serving.people.consent import given, moment
from serving.people.records import Person
from serving.people.schemas import (
    ConsentAnswer,
    EnrolAsk,
    ForgottenAnswer,
    MatchAnswer,
    PeopleAnswer,
    PersonAnswer,
    RenewAsk,
    SearchAnswer,
    SearchAsk,
)
from serving.routes_faces import EXAMPLE
from serving.sent import PERSON_ID

logger = logging.getLogger(__name__)

MOST_LISTED = 100
_WITH_A_BODY = (
    "unknown_field", "invalid_value", "url_not_accepted", "body_too_large",
    "unsupported_media_type",
)  # fmt: skip
_OF_CONSENT = ("consent_missing", "consent_expired", "consent_in_future")
_CONSENT = {
    "purpose": "pictures for the spring campaign",
    "until": "2027-01-01T00:00:00Z",
    "evidence": "release form 2026-118",
}
# Declared here and read from requests: FastAPI's own parameters bring its own errors along.
_NAME = {"name": "person", "in": "path", "required": True, "schema": {"type": "string"}}
_PAGE = [
    {"name": "limit", "in": "query", "description": f"1 to {MOST_LISTED}; absent: 20.",
     "schema": {"type": "integer", "minimum": 1, "maximum": MOST_LISTED}},
    {"name": "after", "in": "query", "description": "`last_id` of the page before.",
     "schema": {"type": "string"}},
]  # fmt: skip


def people_routes(door: Door) -> APIRouter:
    """Make the routes."""
    router, may = APIRouter(tags=["people"]), door.allowed("faces")
    http, guard = door.recipe.http, door.guard
    people = guard.people

    @router.post(
        "/v1/people",
        summary="Enrol a person from photographs, with their consent",
        status_code=201,
        responses=documented(
            *OF_PICTURES, *OF_FACES, *_OF_CONSENT, "different_people", "poor_photo", "not_live",
            "too_many_people", "overloaded", "protected_person", "protection_unavailable",
            "liveness_unavailable", "records_unavailable",
        ),
        openapi_extra=body(EnrolAsk, {"photos": [EXAMPLE["image"]], "consent": _CONSENT}),
    )  # fmt: skip
    async def enrol(request: Request, key: Key = may) -> PersonAnswer:
        ask = await read(request, EnrolAsk, http.max_body_bytes)
        await _sweep(door)
        return _told(await answered(request, _enrolled(door, key, ask, request), http.timeout_s))

    @router.get(
        "/v1/people",
        summary="List the enrolled of this key",
        responses=documented("invalid_value", "unknown_person", "records_unavailable"),
        openapi_extra={"parameters": _PAGE},
    )
    async def listed(request: Request, key: Key = may) -> PeopleAnswer:
        await _sweep(door)
        limit = request.query_params.get("limit", "20")
        after = request.query_params.get("after", "")
        many = int(limit) if limit.isascii() and limit.isdigit() and len(limit) < 4 else 0
        if not 1 <= many <= MOST_LISTED:
            words = f"limit cannot be {limit[:20]!r}: give 1 to {MOST_LISTED}."
            raise Refusal("invalid_value", words, {"field": "limit"})
        after = _identity(after) if after else ""
        found = await asked(lambda: people.list(key.id, many + 1, after))
        data = [_told(person) for person in found[:many]]
        more = len(found) > many
        return PeopleAnswer(data=data, has_more=more, last_id=data[-1].id if data else "")

    @router.get(
        "/v1/people/{person}",
        summary="One of them",
        responses=documented("unknown_person", "records_unavailable"),
        openapi_extra={"parameters": [_NAME]},
    )
    async def person(request: Request, key: Key = may) -> PersonAnswer:
        identity = _identity(request.path_params["person"])
        return _told(await asked(lambda: people.get(identity, key.id)))

    @router.patch(
        "/v1/people/{person}",
        summary="Renew a person's consent",
        responses=documented(*_WITH_A_BODY, *_OF_CONSENT, "unknown_person", "records_unavailable"),
        openapi_extra={"parameters": [_NAME], **body(RenewAsk, {"consent": _CONSENT})},
    )
    async def renew(request: Request, key: Key = may) -> PersonAnswer:
        identity = _identity(request.path_params["person"])
        consent = given((await read(request, RenewAsk, http.max_body_bytes)).consent)
        number = request.state.request_id
        return _told(await asked(lambda: people.renew(identity, key.id, consent, number)))

    @router.delete(
        "/v1/people/{person}",
        summary="Forget a person: vectors, crops, results, jobs",
        responses=documented("unknown_person", "records_unavailable"),
        openapi_extra={"parameters": [_NAME]},
    )
    async def forget(request: Request, key: Key = may) -> ForgottenAnswer:
        identity = _identity(request.path_params["person"])
        await asked(lambda: people.leave(identity, key.id))
        # Once begun it is carried out, whether or not its client waits for it.
        work = _forget(door, identity, key.id, "forgotten", request.state.request_id)
        return ForgottenAnswer(id=identity, erased=await asyncio.shield(work))

    @router.post(
        "/v1/faces/search",
        summary="Find who of the enrolled looks like the person in a photograph",
        responses=documented(*OF_PICTURES, *OF_FACES, "overloaded", "records_unavailable"),
        openapi_extra=body(SearchAsk, EXAMPLE),
    )
    async def search(request: Request, key: Key = may) -> SearchAnswer:
        ask = await read(request, SearchAsk, http.max_body_bytes)
        await _sweep(door)
        work = door.faces.reference([ask.image])
        vector = (await answered(request, work, http.timeout_s)).vector
        near, enrolled = await asked(lambda: guard.search.nearest(key.id, vector, ask.limit))
        threshold = door.faces.threshold
        found = [
            MatchAnswer(id=one.id, distance=one.distance, same_person=one.distance < threshold)
            for one in near
        ]
        same = sum(one.same_person for one in found)
        await guard.log("searched", key, request.state.request_id, same=same)
        return SearchAnswer(
            data=found,
            enrolled=enrolled,
            threshold=threshold,
            embedder=door.faces.embedder,
            metric=door.faces.metric,
        )

    return router


async def _enrolled(door: Door, key: Key, ask: EnrolAsk, request: Request) -> Person:
    """Check consent and photographs, and write them down; a refusal is written down too."""
    guard, number, most = door.guard, request.state.request_id, door.recipe.people.most
    try:
        consent = given(ask.consent)
        seen = await guard.enrolment.measure(ask.photos)
        words = "The photographs resemble a protected person, who cannot be enrolled here."
        await guard.check(seen.vectors, seen.embedder, "enrolment", words, key, number)
        return await asked(
            lambda: guard.people.add(key.id, consent, seen, most=most, request_id=number)
        )
    except Refusal as no:
        if no.code not in RETRYABLE and no.code != "protected_person":  # which ``check`` wrote
            await guard.refused(no, key, number, where="enrolment")
        raise


async def _forget(door: Door, identity: str, owner: str, event: Any, number: str) -> bool:  # noqa: ANN401
    """Let everybody delete what they have of a person, then delete the person."""
    for forgetter in door.forgetters:
        await asyncio.to_thread(forgetter, identity)
    people = door.guard.people
    return await asked(lambda: people.forget(identity, owner, event, number))


async def _sweep(door: Door) -> None:
    """Forget those whose time is over, or whom a process that died had begun to forget."""
    people, grace_days = door.guard.people, door.recipe.people.grace_days
    for identity, owner, event in await asked(lambda: people.overdue(grace_days)):
        await asked(partial(people.leave, identity, owner))
        try:
            await _forget(door, identity, owner, event, "")
        except Refusal:
            raise
        except Exception:
            # Somebody else's request must not fail of it; the next one tries again.
            logger.exception("%s cannot be forgotten yet", identity)
    await asked(people.scrub)


def _identity(name: str) -> str:
    if not PERSON_ID.fullmatch(name):
        words = f"Nobody is enrolled as {name[:80]!r} by this key."
        raise Refusal("unknown_person", words, {"forgotten": False})
    return name


def _told(person: Person) -> PersonAnswer:
    consent = person.consent
    return PersonAnswer(
        id=person.id,
        created=int(person.created),
        status="active" if person.active else "expired",
        photos=person.photos,
        crops=person.crops,
        embedder=person.embedder,
        liveness="passed" if person.liveness == "passed" else "absent",
        consent=ConsentAnswer(
            purpose=consent.purpose,
            until=moment(consent.until),
            evidence=consent.evidence,
            granted_at=moment(consent.granted_at),
            subject_name=consent.subject_name,
        ),
    )
