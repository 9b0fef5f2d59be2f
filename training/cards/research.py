"""What the model card says of adapters that only Visage loads."""

from training.settings import TrainRecipe

RESEARCH_KINDS = {
    ("infinite_id", ""): "Infinite-ID: identity learnt without text, for a frozen base",
    ("face_chain_fact", ""): "FaceChain-FACT: gated attention to a face, for a frozen base",
    ("dp_adapter", ""): "DP-Adapter: identity on the face and text around it, for a frozen base",
    ("uni_id", ""): "UniID: identity as words and as an adapter, for a frozen base",
}
_FILES = {
    "infinite_id": "`infinite-id.safetensors` holds keys and values under IP-Adapter's names",
    "face_chain_fact": "`face-adapter.safetensors` holds the layers under FaceChain-FACT's names",
    "dp_adapter": "`dp-adapter.safetensors` holds keys and values under IP-Adapter's names",
    "uni_id": "`uni-id.safetensors` holds both branches under UniID's names",
}


def research_loading(recipe: TrainRecipe, visage: str) -> str:
    """Say how to load it, in code that runs.

    Args:
        recipe: What was trained.
        visage: How any identity adapter is loaded in Visage.
    """
    method = recipe.method
    if method.takes_image:
        visage = visage.replace("Condition(identity)", "Condition(identity, image=image)").replace(
            "(samples x numbers):",
            "(samples x numbers) and the image encoder's states of the faces, `image` (samples x "
            "patches x width):",
        )
    return f"{visage}\n\n{_FILES[method.kind]}; no other program is known to load it."
