"""TLS as ``tls_server_config`` of the web configuration file describes it, on Python's ssl module."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowrra_exporter.errors import UsageError
from flowrra_exporter.web.access.fields import Fields, shown

# How long a client may take to agree on TLS.
HANDSHAKE_SECONDS = 5.0
_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_OLD_VERSIONS = ("TLS10", "TLS11")
_CLIENT_CERTIFICATES = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_UNVERIFIED = ("RequestClientCert", "RequireAnyClientCert")
# The suites of TLS 1.2 that are safe: Go's name (IANA's), and OpenSSL's. Those of TLS 1.3 are always on.
_CIPHERS = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}


@dataclass(frozen=True)
class TlsConfig:
    """The section, checked for itself; the files have not been read yet. Paths are absolute or as given."""

    cert_file: Path
    key_file: Path
    client_verification: ssl.VerifyMode
    client_ca_file: Path | None
    client_ca: str
    client_allowed_sans: Sequence[str]
    min_version: ssl.TLSVersion
    max_version: ssl.TLSVersion
    cipher_suites: Sequence[str]
    prefer_server_cipher_suites: bool

    @property
    def requires_client_certificate(self) -> bool:
        """Whether each client must have a certificate that we verify."""
        return self.client_verification is ssl.CERT_REQUIRED

    @property
    def files(self) -> tuple[Path, ...]:
        """What it's read from."""
        ca = () if self.client_ca_file is None else (self.client_ca_file,)
        return (self.cert_file, self.key_file, *ca)

    def allows(self, certificate: Mapping[str, Any] | None) -> bool:
        """Whether a client with this certificate (as ``ssl.SSLSocket.getpeercert`` gives it) may come in."""
        if not self.client_allowed_sans:
            return True
        names = (certificate or {}).get("subjectAltName", ())
        return any(value in self.client_allowed_sans for _kind, value in names)


def name_of(certificate: Mapping[str, Any]) -> str:
    """The name that a client's certificate gives it: its common name, else the first alternative one, else its serial
    number; as ``ssl.SSLSocket.getpeercert`` gives it."""
    parts = (part for several in certificate.get("subject", ()) for part in several)
    common = next((value for kind, value in parts if kind == "commonName" and value), None)
    if common is not None:
        return str(common)
    alternative = next((value for _kind, value in certificate.get("subjectAltName", ()) if value), None)
    return str(alternative or f"certificate {certificate.get('serialNumber')}")


def read_tls(found: Fields, folder: Path) -> TlsConfig:
    """The section ``found`` of a file in ``folder``, which its paths are relative to.

    Raises:
        UsageError: It makes no sense.
    """
    for key in ("cert", "key"):
        found.refuse(key, f"Python reads certificates from files; expected {key}_file")
    found.refuse("curve_preferences", "Python can't choose among curves")
    for key in ("cert_file", "key_file"):
        if not found.text(key):
            raise found.error(key, "is missing; expected the path of a PEM file")
    config = TlsConfig(
        cert_file=folder / _path(found, "cert_file"),
        key_file=folder / _path(found, "key_file"),
        client_verification=_client_verification(found),
        client_ca_file=folder / _path(found, "client_ca_file") if found.text("client_ca_file") else None,
        client_ca=_ascii(found, "client_ca"),
        client_allowed_sans=found.texts("client_allowed_sans"),
        min_version=_version(found, "min_version", ssl.TLSVersion.TLSv1_2),
        max_version=_version(found, "max_version", ssl.TLSVersion.TLSv1_3),
        cipher_suites=_ciphers(found),
        prefer_server_cipher_suites=found.flag("prefer_server_cipher_suites", default=True),
    )
    found.nothing_else()
    _check(config, found)
    return config


