"""Pictures drawn elsewhere: ``Images`` over a handle of Ray Serve.

A handle's own errors become refusals that clients can act on, and a request whose replica died
before anything of it was seen is sent once more.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from serving.errors import Refusal
from serving.types import Draw, Drawn, Images, ModelInfo, Preview

HEALTHY_S = 15.0
"""How long replicas may take to say that they are well."""


Kind = Literal["", "drawn", "refused", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one request ended."""

    model: str
    """``served``, or the candidate's reference."""
    kind: Kind
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A version that draws for a share of the requests, to be compared with the served one."""

    candidate: str
    """``NAME/version``."""
    percent: float
    """Of the requests that ask for the served model."""

    def chooses(self, request_id: str) -> bool:
        """Say whether a request is in the share: always the same for one request id."""
        number = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8])
        return number % 10_000 < self.percent * 100


class RayImages(Images):
    """Draws with the replicas behind a handle.

    Attributes:
        trial: What a share of the requests is drawn with; None: nothing else.
        report: Told of every request while there is a trial.
    """

    def __init__(self, handle: "DeploymentHandle[Any]") -> None:
        """Use ``handle``, of a deployment whose methods are those of ``Images``."""
        self._handle, self._streaming = handle, handle.options(stream=True)
        self.trial: Trial | None = None
        self.report: Callable[[Outcome], object] = lambda _: None

    async def info(self, adapter: str = "") -> ModelInfo:
        """Say what is served; see ``Images``."""
        answer: ModelInfo = await self._ask("info", adapter)
        return answer

    async def draw(self, ask: Draw) -> Drawn:
        """Draw; see ``Images``."""
        ask = self._chosen(ask)
        with self._watched(ask):
            answer: Drawn = await self._ask("draw", ask)
        return answer

    async def stream(self, ask: Draw) -> AsyncIterator[Preview | Drawn]:
        """Draw with previews; see ``Images``."""
        ask = self._chosen(ask)
        with self._watched(ask):
            seen = False
            while True:
                steps = self._streaming.stream.remote(ask)
                try:
                    async for step in steps:
                        seen = True
                        yield step
                except (RayError, RayServeException) as error:
                    if seen or not _died(error):
                        raise refusal(error) from error
                    seen = True  # the second try is the last
                else:
                    return
                finally:
                    steps.cancel()  # of no effect on what has ended

    async def healthy(self) -> bool:
        """Say whether a replica answers that it is well."""
        try:
            async with asyncio.timeout(HEALTHY_S):
                return bool(await self._ask("healthy"))
        except (TimeoutError, Refusal):
            return False

    def _chosen(self, ask: Draw) -> Draw:
        if self.trial is None or ask.adapter or not self.trial.chooses(ask.request_id):
            return ask
        return replace(ask, adapter=self.trial.candidate)

    @contextmanager
    def _watched(self, ask: Draw) -> Iterator[None]:
        """Report how a request of a trial ends, unless nobody waited for that or it is no sign."""
        trial, began = self.trial, time.monotonic()
        model = ask.adapter or "served"
        if trial is None or model not in ("served", trial.candidate):
            yield
            return
        kind: Kind = "drawn"
        try:
            yield
        except Refusal as error:
            # That there are too many requests is no fault of a version.
            kind = "" if error.code in ("overloaded", "shutting_down") else "refused"
            raise
        except Exception:
            kind = "failed"
            raise
        except BaseException:
            kind = ""
            raise
        finally:
            if kind:
                self.report(Outcome(model=model, kind=kind, seconds=time.monotonic() - began))

    async def _ask(self, method: str, *arguments: object) -> Any:  # noqa: ANN401 - its answer
        for again in (True, False):
            response = getattr(self._handle, method).remote(*arguments)
            try:
                return await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except (RayError, RayServeException) as error:
                if not (again and _died(error)):
                    raise refusal(error) from error
        raise AssertionError("the second try returned or raised")


def refusal(error: Exception) -> Exception:
    """Say what went wrong on the way to a replica, or in it, in the words of the API."""
    if isinstance(error, RayTaskError):
        # Ray hands over a class of its own that only looks like what was raised.
        cause = error.cause
        return Refusal(*cause.args) if isinstance(cause, Refusal) else error
    if isinstance(error, BackPressureError):
        words = "Too many requests wait already; ask again."
        return Refusal("overloaded", words, retry_after_s=round(error.retry_after_s or 1))
    words = "What draws pictures has stopped and is being started again; ask again."
    return Refusal("model_unavailable", words, retry_after_s=5)


def _died(error: Exception) -> bool:
    """Say whether the request, not the answer, was lost."""
    return not isinstance(error, RayTaskError | BackPressureError)
