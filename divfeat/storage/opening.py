"""From an address to an open store; what is wrong with either is told before anything costly."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from divfeat.errors import ConfigError, DataError, StorageLostError, unknown
from divfeat.storage.folder import FolderBackend
from divfeat.storage.keys import checked_key
from divfeat.storage.store import DENIED_WORDS, PATIENCE_SECONDS, Store, reason_of

#: Scheme -> what may follow its `?`.
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "file": (),
    "s3": ("region", "scheme", "endpoint_override"),
    "gs": ("scheme", "endpoint_override"),
}
_FORMS = "a path, file:///FOLDER, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
_CONNECT_SECONDS, _REQUEST_SECONDS = 5.0, 30.0
_ATTEMPTS = 3
#: Where secrets come from, for messages.
_SECRETS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, or the profile of the machine",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or the service account of the machine",
}


@dataclass(frozen=True)
class Address:
    """A URI taken apart.

    Attributes:
        scheme: file, s3 or gs.
        bucket: "" for a file.
        path: Under the bucket, or absolute; decoded.
        options: What followed the `?`.
    """

    scheme: str
    bucket: str
    path: str
    options: dict[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """Without credentials, as `parse` reads it."""
        end = f"?{urlencode(self.options)}" if self.options else ""
        return f"{self.scheme}://{self.bucket}{quote(self.path if self.scheme == 'file' else self._under)}{end}"

    @property
    def _under(self) -> str:
        return f"/{self.path}" if self.path else ""


def is_uri(storage: str) -> bool:
    """Whether a study's storage is shared storage, and not just a folder."""
    return "://" in storage


def parse(uri: str) -> Address:
    """Take a URI apart.

    Raises:
        ConfigError: it is of no kind that is known, holds credentials (which the message does not repeat), names no bucket, or
            leads out of it.
    """
    scheme = uri.partition("://")[0].lower()
    scheme = {"gcs": "gs"}.get(scheme, scheme)
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise ConfigError(f"--storage-path: no URI can be read from it ({error}); give {_FORMS}") from None
    if "@" in parts.netloc:
        raise ConfigError(
            f"--storage-path: the {scheme}:// URI holds credentials, which would end up in files and logs: leave out what is "
            f"before the '@'; they are read from {_SECRETS.get(scheme, 'the environment')}"
        )
    if scheme not in _OPTIONS:
        raise ConfigError(
            f"--storage-path {scheme}://...: {unknown('kind of storage', scheme, _OPTIONS)}. Give {_FORMS}"
        )
    given = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(given)
    for name in options:
        if name not in _OPTIONS[scheme]:  # its value may be a secret
            known = ", ".join(_OPTIONS[scheme]) or "none"
            raise ConfigError(
                f"--storage-path {scheme}://{parts.netloc}...: {name!r} cannot be set in the URI (known: {known}); "
                f"credentials are read from {_SECRETS.get(scheme, 'the environment')}"
            )
    if parts.fragment or len(options) < len(given):
        raise ConfigError(f"--storage-path {uri}: '#' and settings given twice have no meaning; give {_FORMS}")
    path = unquote(parts.path)
    if scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise ConfigError(
                f"--storage-path {uri}: {parts.netloc!r} would be a host; an absolute folder has three slashes, file:///FOLDER"
            )
        if not path.strip("/"):
            raise ConfigError(f"--storage-path {uri}: names no folder; give file:///FOLDER")
        path = "/" + path.strip("/")
    else:
        if not _BUCKET.fullmatch(parts.netloc):
            raise ConfigError(
                f"--storage-path {uri}: {parts.netloc!r} is no name of a bucket; give {scheme}://BUCKET/PREFIX"
            )
        path = path.strip("/")
    if path:
        try:
            checked_key(path.strip("/"))
        except DataError as error:
            raise ConfigError(f"--storage-path {uri}: {error}") from None
    return Address(scheme, parts.netloc if scheme != "file" else "", path, options)


def open_store(uri: str, patience: float = PATIENCE_SECONDS) -> Store:
    """Open the storage at `uri`, having seen that it can be written, read and listed.

    Args:
        uri: `file:///folder`, `s3://bucket/prefix` or `gs://bucket/prefix`. Credentials come from where the provider's own
            tools find them; AWS_ENDPOINT_URL and CLOUD_STORAGE_EMULATOR_ENDPOINT name servers other than the provider's.
        patience: Of the store, once it is open; at first nothing is waited for.

    Raises:
        ConfigError: as `parse`; nothing answers, the bucket or folder is missing, or there is no permission.
    """
    store = _open(_resolved(parse(uri)), uri, patience)
    _check(store, uri)
    return store


