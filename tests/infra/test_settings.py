import pickle

import pytest

from infra.errors import BadValue, UnknownKey
from infra.settings import read_settings, variables


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in variables():
        monkeypatch.delenv(name, raising=False)


def test_nothing_set_is_this_machine_alone():
    settings = read_settings()
    assert (settings.store, settings.ray_address, settings.keys_file) == ("", "", None)
    assert settings.mlflow_tracking_uri.get_secret_value() == ""


def test_addresses_come_under_the_names_that_the_libraries_read(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.example.com")
    monkeypatch.setenv("VISAGE_STORE", "s3://visage/store")
    settings = read_settings()
    assert settings.mlflow_tracking_uri.get_secret_value() == "http://mlflow:5000"
    assert settings.ray_address == "http://127.0.0.1:8265"
    assert settings.s3_endpoint == "https://s3.example.com"
    assert settings.store == "s3://visage/store"


def test_a_file_is_read_only_where_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("VISAGE_STORE=from-file\n")
    assert read_settings().store == ""
    assert read_settings(tmp_path / ".env").store == "from-file"
    monkeypatch.setenv("VISAGE_STORE", "from-environment")
    assert read_settings(tmp_path / ".env").store == "from-environment"


def test_secrets_are_read_from_a_folder_as_containers_mount_them(tmp_path):
    (tmp_path / "MLFLOW_TRACKING_PASSWORD").write_text("hunter2\n")
    (tmp_path / "of-another-program").write_text("x")
    settings = read_settings(secrets_folder=tmp_path)
    assert settings.mlflow_password.get_secret_value() == "hunter2"


def test_no_secret_is_shown(tmp_path):
    for name in ("MLFLOW_TRACKING_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        (tmp_path / name).write_text("hunter2")
    (tmp_path / "MLFLOW_TRACKING_URI").write_text("postgresql://ann:hunter2@db/mlflow")
    settings = read_settings(secrets_folder=tmp_path)
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("AWS_ENDPOINT_URL", "minio:9000", "AWS_ENDPOINT_URL cannot be 'minio:9000': give a URL"),
        ("RAY_AUTH_MODE", "tokn", "RAY_AUTH_MODE cannot be 'tokn': .*'token' or 'disabled'"),
        ("RAY_AUTH_TOKEN_PATH", "/no/token", "RAY_AUTH_TOKEN_PATH cannot be '/no/token': .*no su"),
        ("VISAGE_KEYS_FILE", "/no/keys", "VISAGE_KEYS_FILE cannot be '/no/keys': there is no such"),
    ],
)
def test_a_value_that_cannot_work_is_named_with_its_cure(monkeypatch, name, value, words):
    monkeypatch.setenv(name, value)
    with pytest.raises(BadValue, match=words):
        read_settings()


def test_a_wrong_secret_is_told_of_without_its_value(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://ann:hunter2@db")
    with pytest.raises(BadValue, match="begins with http:// or https://") as caught:
        read_settings()
    assert "hunter2" not in f"{caught.value} {caught.value!r} {caught.value.__context__}"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_misspelt_name_in_a_file_is_refused_with_the_right_one(tmp_path):
    path = tmp_path / "my.env"
    path.write_text("RAY_ADDRES=x\n")
    with pytest.raises(UnknownKey, match=r"no setting 'RAY_ADDRES'. Did you mean 'RAY_ADDRESS'"):
        read_settings(path)


def test_a_file_or_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadValue, match=r"env_file cannot be .*there is no such file"):
        read_settings(tmp_path / "none.env")
    with pytest.raises(BadValue, match=r"secrets_folder cannot be .*there is no such folder"):
        read_settings(secrets_folder=tmp_path / "none")