def make_context(config: TlsConfig, source: str) -> ssl.SSLContext:
    """What servers take, with the files read.

    Raises:
        UsageError: A file can't be used. The message names ``source`` and the file.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version, context.maximum_version = config.min_version, config.max_version
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    if config.cipher_suites:
        context.set_ciphers(":".join(_CIPHERS[name] for name in config.cipher_suites))
    if not config.prefer_server_cipher_suites:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    for path in config.files:
        _readable(path, source)
    try:
        # A key with a passphrase would ask for it on the terminal; there is nobody to answer.
        context.load_cert_chain(config.cert_file, config.key_file, password=_no_passphrase)
    except (ssl.SSLError, ValueError) as error:
        pair = f"{config.cert_file} and {config.key_file}"
        raise UsageError(f"{source}: {pair} can't be used as certificate and key: {_reason(error)}") from error
    _trust_clients(context, config, source)
    return context


def _trust_clients(context: ssl.SSLContext, config: TlsConfig, source: str) -> None:
    try:
        if config.client_ca_file is not None:
            context.load_verify_locations(cafile=config.client_ca_file)
        if config.client_ca:
            context.load_verify_locations(cadata=config.client_ca)
    except ssl.SSLError as error:
        which = config.client_ca_file or "client_ca"
        raise UsageError(f"{source}: {which} has no certificates of issuers: {_reason(error)}") from error
    context.verify_mode = config.client_verification


def _path(found: Fields, key: str) -> str:
    text = found.text(key)
    try:
        usable = b"\0" not in os.fsencode(text)
    except UnicodeError:
        usable = False
    if not usable:
        raise found.error(key, f"is {shown(text)}; expected a path, which has no such characters")
    return text


def _ascii(found: Fields, key: str) -> str:
    text = found.text(key)
    if not text.isascii():
        raise found.error(key, "has characters that are not ASCII; expected certificates in the form of PEM")
    return text


def _client_verification(found: Fields) -> ssl.VerifyMode:
    name = found.text("client_auth_type", "NoClientCert")
    if name in _UNVERIFIED:
        raise found.error("client_auth_type", f"is {name}, which isn't supported: Python verifies, or doesn't ask")
    if name not in _CLIENT_CERTIFICATES:
        raise found.error("client_auth_type", f"is {shown(name)}; expected one of {', '.join(_CLIENT_CERTIFICATES)}")
    return _CLIENT_CERTIFICATES[name]


def _version(found: Fields, key: str, default: ssl.TLSVersion) -> ssl.TLSVersion:
    name = found.text(key)
    if name in _OLD_VERSIONS:
        raise found.error(key, f"is {name}, which isn't supported: it's broken; expected TLS12 or TLS13")
    if name and name not in _VERSIONS:
        raise found.error(key, f"is {shown(name)}; expected TLS12 or TLS13")
    return _VERSIONS.get(name, default)


def _ciphers(found: Fields) -> tuple[str, ...]:
    names = found.texts("cipher_suites")
    for name in names:
        if name not in _CIPHERS:
            raise found.error("cipher_suites", f"has {shown(name)}; expected some of {', '.join(_CIPHERS)}")
    return names


def _check(config: TlsConfig, found: Fields) -> None:
    has_ca = config.client_ca_file is not None or bool(config.client_ca)
    asks = config.client_verification is not ssl.CERT_NONE
    if asks and not has_ca:
        raise found.error("client_ca_file", "is missing; client_auth_type asks for certificates of its issuers")
    if has_ca and not asks:
        raise found.error("client_auth_type", "asks for no certificate, yet there is a client_ca")
    if config.client_allowed_sans and not config.requires_client_certificate:
        raise found.error("client_allowed_sans", "needs client_auth_type: RequireAndVerifyClientCert")
    if config.min_version > config.max_version:
        raise found.error("max_version", "is below min_version")


def _readable(path: Path, source: str) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise UsageError(f"{source}: {path}: {error.strerror or error}") from error


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted; expected one without a passphrase")


def _reason(error: Exception) -> str:
    """What OpenSSL says, in a word or two."""
    return getattr(error, "reason", None) or str(error)
