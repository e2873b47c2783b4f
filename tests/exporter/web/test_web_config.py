"""The web configuration file: exporter-toolkit's format is understood, and what can't be done is refused by name."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import bcrypt
import pytest
from flowrra_exporter.errors import UsageError
from flowrra_exporter.web.access.limits import Rate
from flowrra_exporter.web.access.web_config import load_web_config

from tests.exporter.certificates import Issuer
from tests.exporter.conftest import FREE_PORT, Run

HASH = bcrypt.hashpw(b"right", b"$2b$04$" + b"." * 22).decode()


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    issuer = Issuer(tmp_path, "issuer")
    issuer.issue("server")
    return issuer


def write(folder: Path, text: str) -> Path:
    path = folder / "web.yml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"basic_auth_users:\n  a: {HASH}\n  a: {HASH}\n", "line 3: no YAML: 'a' stands here a second time"),
        (
            f"basic_auth_users:\n  a: {HASH}\nbasic_auth_users:\n  b: {HASH}\n",
            "'basic_auth_users' stands here a second",
        ),
        *(
            (f"basic_auth_users:\n  {name}: {HASH}\n", "is no text; expected it in quotes")
            for name in ("007", "yes", "0x1F", "2024-01-01", "~")
        ),
    ],
)
def test_a_key_that_another_would_replace_or_that_is_no_text(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=re.escape(problem)):
        load_web_config(write(tmp_path, text))


def test_everything_that_is_supported(issuer: Issuer, tmp_path: Path) -> None:
    config = load_web_config(
        write(
            tmp_path,
            f"""
tls_server_config:
  cert_file: server.crt
  key_file: server.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: issuer.pem
  client_allowed_sans: [prometheus.internal]
  min_version: TLS13
  max_version: TLS13
  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]
  prefer_server_cipher_suites: false
http_server_config:
  http2: false
  headers:
    Strict-Transport-Security: max-age=31536000
    x-frame-options: sameorigin
basic_auth_users:
  prometheus: {HASH}
rate_limit:
  interval: 1m0.5s
  burst: 10
