"""CLIP as Stable Diffusion and IP-Adapter use it: architectures, and a tokenizer without files."""

from dataclasses import dataclass

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from training.nets.references import Settings

_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"
_FILL = "!"
"""OpenCLIP fills with token 0, which its vocabulary also reads as an exclamation mark."""
TINY_VOCABULARY = 514
"""All bytes, inside and at the end of a word, and the two marks."""
CLIP_VOCABULARY = 49408
TOKENS = 77
"""Of every prompt, marks and filling included."""

_TINY: Settings = {
    "vocab_size": TINY_VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "projection_dim": 32,
}
_TINY_HALF: Settings = {**_TINY, "hidden_size": 16, "num_attention_heads": 2}
_L: Settings = {
    "vocab_size": CLIP_VOCABULARY,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
_BIG_G: Settings = {
    "vocab_size": CLIP_VOCABULARY,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}

TEXTS: dict[str, tuple[Settings, ...]] = {
    "tiny-sd": (_TINY,),
    "tiny-sd128": ({**_TINY, "hidden_size": 128},),
    "tiny-sdxl": (_TINY_HALF, {**_TINY_HALF, "hidden_act": "gelu"}),
    "sd15": (_L,),
    "sdxl": (_L, _BIG_G),
    "tiny-animatediff": (_TINY,),
    "animatediff-sd15": (_L,),
}
"""The text towers of each pipeline; the second of two pools."""

VISIONS: dict[str, Settings] = {
    "tiny-clip": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    },
    # OpenAI's, at 336 px: of the size of the EVA-CLIP that ConsisID looks through.
    "clip-l336": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "projection_dim": 768,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
    },
    "clip-h": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "projection_dim": 1024,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "hidden_act": "gelu",
    },
}


@dataclass(frozen=True)
class Marks:
    """Ids of the tokens that every prompt has; a model must know its end to pool there."""

    begin: int
    end: int

    @staticmethod
    def of(vocabulary: int) -> "Marks":
        """Return the last two ids of a vocabulary, where CLIP has them."""
        return Marks(vocabulary - 2, vocabulary - 1)


def byte_tokenizer(vocabulary: int, *, fills_with_zero: bool) -> CLIPTokenizer:
    """Make CLIP's tokenizer without the merges that were learnt: one token per byte.

    Bytes and marks have the ids that they have in CLIP's vocabulary, so that a true vocabulary
    reads the same prompt as fewer tokens and nothing else changes. A prompt is cut after 75 bytes.

    Args:
        vocabulary: Number of ids; the last two mark begin and end.
        fills_with_zero: Fill short prompts with token 0, as OpenCLIP does, not with the end mark.
    """
    bytes_ = sorted(ByteLevel.alphabet())
    ids = {byte: id_ for id_, byte in enumerate(bytes_)}
    ids |= {f"{byte}</w>": len(bytes_) + id_ for id_, byte in enumerate(bytes_)}
    marks = Marks.of(vocabulary)
    ids |= {_BEGIN: marks.begin, _END: marks.end}
    fill = _FILL if fills_with_zero else _END
    return CLIPTokenizer(vocab=ids, merges=[], pad_token=fill, model_max_length=TOKENS)