def reopen(uri: str, patience: float = PATIENCE_SECONDS) -> Store:
    """The store of an `Store.address`, elsewhere: what `open_store` saw is not looked at again."""
    return _open(parse(uri), uri, patience)


def _resolved(address: Address) -> Address:
    """With what the environment says of endpoint and region, so that a node that is not told finds the same."""
    options = dict(address.options)
    names = {
        "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        "gs": ("CLOUD_STORAGE_EMULATOR_ENDPOINT", "STORAGE_EMULATOR_HOST"),
    }
    found = [(name, os.environ[name]) for name in names.get(address.scheme, ()) if os.environ.get(name)]
    if found and "endpoint_override" not in options:
        name, endpoint = found[0]
        parts = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
        if "@" in parts.netloc or parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
            raise ConfigError(
                f"{name}: expected the address of a server such as http://host:9000, without credentials or path"
            )
        options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme}
    if address.scheme == "s3" and "region" not in options:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        options["region"] = region or ("us-east-1" if "endpoint_override" in options else _region_of(address))
    return Address(address.scheme, address.bucket, address.path, options)


def _region_of(address: Address) -> str:
    from pyarrow import fs

    try:
        return str(fs.resolve_s3_region(address.bucket))
    except OSError as error:
        raise _refused(address.uri, error) from error


def _open(address: Address, uri: str, patience: float) -> Store:
    if address.scheme == "file":
        return Store(FolderBackend(Path(address.path)), address.uri, patience)
    from divfeat.storage.objects import ObjectBackend  # pyarrow's file systems take a while to import

    try:
        filesystem = _FILE_SYSTEMS[address.scheme](address.options)
    except (OSError, ValueError) as error:
        raise _refused(uri, error) from error
    return Store(ObjectBackend(filesystem, f"{address.bucket}/{address.path}"), address.uri, patience)


def _s3(options: Mapping[str, str]) -> object:
    from pyarrow import fs

    return fs.S3FileSystem(
        region=options.get("region"),
        endpoint_override=options.get("endpoint_override"),
        scheme=options.get("scheme", "https"),
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        allow_delayed_open=True,  # small files in one request instead of three
    )


def _gs(options: Mapping[str, str]) -> object:
    from pyarrow import fs

    endpoint = options.get("endpoint_override")
    return fs.GcsFileSystem(
        endpoint_override=endpoint,
        scheme=options.get("scheme", "https"),
        anonymous=endpoint is not None,  # an emulator knows nobody, as Google's own clients take it
        retry_time_limit=timedelta(seconds=_REQUEST_SECONDS / 3),
    )


_FILE_SYSTEMS: Mapping[str, Callable[[Mapping[str, str]], object]] = {"s3": _s3, "gs": _gs}


def _check(store: Store, uri: str) -> None:
    """Write, list, read and remove a file in a folder that nobody else has."""
    try:
        missing = store.backend.missing()
    except OSError as error:
        raise _refused(uri, error) from error
    if missing is not None:
        raise ConfigError(f"--storage-path {uri}: {missing}")
    said, hasty = b"divfeat", Store(store.backend, store.uri, patience=0.0)
    folder = f"check-{secrets.token_hex(8)}"
    probe = hasty.inside(folder)
    try:
        probe.write("file", said)
        try:
            seen = list(probe.list()) == ["file"] and probe.read("file") == said
        finally:
            hasty.delete_prefix(folder)
    except StorageLostError as error:
        raise _refused(uri, error.__cause__ or error) from error
    if not seen:
        raise ConfigError(f"--storage-path {uri}: what is written there is not found again; give {_FORMS}")


def _refused(uri: str, error: BaseException) -> ConfigError:
    """What stands in the way, and what to do about it."""
    scheme, reason = parse(uri).scheme, reason_of(error)
    if isinstance(error, PermissionError) or any(word in reason for word in DENIED_WORDS):
        remedy = "give a folder that you may write to"
        if scheme != "file":
            remedy = f"list, read, write and delete must be allowed; credentials are read from {_SECRETS[scheme]}"
        return ConfigError(f"--storage-path {uri}: no permission ({reason}); {remedy}")
    look = {"file": "the folder", "s3": "the bucket, the network, AWS_ENDPOINT_URL", "gs": "the bucket, the network"}
    return ConfigError(f"--storage-path {uri}: cannot be used ({reason}); look at {look[scheme]}")
