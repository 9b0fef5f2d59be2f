"""The application: all routes behind one door, as plain ASGI; nothing here knows Ray."""

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from serving.door import Door
from serving.edges import Edges, refuse
from serving.errors import STATUS, Refusal
from serving.faces import Faces
from serving.keys import Keys
from serving.metrics import Metrics
from serving.recipes import ServeRecipe
from serving.routes_faces import faces_routes
from serving.routes_health import health_routes
from serving.routes_images import images_routes
from serving.types import Images

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

    Returns:
        The application; ``app.state.door.draining = True`` makes it refuse readiness.
    """
    door = Door(recipe=recipe, images=images, faces=faces, keys=keys, metrics=metrics)
    codes = "\n".join(f"| `{code}` | {status} |" for code, status in STATUS.items())
    app = FastAPI(
        title="Visage",
        version=VERSION,
        description=_ABOUT + codes,
        docs_url=None,  # its page fetches scripts from elsewhere
        redoc_url=None,
        openapi_tags=[
            {"name": "images", "description": "Pictures, as OpenAI's images API."},
            {"name": "faces", "description": "Faces in photographs."},
            {"name": "models", "description": "What is served."},
            {"name": "health", "description": "How it is."},
        ],
    )
    app.state.door = door
    for routes in (images_routes, faces_routes, health_routes):
        app.include_router(routes(door))
    for kind in (HTTPException, Refusal):
        app.add_exception_handler(kind, refuse)
    app.add_middleware(Edges, settings=recipe.http, metrics=metrics, numbered=numbered)
    return app
