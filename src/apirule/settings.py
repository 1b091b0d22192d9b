"""Settings: one typed tree, read once and passed down in parts; and where its files are.

Flags win over ``APIRULE_*`` variables, those over ``apirule.toml`` in the user's config folder.
What `apirule up` decided is kept in the state folder, so that every later command means the same
instance.
"""

from __future__ import annotations

import os
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from apirule.problem import SetupError

ENVIRONMENT_PREFIX = "APIRULE_"
LONGEST_SOCKET_PATH = 100
"""A unix socket path ends at 107 bytes on Linux; some room is left for the file's own name."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be chosen for one machine. Ports are TCP ports on loopback."""

    state: str = ""
    """The state folder; empty: ``$XDG_STATE_HOME/apirule``."""
    domain: str = "kyma.localhost"
    """Hosts of the default gateway are ``*.<domain>``; the issuer is ``oidc.<domain>``."""
    https_port: int = 8443
    http_port: int = 8080
    api_port: int = 6443
    missing_token_status: int = 401
    """401 as RFC 6750 asks, or 403 as Istio and Kyma answer."""
    log_level: str = "info"
    log_format: str = "console"
    """``console`` for people, ``json`` for machines."""

    @property
    def folder(self) -> StateFolder:
        return StateFolder(Path(self.state) if self.state else default_state())

    @property
    def issuer_host(self) -> str:
        return f"oidc.{self.domain}"

    @property
    def issuer_url(self) -> str:
        port = "" if self.http_port == 80 else f":{self.http_port}"  # noqa: PLR2004 - http's own
        return f"http://{self.issuer_host}{port}"


class StateFolder:
    """Names every file of one instance. Makes nothing by itself, but ``create``."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        run = self.root / "run"
        if len(str(run)) + 40 > LONGEST_SOCKET_PATH:
            digest = sha256(str(self.root).encode()).hexdigest()[:10]
            run = Path(tempfile.gettempdir()) / f"apirule-{os.getuid()}-{digest}"
        self.run = run
        self.database = self.root / "api.db"
        self.pki = self.root / "pki"
        self.issuer = self.root / "issuer"
        self.pods = self.root / "pods"
        self.logs = self.root / "logs"
        self.kubeconfig = self.root / "kubeconfig"
        self.settings = self.root / "settings.json"
        self.ca_certificate = self.root / "ca.crt"
        self.supervisor_socket = run / "supervisor.sock"
        self.xds_socket = run / "xds.sock"

    def create(self) -> None:
        """Make the folders, readable by their owner only. SetupError: they cannot be had so."""
        for folder in (self.root, self.run, self.pki, self.issuer, self.pods, self.logs):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if folder.stat().st_uid != os.getuid():
                    raise SetupError(
                        f"The folder {folder} belongs to another user.",
                        "Choose a folder of your own with --state DIR.",
                    )
                folder.chmod(0o700)
            except OSError as error:
                raise SetupError(
                    f"The folder {folder} cannot be made: {error.strerror}.",
                    "Choose a folder of your own with --state DIR.",
                ) from error

    def read_settings(self) -> Settings | None:
        """Return what `apirule up` decided for this folder; None before the first time."""
        if not self.settings.exists():
            return None
        return msgspec.json.decode(self.settings.read_bytes(), type=Settings)

    def write_settings(self, settings: Settings) -> None:
        self.settings.write_bytes(msgspec.json.format(msgspec.json.encode(settings)))


def default_state() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "apirule"


def config_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "apirule" / "apirule.toml"


def load(**flags: Any) -> Settings:
    """Merge file, environment and flags; a flag of None was not given.

    SetupError: a value is of the wrong type or nobody knows the name, with the place it stands.
    """
    values: dict[str, Any] = {}
    path = config_file()
    if path.exists():
        values |= _read_file(path)
    for name in Settings.__struct_fields__:
        variable = ENVIRONMENT_PREFIX + name.upper()
        if variable in os.environ:
            values[name] = os.environ[variable]
    values |= {name: value for name, value in flags.items() if value is not None}
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SetupError(
            f"A setting is wrong: {error}.",
            f"Look at {path}, the variables {ENVIRONMENT_PREFIX}* and the flags.",
        ) from error


def of_instance(state: str | None) -> Settings:
    """Return the settings of the instance a command means: as `up` left them, else fresh ones."""
    settings = load(state=state)
    return settings.folder.read_settings() or settings


def environment() -> dict[str, str]:
    """Return the environment of this process, for the ones it starts."""
    return dict(os.environ)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = msgspec.toml.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise SetupError(f"{path} is not valid TOML: {error}.", "Mend that line.") from error
    return values
