"""Addresses and secrets: the only things that come from the environment.

What decides a result is in a recipe and is recorded; what only says where servers are, and how one
gets in, is here and is recorded nowhere. Names that the libraries read themselves keep their own
spelling (``MLFLOW_TRACKING_URI``, ``AWS_ENDPOINT_URL``, ...); ours begin with ``VISAGE_``.
"""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.errors import BadValue, UnknownKey


def _url(*schemes: str) -> AfterValidator:
    """Accept an empty value or a URL of one of ``schemes`` that names a host."""

    def check(value: str | SecretStr) -> str | SecretStr:
        words = value.get_secret_value() if isinstance(value, SecretStr) else value
        url = urlsplit(words)
        scheme = url.scheme.partition("+")[0]  # a driver may follow: postgresql+psycopg2
        if words and (scheme not in schemes or not (url.netloc or scheme == "sqlite")):
            wanted = " or ".join(f"{scheme}://" for scheme in schemes)
            raise ValueError(f"give a URL that begins with {wanted}.")
        return value

    return AfterValidator(check)


def _file(path: Path | None) -> Path | None:
    if path is not None and not path.is_file():
        raise ValueError("there is no such file; write it, or unset the variable.")
    return path


class Settings(BaseSettings):
    """Where things are and how one gets in.

    Read once at the edge of a program by ``read_settings`` and passed down from there. Secrets are
    ``SecretStr``: neither ``repr`` nor an error nor a log shows them.
    """

    model_config = SettingsConfigDict(
        env_prefix="VISAGE_",
        env_ignore_empty=True,
        extra="forbid",  # of a named file; other variables of the environment are not ours to judge
        frozen=True,
        hide_input_in_errors=True,
    )

    store: str = ""
    """`VISAGE_STORE`: default folder or `s3://bucket/prefix` for results."""
    submission: str = ""
    """`VISAGE_SUBMISSION`: id under which `visage submit` sent this very run; it sets it."""
    keys_file: Annotated[Path | None, AfterValidator(_file)] = None
    """`VISAGE_KEYS_FILE`: SQLite file of API keys (`visage keys add`)."""
    mlflow_tracking_uri: Annotated[
        SecretStr,
        _url("http", "https", "sqlite", "postgresql", "mysql", "mssql"),
        Field(validation_alias="MLFLOW_TRACKING_URI"),
    ] = SecretStr("")
    """MLflow's address; secret, since a database's address may carry its password."""
    mlflow_username: Annotated[str, Field(validation_alias="MLFLOW_TRACKING_USERNAME")] = ""
    mlflow_password: Annotated[SecretStr, Field(validation_alias="MLFLOW_TRACKING_PASSWORD")] = (
        SecretStr("")
    )
    ray_address: Annotated[str, Field(validation_alias="RAY_ADDRESS")] = ""
    """`host:port` of a cluster to join, `http://host:8265` to submit to; empty: embedded."""
    ray_auth_mode: Annotated[
        Literal["token", "disabled"] | None, Field(validation_alias="RAY_AUTH_MODE")
    ] = None
    ray_token_file: Annotated[
        Path | None, AfterValidator(_file), Field(validation_alias="RAY_AUTH_TOKEN_PATH")
    ] = None
    """File with the cluster's token; mode 0600, for it is as good as a shell on every node."""
    s3_endpoint: Annotated[
        str, _url("http", "https"), Field(validation_alias="AWS_ENDPOINT_URL")
    ] = ""
    """Address of an S3 server that is not Amazon's; pyarrow, boto3 and MLflow read it too."""
    s3_access_key_id: Annotated[SecretStr, Field(validation_alias="AWS_ACCESS_KEY_ID")] = SecretStr(
        ""
    )
    s3_secret_access_key: Annotated[SecretStr, Field(validation_alias="AWS_SECRET_ACCESS_KEY")] = (
        SecretStr("")
    )


def variables() -> tuple[str, ...]:
    """Name every variable that is read, sorted."""
    return tuple(sorted(_variable(name) for name in Settings.model_fields))


def read_settings(env_file: Path | None = None, secrets_folder: Path | None = None) -> Settings:
    """Read the settings from the environment, and from files only where they are named.

    The environment goes before the file, and the file before the folder. No ``.env`` is ever
    picked up from the working folder by itself.

    Args:
        env_file: Lines of ``NAME=value``.
        secrets_folder: One file per setting, named like its variable, as containers mount secrets.

    Raises:
        BadValue: A value cannot work, or a file or folder is not there.
        UnknownKey: ``env_file`` has a name that no setting has.
    """
    if env_file is not None and not env_file.is_file():
        raise BadValue("env_file", str(env_file), "there is no such file.")
    if secrets_folder is not None and not secrets_folder.is_dir():
        raise BadValue("secrets_folder", str(secrets_folder), "there is no such folder.")
    try:
        # pydantic-settings takes these two, but tells no type checker of them.
        return Settings(_env_file=env_file, _secrets_dir=secrets_folder)  # type: ignore[call-arg]
    except ValidationError as error:
        raise _told(error, str(env_file)) from None


def _told(error: ValidationError, where: str) -> BadValue | UnknownKey:
    """Say the first problem in our words, without the value of a secret."""
    problem = error.errors()[0]
    name = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        return UnknownKey(name.upper(), variables(), where)
    # Pydantic names a field by its alias where it has one.
    field = next(f for f in Settings.model_fields if name in (f, _variable(f)))
    secret = Settings.model_fields[field].annotation is SecretStr
    shown = "**********" if secret else str(problem["input"])
    return BadValue(_variable(field), shown, str(problem["msg"]).removeprefix("Value error, "))


def _variable(field: str) -> str:
    alias = Settings.model_fields[field].validation_alias
    return str(alias) if alias else f"VISAGE_{field}".upper()
