"""A worker from a recipe, with all that it needs, in any process."""

from serving.database import open_database
from serving.faces import Faces
from serving.guard import Guard
from serving.jobs.attempt import Studio
from serving.jobs.files import Files
from serving.jobs.leases import Leases
from serving.jobs.runner import Runner
from serving.jobs.table import Jobs
from serving.provenance.stamp import Provenance
from serving.recipes import ServeRecipe
from serving.videos import Videos, load_videos


def make_runner(recipe: ServeRecipe, faces: Faces, videos: Videos | None = None) -> Runner:
    """Make what draws the jobs of a deployment; begin nothing.

    Args:
        recipe: Names the model, the records and the folder of results.
        faces: What measures faces, to look at what was drawn.
        videos: What draws; default: what the recipe names.

    Raises:
        BadValue, BadWeights: The records cannot be opened, the folder not be made, or the model,
            a key or a mark not loaded.
    """
    records, files, settings = open_database(recipe.database), Files(recipe.results), recipe.videos
    files.make()
    studio = Studio(
        leases=Leases(records, settings),
        files=files,
        videos=videos or load_videos(recipe),
        guard=Guard(recipe, faces, records),
        provenance=Provenance(recipe.provenance, records),
        settings=settings,
    )
    return Runner(Jobs(records, files, settings), studio)