""",
        )
    )
    assert config.context is not None
    assert config.context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert config.context.verify_mode is ssl.CERT_REQUIRED
    assert config.users == {"prometheus": HASH}
    assert config.headers == {"Strict-Transport-Security": "max-age=31536000", "X-Frame-Options": "sameorigin"}
    assert config.rate == Rate(60.5, 10)
    assert config.authenticates


@pytest.mark.parametrize("text", ["", "# nothing", "tls_server_config:\nbasic_auth_users: {}\n", "rate_limit: {}"])
def test_an_empty_file_asks_for_nothing(tmp_path: Path, text: str) -> None:
    config = load_web_config(write(tmp_path, text))
    assert (config.context, config.users, config.headers, config.rate) == (None, {}, {}, None)
    assert not config.authenticates


TLS = "tls_server_config: {cert_file: server.crt, key_file: server.key, %s}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a list", "got list; expected keys"),
        ("a: [", "line 1: no YAML"),
        ("[" * 5000, "no YAML"),
        ("tls_config: {}", "tls_config is unknown; expected basic_auth_users, http_server_config, rate_limit, tls_s"),
        ("tls_server_config: yes", "tls_server_config is True; expected keys with values"),
        ("tls_server_config: {key_file: server.key}", "tls_server_config.cert_file is missing"),
        ("tls_server_config: {cert_file: server.crt}", "tls_server_config.key_file is missing"),
        ("tls_server_config: {cert_file: nowhere.crt, key_file: server.key}", "nowhere.crt: No such file"),
        ("tls_server_config: {cert_file: issuer.pem, key_file: server.key}", "can't be used as certificate and key"),
        ("tls_server_config: {cert_file: server.key, key_file: server.key}", "can't be used as certificate and key"),
        ("tls_server_config: {cert: '-----BEGIN', key_file: a}", "tls_server_config.cert isn't supported"),
        (TLS % "key: abc", "tls_server_config.key isn't supported"),
        (TLS % "curve_preferences: [X25519]", "tls_server_config.curve_preferences isn't supported"),
        (TLS % "min_version: TLS10", "min_version is TLS10, which isn't supported"),
        (TLS % "min_version: SSL3", "min_version is 'SSL3'; expected TLS12 or TLS13"),
        (TLS % "min_version: TLS13, max_version: TLS12", "max_version is below min_version"),
        (TLS % "client_auth_type: RequestClientCert", "is RequestClientCert, which isn't supported"),
        (TLS % "client_auth_type: RequireAnyClientCert", "is RequireAnyClientCert, which isn't supported"),
        (TLS % "client_auth_type: Sometimes", "client_auth_type is 'Sometimes'; expected one of NoClientCert"),
        (TLS % "client_auth_type: RequireAndVerifyClientCert", "client_ca_file is missing"),
        (TLS % "client_ca_file: issuer.pem", "asks for no certificate, yet there is a client_ca"),
        (TLS % "client_auth_type: VerifyClientCertIfGiven, client_ca: rubbish", "client_ca has no certificates"),
        (TLS % "client_allowed_sans: [a]", "client_allowed_sans needs client_auth_type"),
        (TLS % "client_allowed_sans: a", "client_allowed_sans is 'a'; expected a list of texts"),
        (TLS % "cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]", "cipher_suites has 'TLS_RSA_WITH_RC4_128_SHA'"),
        (TLS % "prefer_server_cipher_suites: 1", "prefer_server_cipher_suites is 1; expected true or false"),
        (TLS % "colour: red", "tls_server_config.colour is unknown"),
        ("http_server_config: {http2: true}", "http_server_config.http2 is true, which isn't supported"),
        ("http_server_config: {headers: {X-Powered-By: us}}", "headers.X-Powered-By can't be set"),
        ("http_server_config: {headers: {X-Frame-Options: perhaps}}", "'perhaps'; expected deny or sameorigin"),
        ('http_server_config: {headers: {X-XSS-Protection: "a\\r\\nSet-Cookie: b"}}', "expected printable ASCII text"),
        ("basic_auth_users: {anna: secret}", "basic_auth_users.anna is no bcrypt hash"),
        ("basic_auth_users: {anna: 12345}", "basic_auth_users.anna is no text; expected text"),
        (f"basic_auth_users: {{'an:na': {HASH}}}", "is no user name; expected text without a colon"),
        (f"basic_auth_users: {{anna: {HASH[:4]}31{HASH[6:]}}}", "has cost 31; expected at most 16"),
        ("rate_limit: {interval: 1s}", "rate_limit.burst is 0; expected at least 1"),
        ("rate_limit: {interval: soon, burst: 1}", "rate_limit.interval is 'soon'; expected a duration"),
        ("rate_limit: {interval: 1s, burst: many}", "rate_limit.burst is 'many'; expected a whole number"),
    ],
)
@pytest.mark.usefixtures("issuer")
def test_what_is_wrong_is_said_by_name(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_web_config(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "secret" not in str(caught.value)
    assert "12345" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"web\.yml: No such file"):
        load_web_config(tmp_path / "web.yml")


@pytest.mark.slow
def test_the_command_ends_with_one_line(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path, "basic_auth_users: {anna: secret}")
    command = run(f"--web.listen-address={FREE_PORT}", f"--web.config.file={path}", "told:make")
    assert command.wait() == 2
    assert len(command.err) == 1
    assert "basic_auth_users.anna is no bcrypt hash" in command.err[0]


@pytest.mark.slow
def test_task_data_wants_authentication(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path, "")
    flags = (f"--web.listen-address={FREE_PORT}", f"--web.config.file={path}", "--web.show-task-data")
    command = run(*flags, "told:make")
    assert command.wait() == 2
    assert "expected --web.config.file with basic_auth_users or required client certificates" in command.err[0]
