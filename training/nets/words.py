"""Words that stand for a person beside a prompt, and faces fused into them.

Shapes: B samples; F faces; W words of E numbers; I numbers of an image's embedding.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from infra.errors import BadValue
from training.exports import read_tensors, save_tensors
from training.features import Features
from training.nets.published import with_biases
from training.nets.text import load_clip_text, load_text_encoder

WORDS_FILE = "words.safetensors"


class Words(nn.Module):
    """The text encoder's states of some words of a phrase, the same for every prompt.

    Prompts are prepared as states, which do not say where in them the person is spoken of. So the
    words that faces are fused into are added to the prompt's states, after its last token, instead
    of being looked for among them.
    """

    states: Float[Tensor, "W E"]

    def __init__(
        self, features: Features, folder: Path, phrase: str, words: Sequence[str], kind: str
    ) -> None:
        """Read the states of an export, or ask the encoder that prepared the text.

        Args:
            features: What was prepared.
            folder: Of the features, or of an export.
            phrase: What the words are read in.
            words: Of the phrase, each found where it comes first.
            kind: Of method, for the message.

        Raises:
            BadValue: The features were prepared without text.
        """
        super().__init__()
        path = folder / WORDS_FILE
        if path.is_file():
            states = read_tensors(path)["states"].float()
        elif features.text_encoder:
            states = word_states(features.text_encoder, phrase, words)
        else:
            raise BadValue(
                "method.kind",
                kind,
                "it fuses faces into words; prepare the features with a text encoder.",
            )
        self.register_buffer("states", states, persistent=False)

    def save(self, folder: Path) -> None:
        """Write what an export needs, so that drawing asks no text encoder again."""
        save_tensors(folder / WORDS_FILE, {"states": self.states})


@torch.no_grad()
def word_states(reference: str, phrase: str, words: Sequence[str]) -> Float[Tensor, "W E"]:
    """Return a text encoder's states at the last token of each word of a phrase.

    Args:
        reference: Of the encoder, see ``load_text_encoder``.
        phrase: What the words are read in.
        words: Of the phrase, each found where it comes first.
    """
    tokenizer, _ = load_clip_text(reference)
    ends = [phrase.index(word) + len(word) for word in words]
    # The begin mark is token 0, so the last token before the end mark is at length - 2.
    places = [len(tokenizer(phrase[:end])["input_ids"]) - 2 for end in ends]
    states, _ = load_text_encoder(reference).encode([phrase])
    return states[0, places].clone().float()


class Mixer(nn.Module):
    """A layer norm and two linear layers with GELU between: the MLP of ``WordFuser``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(inputs)
        self.fc1 = nn.Linear(inputs, outputs)
        self.fc2 = nn.Linear(outputs, outputs)

    def forward(self, given: Float[Tensor, "*any inputs"]) -> Float[Tensor, "*any outputs"]:
        """Return the mixed numbers."""
        out: Tensor = self.fc2(nn.functional.gelu(self.fc1(self.layernorm(given))))
        return out


class WordFuser(nn.Module):
    """Fuse an image's embedding into a word's state: LN(m + MLP(m)), m = MLP([word, image]) + word.

    Nothing is written into the prompt's own states: the originals scatter into them in place, which
    whoever else holds the tensor sees.

    References:
        Xiao et al., "FastComposer", arXiv:2305.10431, equation 4: ``FastComposerPostfuseModule``
        of its code, and ``FuseModule`` of ConsistentID's (arXiv:2404.16771).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp1, self.mlp2 = Mixer(2 * width, width), Mixer(width, width)
        self.layer_norm = nn.LayerNorm(width)

    def forward(
        self, words: Float[Tensor, "*any E"], image: Float[Tensor, "*any E"]
    ) -> Float[Tensor, "*any E"]:
        """Return the words' states with the image in them."""
        mixed = self.mlp1(torch.cat([words, image], dim=-1)) + words
        fused: Tensor = self.layer_norm(mixed + self.mlp2(mixed))
        return fused

    @staticmethod
    def published_names() -> dict[str, str]:
        """Return the published name of each weight: ours, which both originals have."""
        parts = ("layernorm", "fc1", "fc2")
        names = [f"{mlp}.{part}" for mlp in ("mlp1", "mlp2") for part in parts]
        return with_biases({name: name for name in [*names, "layer_norm"]})


def spoken(
    words: Float[Tensor, "W E"],
    fused: Float[Tensor, "B F W E"],
    present: Bool[Tensor, "B F"],
    scale: float,
) -> Float[Tensor, "B FW E"]:
    """Return the words that are added to prompts: the plain ones where nobody is.

    Args:
        words: Plain states.
        fused: The same with a face in each.
        present: Which faces there are.
        scale: How far to go from the plain words to the fused.
    """
    told = torch.lerp(words.expand_as(fused), fused, scale)
    return torch.where(present[:, :, None, None], told, words).flatten(1, 2)
