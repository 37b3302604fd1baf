"""Where the runs go: an sqlite database in the study's folder, or a server; found, checked and opened.

A client is used throughout and never MLflow's fluent interface, whose experiment and active run are global state.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import requests
import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from divfeat import environment
from divfeat.errors import ConfigError

logger = logging.getLogger("divfeat.tracking")

HEALTH_SECONDS = 5.0
"""How long a server may take to answer that it is there."""

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_BOUNDS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own defaults add up to minutes, and the driver must not wait
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # one line a run otherwise
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass(frozen=True)
class Store:
    """An open experiment: `client` writes to `uri`, under `experiment_id`."""

    client: MlflowClient
    uri: str
    experiment_id: str


def bounded_requests() -> AbstractContextManager[None]:
    """Bounds MLflow's HTTP retries and its talk within the block, where the user has not set them; puts them back."""
    return environment.defaults(_BOUNDS)


def unreachable(uri: str, timeout: float = HEALTH_SECONDS) -> str | None:
    """Says why the server at `uri` does not answer, or None when it does (and for what is no server).

    Any answer counts, a refusal too: what the server thinks of us is told by the first real request.
    """
    if not uri.startswith(("http://", "https://")):
        return None
    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=timeout)
    except requests.exceptions.SSLError:
        return None
    except requests.exceptions.RequestException as error:
        return _innermost(error)
    return None


def reachable(uri: str | None, study_dir: Path) -> None:
    """Refuse what runs cannot be tracked in, before anything is written.

    Args:
        uri: As the user gave it; None stands for the sqlite file in `study_dir`.
        study_dir: The study's folder, which need not exist.

    Raises:
        ConfigError: the server does not answer, the address is of no kind that MLflow tracks in, or the folder's name
            cannot be part of an sqlite address; names the URI and the remedy.
    """
    if uri is None:
        _check_own(study_dir.resolve())
        return
    remedy = "mend the address, or leave the option out to track in an sqlite file in the study's folder"
    scheme = uri.partition("://")[0] if "://" in uri else ""
    if scheme not in ("http", "https"):
        if scheme.partition("+")[0] not in _DATABASES:
            known = ", ".join(f"{name}://" for name in ("http", "https", *_DATABASES))
            raise ConfigError(f"--tracking-uri {uri!r} must begin with one of {known}: {remedy}")
        try:
            sqlalchemy.create_engine(uri).dispose()  # imports the database's driver and connects to nothing
        except (ImportError, sqlalchemy.exc.ArgumentError, ValueError) as error:
            raise ConfigError(f"--tracking-uri {uri!r}: {_innermost(error)}. Install the driver, {remedy}") from error
    elif reason := unreachable(uri):
        raise ConfigError(
            f"--tracking-uri {uri!r}: no MLflow server answers there ({reason}). Start it (mlflow server --port ...), "
            f"{remedy}"
        )


def open_store(study_dir: Path, study_name: str, tracking_uri: str | None) -> Store:
    """Opens the study's experiment, which carries the study's name, and makes it where there is none.

    Args:
        study_dir: The study's folder; without a `tracking_uri` it gets `mlflow.db` and `mlartifacts/`.
        study_name: Name of the experiment. One that was deleted is restored.
        tracking_uri: A server (`http://host:5000`), a database, or None for the study's own sqlite file.

    Raises:
        ConfigError: The server does not answer, or it or the database refuses; names the URI and the remedy.
    """
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    study_dir = study_dir.resolve()
    artifacts = study_dir / "mlartifacts"
    uri = tracking_uri or _own_database(study_dir, study_name, artifacts)
    reachable(uri, study_dir)
    if uri.startswith("sqlite:") and tracking_uri:
        _check_writable(uri)
    try:
        with bounded_requests():
            client = MlflowClient(uri, registry_uri=uri)
            experiment = client.get_experiment_by_name(study_name)
            if experiment is None:
                # A server knows where its artifacts go; beside a bare database MLflow would write ./mlruns.
                served = uri.startswith(("http://", "https://"))
                location = None if served else artifacts.as_uri()
                return Store(client, uri, client.create_experiment(study_name, artifact_location=location))
            if experiment.lifecycle_stage == "deleted":
                client.restore_experiment(experiment.experiment_id)
                logger.warning("experiment %r had been deleted in MLflow: restored", study_name)
            return Store(client, uri, experiment.experiment_id)
    except (MlflowException, OSError) as error:
        raise ConfigError(
            f"--tracking-uri {uri!r}: MLflow cannot open experiment {study_name!r} there: {_innermost(error)}. Check "
            "the address and the credentials, or leave the option out to track in an sqlite file in the study's folder"
        ) from error


def _own_database(study_dir: Path, study_name: str, artifacts: Path) -> str:
    """URI of the study's sqlite file. One that cannot be continued is set aside: the ledger fills the new one again."""
    _check_own(study_dir)
    study_dir.mkdir(parents=True, exist_ok=True)
    database = study_dir / "mlflow.db"
    uri = f"sqlite:///{database}"
    existed = database.exists()
    _check_writable(uri)
    if existed and (reason := _unusable(database, study_name, artifacts.as_uri())):
        number = 1
        while (aside := study_dir / f"mlflow-old-{number}.db").exists():
            number += 1
        database.rename(aside)
        if artifacts.exists():
            artifacts.rename(study_dir / f"mlartifacts-old-{number}")
        logger.warning("%s: %s; set aside as %s, filled again from the ledger", database, reason, aside.name)
    return uri


def _check_own(study_dir: Path) -> None:
    if set(str(study_dir)) & set("?%"):
        raise ConfigError(
            f"study folder {str(study_dir)!r}: an sqlite address cannot hold '?' or '%'. Choose another folder or give "
            "--tracking-uri"
        )


def _check_writable(uri: str) -> None:
    """Asks sqlite itself, since MLflow tries for minutes to open what it cannot."""
    path = unquote(uri.partition("?")[0].removeprefix("sqlite:///"))
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=HEALTH_SECONDS)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
    except sqlite3.Error as error:
        raise ConfigError(
            f"{path}: sqlite cannot write MLflow's database there ({error}). Make the folder writable, move a file of "
            "another kind away, or give --tracking-uri"
        ) from error


def _unusable(database: Path, study_name: str, location: str) -> str | None:
    """Why the database in the study's folder cannot be written on, or None."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        try:
            rows = dict(connection.execute("SELECT name, artifact_location FROM experiments").fetchall())
        except sqlite3.OperationalError:
            rows = {}
    if not rows:  # MLflow makes an experiment "Default" as the last step of setting a database up
        return "its set-up was cut short"
    if rows.get(study_name, location) != location:  # absolute, and MLflow cannot change it
        return f"the study has moved, its artifacts would go to {rows[study_name]}"
    return None


def _innermost(error: BaseException) -> str:
    """First line of what lies under the wrappers."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
