"""The application: all routes behind one door, as plain ASGI; nothing here knows Ray."""

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from serving.database import open_database
from serving.door import Door
from serving.edges import Edges, refuse
from serving.errors import STATUS, Refusal
from serving.faces import Faces
from serving.guard import Guard
from serving.jobs.files import Files
from serving.jobs.table import Jobs
from serving.keys import Keys
from serving.metrics import Metrics
from serving.provenance.stamp import Provenance
from serving.recipes import ServeRecipe
from serving.routes_anonymise import anonymise_routes
from serving.routes_faces import faces_routes
from serving.routes_health import health_routes
from serving.routes_images import images_routes
from serving.routes_people import people_routes
from serving.routes_playground import playground_routes
from serving.routes_provenance import provenance_routes
from serving.routes_videos import videos_routes
from serving.types import Images
from serving.videos import video_info

VERSION = "1"
_ABOUT = """\
Pictures of a person from photographs of them, and what faces tell.

Requests are JSON, with files in base64, or multipart, with files as they are; fields are the same.
Every answer carries `x-request-id`: the one that was sent, if it is 8 to 64 letters, digits,
`-` and `_`. Every error is `{"error": {"code", "message", "details"}, "request_id"}`; those with
`Retry-After` may succeed later, unchanged.

| code | status |
|---|---|
"""


def make_app(
    recipe: ServeRecipe,
    images: Images | None,
    faces: Faces,
    keys: Keys | None,
    metrics: Metrics,
    *,
    numbered: bool = False,
) -> FastAPI:
    """Make the application.

    Args:
        recipe: Its bounds and names.
        images: What draws; None: faces only.
        faces: What measures faces.
        keys: Who may ask; None: anybody.
        metrics: What is counted.
        numbered: Whether a proxy in front writes a request's number on its answer.

    Raises:
        BadValue, BadWeights: The records cannot be opened, or a key, a mark or the liveness
            check not loaded.

    Returns:
        The application; ``app.state.door.draining = True`` makes it refuse readiness.
    """
    records = open_database(recipe.database)
    door = Door(
        recipe=recipe,
        images=images,
        faces=faces,
        guard=Guard(recipe, faces, records),
        provenance=Provenance(recipe.provenance, records),
        videos=Jobs(records, Files(recipe.results), recipe.videos),
        video_info=video_info(recipe) if recipe.videos.model else None,
        keys=keys,
        metrics=metrics,
    )
    door.forgetters.append(door.videos.forget)
    codes = "\n".join(f"| `{code}` | {status} |" for code, status in STATUS.items())
    app = FastAPI(
        title="Visage",
        version=VERSION,
        description=_ABOUT + codes,
        docs_url=None,  # its page fetches scripts from elsewhere
        redoc_url=None,
        openapi_tags=[
            {"name": "images", "description": "Pictures, as OpenAI's images API."},
            {"name": "videos", "description": "Videos, as OpenAI's videos API: drawn as jobs."},
            {"name": "faces", "description": "Faces in photographs."},
            {"name": "people", "description": "Who may be drawn, with whose consent."},
            {"name": "provenance", "description": "Where a picture is from."},
            {"name": "models", "description": "What is served."},
            {"name": "health", "description": "How it is."},
        ],
    )
    app.state.door = door
    for routes in (
        images_routes,
        anonymise_routes,
        videos_routes,
        faces_routes,
        people_routes,
        provenance_routes,
        health_routes,
    ):
        app.include_router(routes(door))
    if recipe.playground:
        app.include_router(playground_routes(door))
    for kind in (HTTPException, Refusal):
        app.add_exception_handler(kind, refuse)
    app.add_middleware(Edges, settings=recipe.http, metrics=metrics, numbered=numbered)
    return app
