"""Certificates: read, checked, made, and read again when they change.

Rules of the file:
- What cannot be used is refused at the start, with the variable and the reason; later it is logged, and the pair that
  is in use stays.
- TLS 1.2 or newer, no renegotiation, no compression; by ALPN HTTP/1.1, and HTTP/2 before it where it is turned on.
- A key that this file writes is readable by its owner alone.

Source: `RELIABILITY.md` 4.1.
"""

import ipaddress
import os
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from engine.errors import Refused
from engine.settings import Settings

CERT: Final = "HEADGATE_TLS_CERT"
KEY: Final = "HEADGATE_TLS_KEY"
OWN_FOLDER: Final = "tls"
OWN_LIVES: Final = timedelta(days=397)
"""What browsers take of a certificate at most."""
OWN_LEFT: Final = timedelta(days=30)
"""A certificate of our own that has less to live is made anew at the start."""
PROTOCOLS: Final = ("http/1.1",)
WITH_HTTP2: Final = ("h2", *PROTOCOLS)


class Pair(NamedTuple):
    """A certificate that can be used.

    Args:
        context: for new connections.
        expires_at: end of its life.
        files: how the two files looked when they were read; another look means to read them again.
    """

    context: ssl.SSLContext
    expires_at: datetime
    files: tuple[tuple[int, int, int], ...]


class Certificates:
    """The gateway's certificate, as it is now.

    Args:
        cert: PEM file of the certificate and its chain.
        key: PEM file of its key.
        protocols: what is offered by ALPN, the best first.

    Raises:
        Refused: the pair cannot be used.
    """

    def __init__(self, cert: Path, key: Path, protocols: tuple[str, ...] = PROTOCOLS) -> None:
        self.cert = cert
        self.key = key
        self.reloads = 0
        self.refused_reloads = 0
        self._protocols = protocols
        self._pair = load_pair(cert, key, datetime.now(UTC), protocols)

    @property
    def context(self) -> ssl.SSLContext:
        """What new connections use."""
        return self._pair.context

    @property
    def expires_at(self) -> datetime:
        """End of the certificate's life."""
        return self._pair.expires_at

    def unix_expiry(self) -> float:
        """Give the end of the certificate's life as a Unix time."""
        return self.expires_at.timestamp()

    def look(self) -> tuple[tuple[int, int, int], ...]:
        """Look at the files, without reading them."""
        return look_at(self.cert, self.key)

    def differs(self, look: tuple[tuple[int, int, int], ...]) -> bool:
        """Say that files that look so are not those that are in use."""
        return look != self._pair.files

    def reload(self) -> None:
        """Read the files again.

        Raises:
            Refused: they cannot be used; the pair in use stays.
        """
        try:
            self._pair = load_pair(self.cert, self.key, datetime.now(UTC), self._protocols)
        except Refused:
            self.refused_reloads += 1
            raise
        self.reloads += 1


def open_pair(settings: Settings) -> Certificates:
    """Give the certificate that the settings ask for.

    Raises:
        Refused: the settings contradict each other, or the files cannot be used; the text names the variable.
        OSError: the data folder cannot be written.
    """
    cert, key = settings.tls_cert, settings.tls_key
    if settings.tls_self_signed == "on":
        if cert is not None or key is not None:
            raise _wrong("HEADGATE_TLS_SELF_SIGNED", f"expected off where {CERT} and {KEY} are set")
        cert, key = make_own(settings.data.resolve() / OWN_FOLDER, settings.host, datetime.now(UTC))
    if cert is None:
        raise _wrong(CERT, f"expected a PEM file, because {KEY} is set")
    if key is None:
        raise _wrong(KEY, f"expected a PEM file, because {CERT} is set")
    return Certificates(cert, key, WITH_HTTP2 if settings.http2 == "on" else PROTOCOLS)


def load_pair(cert: Path, key: Path, now: datetime, protocols: tuple[str, ...] = PROTOCOLS) -> Pair:
    """Read a certificate and its key, and see that they can be used.

    Raises:
        Refused: a file cannot be read, is none, is out of its time, or they do not belong together.
    """
    files = look_at(cert, key)
    _read(KEY, key)
    try:
        first = x509.load_pem_x509_certificates(_read(CERT, cert))[0]
    except (ValueError, IndexError):
        raise _wrong(CERT, f"expected PEM certificates in {cert}") from None
    if first.not_valid_after_utc <= now:
        raise _wrong(CERT, f"the certificate in {cert} expired at {first.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if first.not_valid_before_utc > now + timedelta(minutes=5):
        raise _wrong(CERT, f"the certificate in {cert} begins at {first.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    return Pair(_make_context(cert, key, protocols), first.not_valid_after_utc, files)


def look_at(*paths: Path) -> tuple[tuple[int, int, int], ...]:
    """Give what changes when a file does; zeros where there is none."""
    looks: list[tuple[int, int, int]] = []
    for path in paths:
        try:
            seen = path.stat()
        except OSError:
            looks.append((0, 0, 0))
        else:
            looks.append((seen.st_ino, seen.st_size, seen.st_mtime_ns))
    return tuple(looks)


def make_own(folder: Path, host: str, now: datetime) -> tuple[Path, Path]:
    """Give a certificate of the gateway's own and its key; one that is there and has long enough to live is kept.

    Args:
        folder: where it is kept.
        host: what the gateway listens on; the certificate is for it and for this machine's names.
        now: the time.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cert, key = folder / "cert.pem", folder / "key.pem"
    names = _names(host)
    try:
        pair = load_pair(cert, key, now)
        kept = x509.load_pem_x509_certificate(cert.read_bytes())
        is_for = set(kept.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        if pair.expires_at - now > OWN_LEFT and set(names) <= is_for:
            return cert, key
    except (Refused, x509.ExtensionNotFound):
        pass  # there is none, or none of use: it is made anew
    secret = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "headgate, self-signed")])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + OWN_LIVES)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(secret, hashes.SHA256())
    )
    _write(
        key,
        0o600,
        secret.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    _write(cert, 0o644, made.public_bytes(serialization.Encoding.PEM))
    return cert, key


def _names(host: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for name in dict.fromkeys(("localhost", "127.0.0.1", "::1", socket.gethostname(), host)):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            names.append(x509.DNSName(name.encode("idna").decode()))
    return names


def _make_context(cert: Path, key: Path, protocols: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(list(protocols))
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except ssl.SSLError as problem:
        if problem.reason == "KEY_VALUES_MISMATCH":
            raise _wrong(KEY, f"the key in {key} is not that of the certificate in {cert} ({CERT})") from None
        raise _wrong(KEY, f"expected a PEM key without passphrase in {key}: {problem.reason or problem}") from None
    except _PassphraseError:
        raise _wrong(KEY, f"the key in {key} has a passphrase; expected one without") from None
    except OSError as problem:
        raise _wrong(KEY, f"{key} cannot be read: {problem.strerror}") from None
    return context


class _PassphraseError(Exception):
    """OpenSSL asks for a passphrase, and would ask the terminal."""


def _no_passphrase() -> str:
    raise _PassphraseError


def _read(variable: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise _wrong(variable, f"{path} cannot be read: {problem.strerror}") from None


def _write(path: Path, mode: int, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    young = path.with_name(f".{path.name}.new")
    young.unlink(missing_ok=True)
    with os.fdopen(os.open(young, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    young.replace(path)


def _wrong(variable: str, detail: str) -> Refused:
    return Refused("request.bad-parameter", f"{variable}: {detail}")
