"""What is asked of Ray Serve: start it, give it a configuration, wait, look, stop it."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.configuration import overlay, to_dict
from infra.errors import VisageError
from infra.released import ModelVersion
from serving.recipes import ServeRecipe

APPLICATION = "visage"
IMPORT_PATH = "serving.deploy:app"
_POLL_S = 0.2


class NotDeployed(VisageError):
    """Serve could not start or update a deployment."""

    def __init__(self, why: str, cure: str) -> None:
        self.why, self.cure = why, cure
        super().__init__(why, cure)

    def __str__(self) -> str:
        return f"The deployment failed: {self.why}. {self.cure}"


@dataclass(frozen=True, kw_only=True)
class State:
    """What Serve says of the deployment."""

    status: str
    """Serve's word: RUNNING, DEPLOYING, DEPLOY_FAILED, ...; empty: there is none."""
    message: str = ""
    replicas: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By deployment, how many are in which state."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The recipe that is deployed."""
    served: Mapping[str, Any] = field(default_factory=dict)
    """``ImageGenerator``'s user configuration."""
    trial: Mapping[str, Any] = field(default_factory=dict)
    """``Gateway``'s: candidate and percent, while one is tried."""

    @property
    def recipe(self) -> ServeRecipe:
        """The recipe that is deployed."""
        name = str(self.settings.get("name", ""))
        return overlay(ServeRecipe(name=name), self.settings, "what is deployed")

    @property
    def version(self) -> ModelVersion | None:
        """The released version that is served; None: there is none."""
        told = self.served.get("version")
        return ModelVersion(**{**told, "aliases": tuple(told["aliases"])}) if told else None


def start(asked: ServeRecipe) -> None:
    """Start Serve on the cluster that this process has joined, unless it runs."""
    from ray import serve
    from ray.serve.schema import TracingConfig

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(
        proxy_location="EveryNode",
        http_options={
            "host": asked.http.host,
            "port": asked.http.port,
            # The gateway answers first, in its own words.
            "request_timeout_s": asked.http.timeout_s + 10,
        },
        tracing_config=TracingConfig(
            enabled=asked.traces.share > 0,
            exporter_import_path=asked.traces.exporter,
            sampling_ratio=asked.traces.share,
        ),
    )


def configuration(
    asked: ServeRecipe,
    version: ModelVersion | None = None,
    candidate: ModelVersion | None = None,
    percent: float = 0.0,
) -> dict[str, Any]:
    """Return what Serve is to be given.

    A change of version or trial alone is a change of ``user_config`` alone, which Serve applies to
    running replicas without restarting them.

    Args:
        asked: What to deploy.
        version: What its model means now; None: it is a folder, or there is none.
        candidate: A version to have at hand beside it.
        percent: Of the requests that the candidate is to draw.
    """
    trial = {"candidate": candidate.reference, "percent": percent} if candidate and percent else {}
    deployments: list[dict[str, Any]] = [{"name": "Gateway", "user_config": trial}]
    if asked.model:
        served = {
            "model": version.reference if version else asked.model,
            "version": to_dict(version) if version else None,
            "candidate": to_dict(candidate) if candidate else None,
        }
        deployments.append({"name": "ImageGenerator", "user_config": served})
    return {
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": to_dict(asked),
                "deployments": deployments,
            }
        ]
    }


def apply(config: Mapping[str, Any], timeout_s: float) -> None:
    """Give Serve a configuration, and wait until it is in force.

    Raises:
        NotDeployed: A replica does not start, or refuses the version; what ran before goes on.
    """
    from ray.serve.schema import ServeDeploySchema

    from serving.lint import lint

    lint(config)
    _client().deploy_apps(ServeDeploySchema.model_validate(config))
    (application,) = config["applications"]
    deployments = {each["name"]: each["user_config"] for each in application["deployments"]}
    wanted = deployments.get("ImageGenerator")
    until = time.monotonic() + timeout_s
    while True:
        now = state()
        if now.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise NotDeployed(_last(now.message), "Mend that, and give the same command again.")
        if now.status == "RUNNING" and (wanted is None or _serves(wanted)):
            return
        if time.monotonic() > until:
            words = f"it was not ready within {timeout_s:g} s ({now.status}; {now.message})"
            raise NotDeployed(words, "Look into Ray's logs, or give it longer with --timeout-s.")
        time.sleep(_POLL_S)


def state() -> State:
    """Ask Serve how the deployment is; of a cluster without Serve: that there is none."""
    from ray import serve

    found = serve.status().applications.get(APPLICATION)
    if found is None:
        return State(status="")
    told = _client().get_serve_details()["applications"][APPLICATION].get("deployed_app_config")
    given = {each["name"]: each.get("user_config") for each in (told or {}).get("deployments", [])}
    return State(
        status=str(found.status.value),
        message=found.message,
        replicas={
            name: {str(k): n for k, n in each.replica_states.items()}
            for name, each in found.deployments.items()
        },
        settings=(told or {}).get("args") or {},
        served=given.get("ImageGenerator") or {},
        trial=given.get("Gateway") or {},
    )


def url() -> str:
    """Return where Serve listens, which is decided by who started it first."""
    http = _client().get_serve_details()["http_options"]
    return f"http://{http['host']}:{http['port']}"


def stop() -> None:
    """Take the deployment away; replicas finish what they have begun."""
    from ray import serve

    serve.delete(APPLICATION)


def shutdown() -> None:
    """End Serve; replicas finish what they have begun."""
    from ray import serve

    serve.shutdown()


def _serves(wanted: Mapping[str, Any]) -> bool:
    """Say whether a replica serves what it was told to.

    Raises:
        NotDeployed: It refuses to.
    """
    from ray import serve

    handle = serve.get_deployment_handle("ImageGenerator", APPLICATION)
    model, refused = handle.served.remote().result(timeout_s=30)
    candidate = wanted["candidate"]
    names = [wanted["model"]]
    names += [f"{candidate['name']}/{candidate['version']}"] if candidate else []
    for name in names:
        if name in refused:
            raise NotDeployed(refused[name].rstrip("."), f"{model} goes on being served.")
    return bool(model == wanted["model"])


def _last(message: str) -> str:
    """Return what went wrong out of Serve's message, which may hold a replica's traceback."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return (lines[-1] if lines else "Serve does not say why").rstrip(".")


def _client() -> Any:  # noqa: ANN401 - Serve's own, which only its command line uses by name
    from ray.serve.context import _get_global_client

    return _get_global_client()
