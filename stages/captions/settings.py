"""Who writes captions, and which captions are good enough."""

from dataclasses import dataclass, field
from typing import Literal

from infra.errors import BadValue
from stages.words import TERM_LISTS

Backend = Literal["none", "alt", "template", "http", "transformers", "vllm"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointSettings:
    """A server that speaks OpenAI's chat completions and sees pictures: vLLM, SGLang, hosted ones.

    Raises:
        BadValue: A setting cannot work.
    """

    url: str = ""
    """Its base, such as http://127.0.0.1:8000/v1."""
    model: str = ""
    """The model's name there."""
    key_variable: str = "VISAGE_CAPTIONS_KEY"
    """The environment variable, of the machines that work, with the API key; unset: none is
    sent. A key itself is in no recipe."""
    structured: bool = True
    """Ask for the JSON schema with `response_format`; not all servers know it."""
    concurrency: int = 16
    """Requests in flight per worker."""
    attempts: int = 4
    """How often one question is tried where that can help: 429, 5xx, timeouts, broken answers."""
    budget_s: float = 180.0
    """Longest time for one question over all attempts, with the pauses between."""
    connect_s: float = 5.0
    """Longest wait for a connection."""
    deadline_s: float = 120.0
    """Longest time for one attempt."""

    def __post_init__(self) -> None:
        if self.url and not self.url.startswith(("http://", "https://")):
            raise BadValue("captions.http.url", self.url, "give http://... or https://...")
        if "@" in self.url.partition("://")[2].partition("/")[0]:
            shown = self.url.rpartition("@")[2]
            raise BadValue(
                "captions.http.url", f"...@{shown}", "keep keys out of it; see http.key_variable."
            )
        for name in ("concurrency", "attempts"):
            if getattr(self, name) < 1:
                raise BadValue(f"captions.http.{name}", getattr(self, name), "give 1 or more.")
        for name in ("budget_s", "connect_s", "deadline_s"):
            if getattr(self, name) <= 0:
                raise BadValue(f"captions.http.{name}", getattr(self, name), "give more than 0.")


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionSettings:
    """Who writes a caption for every kept picture, and what is asked of it.

    Raises:
        BadValue: A setting cannot work.
    """

    backend: Backend = "template"
    """none: captions stay as they came; alt: the page's text, cleaned; template: a sentence from
    the measures, which needs no model; http, transformers, vllm: a model that sees the picture."""
    parts: bool = False
    """Also describe face, ears, eyes, nose and mouth, each for itself; asks the model twice."""
    picture_px: int = 768
    """Long side of the picture that the model is shown."""
    clip_frames: int = 6
    """Frames that the model is shown of a video's clip, beside its best one."""
    http: EndpointSettings = field(default_factory=EndpointSettings)
    """The server to ask; for `http` alone."""
    model: str = ""
    """Folder of a vision-language model, as file:... or package:...; for `transformers`, `vllm`."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where `transformers` runs."""
    batch_rows: int = 8
    """Pictures that `transformers` and `vllm` are shown at a time."""
    max_tokens: int = 400
    """Most tokens of one answer."""
    redact_names: bool = True
    """Write "a person" where a caption names somebody."""
    human_terms: tuple[str, ...] = TERM_LISTS
    """Word lists of which the caption must hold a term; none: it need not speak of people."""
    min_words: int = 5
    """Shorter captions are rejected."""
    max_words: int = 120
    """Longer captions are rejected."""
    match_model: str = ""
    """Folder of a CLIP model, as file:... or package:..., which says how well caption and picture
    go together; empty: nobody is asked."""
    min_match: float = 0.0
    """Cosine of CLIP's two vectors below which the caption is rejected."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.human_terms if name not in TERM_LISTS]
        if unknown:
            raise BadValue("captions.human_terms", unknown[0], f"choose among {TERM_LISTS}.")
        if not 1 <= self.min_words <= self.max_words:
            raise BadValue(
                "captions.min_words", self.min_words, f"give 1 to max_words ({self.max_words})."
            )
        if self.picture_px < 28:
            raise BadValue("captions.picture_px", self.picture_px, "give 28 or more.")
        for name in ("batch_rows", "max_tokens", "clip_frames"):
            if getattr(self, name) < 1:
                raise BadValue(f"captions.{name}", getattr(self, name), "give 1 or more.")
        if self.backend == "http" and not (self.http.url and self.http.model):
            lacking = "model" if self.http.url else "url"
            raise BadValue(f"captions.http.{lacking}", "", "name the server, and the model there.")
        if self.backend in ("transformers", "vllm") and not self.model:
            raise BadValue("captions.model", "", "name a folder, such as file:models/SmolVLM.")
        if self.parts and not self.asks_a_model:
            raise BadValue("captions.parts", True, f"{self.backend!r} cannot see the parts.")
        if self.backend == "vllm" and (self.parts or self.match_model):
            lacking = "parts" if self.parts else "match_model"
            cure = "serve the model with `vllm serve`, and ask it with captions.backend http."
            raise BadValue(f"captions.{lacking}", getattr(self, lacking), cure)
        if self.min_match and not self.match_model:
            raise BadValue("captions.min_match", self.min_match, "name captions.match_model too.")

    @property
    def asks_a_model(self) -> bool:
        """Whether a model is asked for the captions."""
        return self.backend in ("http", "transformers", "vllm")

    @property
    def sees(self) -> bool:
        """Whether any model is shown the pictures."""
        return self.asks_a_model or bool(self.match_model)
