"""The person is in the person's tokens, and nothing else is.

Shapes: B samples; E width of tokens.
"""

from jaxtyping import Float
from torch import Tensor, nn

from infra.errors import BadValue
from training.losses import mse, weighted_mean
from training.objectives.step import Step, Tools, needed

COSINE = 0.1
"""Weight of the second term, beside 1 of the first."""
_LEAST = 1e-3
"""Length of tokens below which they are too short to have an angle."""


def contrastive_disentangle(tools: Tools, step: Step) -> Float[Tensor, ""]:
    """Ask that identity alone denoises a little, and is unlike all else.

    L = MSE(p(f_s)) + 0.1 cos(f_s, f_i)

    of samples whose identity was given, over B. p(f_s) is the prediction told the identity and
    nothing else (DisenBooth's weak denoising), f_s the mean of the identity tokens, f_i of the
    rest: what the method learns of a picture beside the person, or the prompt's tokens. Weight
    0.01 gives DisenBooth's 0.01 and 0.001.

    References:
        DisenBooth, arXiv:2305.03374. Its f_s is the prompt's embedding, and f_i is added to it;
        tokens are averaged here, because other methods have several of each.

    Raises:
        BadValue: There is no rest: neither tokens of the method nor prompts. Or prompts are of
            another width than identity tokens, so that there is no angle between them.
    """
    assert step.ask is not None
    assert step.embed is not None
    weak = mse(step.ask(drop="rest"), step.noised.target)
    cure = "prepare the features with a text encoder, or set it to 0."
    weight = tools.settings.contrastive_disentangle
    rest = step.rest
    if rest is None:
        rest = needed(step.batch, "text", "contrastive_disentangle", weight, cure)
    person = step.embed(step.batch).mean(dim=1)
    if person.shape[1] != rest.shape[2]:
        cure = (
            f"identity tokens have {person.shape[1]} numbers and the text's {rest.shape[2]}; "
            "prepare the features with a text encoder of that width, or set it to 0."
        )
        raise BadValue("losses.contrastive_disentangle", weight, cure)
    # Tokens that begin at 0 would have a gradient without bounds.
    alike = nn.functional.cosine_similarity(
        person.float(), rest.mean(dim=1).float(), dim=1, eps=_LEAST
    )
    return weighted_mean(weak, step.weight * step.asked) + COSINE * (alike * step.asked).mean()
