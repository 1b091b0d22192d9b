"""Settings: one typed tree, read once and passed down in parts; and where its files are.

Flags win over ``APIRULE_*`` variables, those over ``apirule.toml`` in the user's config folder.
What `apirule up` decided is kept in the state folder, so that every later command means the same
instance.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from apirule.problem import SetupError

ENVIRONMENT_PREFIX = "APIRULE_"
LONGEST_SOCKET_PATH = 100
"""A unix socket path ends at 107 bytes on Linux; some room is left for the file's own name."""

SHORT = Path("/tmp")  # noqa: S108 - whoever else may write there is found out
"""Where sockets are if the path of the state folder is too long for them.

Not ``$TMPDIR``: a command that comes later may have another one than the one that started it all.
"""

_FRESH = ".settings.json."
"""How the name of a file begins that is about to become the settings."""
_OF_SQLITE = ("", "-wal", "-shm", "-journal")

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
DOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
PORTS = ("https_port", "http_port", "api_port")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be chosen for one machine. Ports are TCP ports on loopback."""

    state: str = ""
    """The state folder; empty: ``$XDG_STATE_HOME/apirule``."""
    domain: Annotated[str, msgspec.Meta(pattern=DOMAIN, max_length=200)] = "kyma.localhost"
    """Hosts of the default gateway are ``*.<domain>``; the issuer is ``oidc.<domain>``."""
    https_port: Port = 8443
    http_port: Port = 8080
    api_port: Port = 6443
    missing_token_status: Literal[401, 403] = 401
    """401 as RFC 6750 asks, or 403 as Istio and Kyma answer."""
    host_with_port: Literal["ignored", "refused"] = "ignored"
    """Whether the hosts of policies are met by a Host with a port; Istio's are not."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"
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
    """Names every file of one instance. Makes nothing by itself, but ``claim``."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        run = self.root / "run"
        if len(str(run)) + 40 > LONGEST_SOCKET_PATH:
            digest = sha256(str(self.root).encode()).hexdigest()[:10]
            run = SHORT / f"apirule-{os.getuid()}-{digest}"
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

    def claim(self, settings: Settings) -> None:
        """Make the folders, or see that they are ours and nobody else's.

        The first thing in a new folder is its settings, so that it can be told from any other one.
        SetupError: the folder holds something else, others may enter it, or it cannot be made.
        """
        # In this order: another `up` may be making the folder now.
        if _is_folder(self.root) and self._holds_something() and self.read_settings() is None:
            raise SetupError(
                f"The folder {self.root} is not empty, and what is in it is not apirule's.",
                "Choose an empty folder, or one that does not exist yet, with --state DIR.",
            )
        _make_private(self.root, may_be_link=True)
        self._write_settings(settings, replacing=False)
        for folder in (self.run, self.pki, self.issuer, self.pods, self.logs):
            _make_private(folder)

    def purge(self) -> list[str]:
        """Delete what apirule made, then the folder; return what is left because it is not ours.

        SetupError: this is no state folder.
        """
        if self.read_settings() is None:
            raise SetupError(
                f"{self.root} is not a state folder of apirule.",
                "Delete it yourself if you mean it.",
            )
        database = [self.database.with_name(self.database.name + end) for end in _OF_SQLITE]
        made = [self.run, self.pki, self.issuer, self.pods, self.logs, *database]
        made += self.root.glob(f"{_FRESH}*")
        # Its settings go last: until then it is known for ours, and this can be repeated.
        for path in (*made, self.kubeconfig, self.ca_certificate, self.settings):
            _delete(path)
        left = sorted(path.name for path in self.root.iterdir())
        if not left and not self.root.is_symlink():
            self.root.rmdir()
        return left

    def read_settings(self) -> Settings | None:
        """Return what `apirule up` decided for this folder; None before the first time.

        SetupError: the file cannot be read, or is not ours.
        """
        try:
            text = self.settings.read_bytes()
            settings = msgspec.json.decode(text, type=Settings)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SetupError(
                f"{self.settings} cannot be read: {error.strerror}.",
                "Run as the user who started it, or name another folder with --state DIR.",
            ) from error
        except msgspec.MsgspecError as error:
            raise self._not_ours(_words(error)) from error
        if not settings.state:
            # Every field has a default, so that "{}" of another program would pass for ours.
            raise self._not_ours("state is missing")
        # The folder may have been moved, and what matters is where it is.
        return msgspec.structs.replace(settings, state=str(self.root))

    def write_settings(self, settings: Settings) -> None:
        self._write_settings(settings, replacing=True)

    def _write_settings(self, settings: Settings, *, replacing: bool) -> None:
        """Write them in one step: whoever reads meanwhile sees the old ones or the new ones."""
        descriptor, name = tempfile.mkstemp(prefix=_FRESH, dir=self.root)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(settings)))
        fresh = Path(name)
        if replacing:
            fresh.replace(self.settings)
            return
        try:
            os.link(fresh, self.settings)
        except FileExistsError:
            pass  # it is ours already, perhaps since just now
        finally:
            fresh.unlink()

    def _holds_something(self) -> bool:
        return any(not path.name.startswith(_FRESH) for path in self.root.iterdir())

    def _not_ours(self, why: str) -> SetupError:
        return SetupError(
            f"{self.settings} was not written by this version of apirule: {why}.",
            "Name another folder with --state DIR; if it is of another version, use that one.",
        )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False  # and whoever makes it learns why


def _make_private(folder: Path, *, may_be_link: bool = False) -> None:
    """Make a folder for its owner only; one that is there must be so already."""
    elsewhere = "Choose a folder of your own with --state DIR."
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        pass
    except OSError as error:
        raise SetupError(
            f"The folder {folder} cannot be made: {error.strerror}.", elsewhere
        ) from error
    # What somebody else may have put there: a link, too, has an owner.
    link, found = folder.lstat(), folder.stat()
    if stat.S_ISLNK(link.st_mode) and not may_be_link:
        raise SetupError(f"The folder {folder} is a link.", f"Remove it. {elsewhere}")
    if not stat.S_ISDIR(found.st_mode):
        raise SetupError(f"The folder {folder} cannot be made: it is a file.", elsewhere)
    if {link.st_uid, found.st_uid} != {os.getuid()}:
        raise SetupError(f"The folder {folder} belongs to another user.", elsewhere)
    if found.st_mode & 0o077:
        # It may be shared on purpose, so it is not for us to close it.
        raise SetupError(
            f"Other users may enter the folder {folder}, where keys would be.",
            f"Close it: chmod 700 {folder}; or choose one that does not exist yet.",
        )


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def default_state() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or str(_home() / ".local" / "state")
    return Path(base) / "apirule"


def config_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or str(_home() / ".config")
    return Path(base) / "apirule" / "apirule.toml"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise SetupError(
            "There is no home folder: HOME is not set, and this user has none.",
            "Set HOME, or XDG_STATE_HOME and XDG_CONFIG_HOME.",
        ) from error


def load(**flags: Any) -> Settings:
    """Merge file, environment and flags; a flag of None was not given.

    SetupError: a value is of the wrong type or nobody knows the name, with the place it stands.
    """
    path = config_file()
    values = _read_file(path)
    for name in Settings.__struct_fields__:
        variable = ENVIRONMENT_PREFIX + name.upper()
        if variable in os.environ:
            values[name] = os.environ[variable]
    values |= {name: value for name, value in flags.items() if value is not None}
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SetupError(
            f"A setting is wrong: {_words(error)}.",
            f"Look at the flags, the variables {ENVIRONMENT_PREFIX}* and {path}.",
        ) from error
    ports = [getattr(settings, name) for name in PORTS]
    if len(set(ports)) != len(ports):
        raise SetupError(
            f"Two of the ports are the same: {', '.join(map(str, ports))}.",
            "Give https_port, http_port and api_port a port each.",
        )
    # Whoever reads it later may stand in another folder.
    return msgspec.structs.replace(settings, state=str(settings.folder.root))


def _words(error: msgspec.MsgspecError) -> str:
    """Return what msgspec says, with the name of the setting in front."""
    message, _, place = str(error).partition(" - at `$.")
    if "matching regex" in message:
        message = "Expected a name such as kyma.localhost, in small letters"
    return f"{place.rstrip('`')}: {message}" if place else message


def of_instance(state: str | None) -> Settings:
    """Return the settings of the instance a command means: as `up` left them, else fresh ones."""
    settings = load(state=state)
    return settings.folder.read_settings() or settings


def environment() -> dict[str, str]:
    """Return the environment of this process, for the ones it starts."""
    return dict(os.environ)


@contextmanager
def without_system_cas() -> Iterator[None]:
    """Let OpenSSL find no CA of the system in the block: a context made there trusts nobody."""
    variables = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(dict.fromkeys(variables, os.devnull))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = msgspec.toml.decode(path.read_bytes(), type=dict[str, Any])
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise SetupError(
            f"{path} cannot be read: {error.strerror}.", "Let this user read it, or remove it."
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"{path} is not valid TOML: {error}.", "Mend that line.") from error
    return values
