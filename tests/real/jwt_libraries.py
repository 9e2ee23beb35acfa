"""Tokens of other libraries: PyJWT, joserfc, jose and jsonwebtoken, by each algorithm that each of them knows, and the
JWK set of an identity provider whose keys change.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import subprocess
import sys
import time
import warnings
from datetime import datetime, timedelta, timezone
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from joserfc import jwt as joserfc
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from daemon import ROOT, Hub, b64
from harness import case, eventually, run_cases, same
from ws_client import Refused, WsClient

# joserfc has another name for EdDSA by now; it is tried under both.
warnings.filterwarnings("ignore", message="EdDSA is deprecated")

ISSUER, AUDIENCE = "https://id.example.org/realms/r", "wshub"
SECRET = "0123456789abcdef" * 4  # long enough for HS512
RSA = [f"{kind}{size}" for kind in ("RS", "PS") for size in (256, 384, 512)]
PUBLIC = [*RSA, "ES256", "ES384", "EdDSA"]
# This machine may be refused as often as it takes.
PATIENT = {"LIMITS__WRONG_TOKENS_PER_MINUTE": 1_000_000}
ALGORITHMS = ["HS256", "HS384", "HS512", *PUBLIC]


class Private:
    """A private key: its PEM, its public half in PEM, in a certificate, and as a JWK."""

    def __init__(self, key):
        self.key = key
        none = serialization.NoEncryption()
        encoding, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        self.pem = key.private_bytes(encoding, private, none).decode()
        self.public = key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo).decode()

    def certificate(self):
        """One by itself, over since yesterday."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "id.example.org")])
        now = datetime.now(timezone.utc)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(self.key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=9)).not_valid_after(now - timedelta(days=1))
        digest = None if isinstance(self.key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        return builder.sign(self.key, digest)

    def certificate_pem(self):
        return self.certificate().public_bytes(serialization.Encoding.PEM).decode()

    def jwk(self, **more):
        """By PyJWT, which reads and writes JWKs itself."""
        kind = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256"}
        alg = next((alg for of, alg in kind.items() if isinstance(self.key, of)), "EdDSA")
        text = jwt.get_algorithm_by_name(alg).to_jwk(self.key.public_key())
        return {**(json.loads(text) if isinstance(text, str) else text), **more}

    def keycloak(self, kid, alg, use):
        """As Keycloak writes it: numbers, and a certificate beside them."""
        numbers = self.key.public_key().public_numbers()
        whole = lambda n: b64(n.to_bytes((n.bit_length() + 7) // 8, "big"))
        der = self.certificate().public_bytes(serialization.Encoding.DER)
        return {
            "kid": kid, "kty": "RSA", "alg": alg, "use": use, "n": whole(numbers.n), "e": whole(numbers.e),
            "x5c": [base64.b64encode(der).decode()], "x5t": b64(hashlib.sha1(der).digest()),
            "x5t#S256": b64(hashlib.sha256(der).digest()),
        }


KEYS = {
    "RSA": Private(rsa.generate_private_key(65537, 2048)),
    "RSA2": Private(rsa.generate_private_key(65537, 3072)),
    "ES256": Private(ec.generate_private_key(ec.SECP256R1())),
    "ES384": Private(ec.generate_private_key(ec.SECP384R1())),
    "EdDSA": Private(ed25519.Ed25519PrivateKey.generate()),
}


def private(alg):
    return KEYS["RSA" if alg in RSA else alg]


def material(alg):
    """What signs: the text of a secret, or PEM."""
    return SECRET if alg.startswith("HS") else private(alg).pem


def claims(**more):
    now = int(time.time())
    return {"sub": "ann", "iss": ISSUER, "aud": ["account", AUDIENCE], "iat": now, "exp": now + 300, **more}


def by_pyjwt(alg, key, body, header):
    return jwt.encode(body, key, alg, headers=header)


def by_joserfc(alg, key, body, header):
    kinds = {"HS": OctKey, "RS": RSAKey, "PS": RSAKey, "ES": ECKey, "Ed": OKPKey}
    return joserfc.encode({"alg": alg, **header}, body, kinds[alg[:2]].import_key(key), algorithms=[alg])


class Node:
    """A process of Node that makes tokens until it is closed."""

    def __init__(self):
        here = Path(__file__).parent
        self.process = subprocess.Popen(
            ["node", "jwt_libraries.mjs"], cwd=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def make(self, library, *request):
        print(json.dumps([library, *request]), file=self.process.stdin, flush=True)
        token = self.process.stdout.readline().strip()
        assert token, f"{library} made no token of {request[0]}"
        return token

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(10)


def makers(node):
    """Each with the algorithms that it knows."""
    return {
        "PyJWT": (by_pyjwt, ALGORITHMS),
        "joserfc": (by_joserfc, ALGORITHMS),
        "jose": (lambda *request: node.make("jose", *request), ALGORITHMS),
        # Which has none for Ed25519.
        "jsonwebtoken": (lambda *request: node.make("jsonwebtoken", *request), [a for a in ALGORITHMS if a != "EdDSA"]),
    }


def write(path, text, mode=0o600):
    """In one step, as a rotation should."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(mode)
    os.replace(new, path)


class KeyFileHub(Hub):
    """A hub with one file of keys for each algorithm, secrets and PEM."""

    forms = staticmethod(lambda alg: private(alg).public)

    def prepare(self, config):
        entries = []
        for alg in ALGORITHMS:
            file = self.directory / f"{alg}.key"
            write(file, f"{SECRET}\n" if alg.startswith("HS") else self.forms(alg), 0o600)
            entries.append(f'{{ alg = "{alg}", file = "{file}", kid = "{alg}" }}')
        return f"""[auth]
keys = [{", ".join(entries)}]
issuer = "{ISSUER}"
audience = ["{AUDIENCE}", "other"]
"""


class CertificateHub(KeyFileHub):
    forms = staticmethod(lambda alg: private(alg).certificate_pem())


class KeySetHub(KeyFileHub):
    """One JWK set for all that is public, beside a set of secrets."""

    def prepare(self, config):
        public = [
            KEYS["RSA"].jwk(kid="rsa", use="sig"), KEYS["ES256"].jwk(kid="ES256"), KEYS["ES384"].jwk(kid="ES384"),
            KEYS["EdDSA"].jwk(kid="EdDSA"),
        ]
        write(self.directory / "public.json", json.dumps({"keys": public}), 0o644)
        secrets = [{"kty": "oct", "k": b64(SECRET.encode()), "kid": alg, "alg": alg} for alg in ALGORITHMS[:3]]
        write(self.directory / "secret.json", json.dumps({"keys": secrets}))
        file = lambda alg: self.directory / ("secret.json" if alg.startswith("HS") else "public.json")
        entries = ", ".join(f'{{ alg = "{alg}", file = "{file(alg)}" }}' for alg in ALGORITHMS)
        return f'[auth]\nkeys = [{entries}]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\n'


def enters(hub, token, user="ann"):
    with hub.connect(token=token) as wire:
        same(wire.hello["user_id"], user)


def enters_three_ways(hub, token):
    enters(hub, token)
    with WsClient(hub.port, protocols=["wshub.v1", f"wshub.bearer.{token}"]) as wire:
        same(wire.receive("connection_established")["user_id"], "ann")
    with WsClient(hub.port, f"/ws?token={token}") as wire:
        same(wire.receive("connection_established")["user_id"], "ann")


def is_refused(hub, token, code, message, checked=None):
    """At the upgrade with a short reason, by `wshubctl token check` with a longer one."""
    try:
        hub.connect(token=token).close()
        raise AssertionError(f"a token was let in, refused should be: {message}")
    except Refused as e:
        answer = e.json()
        same((e.status, answer["code"]), (401, code))
        assert message in answer["message"], f"{message!r} is not in {answer}"
    verdict = json.loads(hub.ctl("token", "check", "--json", token).stdout)
    same((verdict["valid"], verdict["code"]), (False, code))
    assert (checked or message) in verdict["message"], f"{checked or message!r} is not in {verdict}"


def all_enter(hub, kid=lambda alg: alg):
    count = 0
    with Node() as node:
        for name, (make, algorithms) in makers(node).items():
            for alg in algorithms:
                token = make(alg, material(alg), claims(), {"kid": kid(alg)})
                try:
                    enters_three_ways(hub, token)
                except Refused as e:
                    raise AssertionError(f"{alg} by {name}: {e.status} {e.body!r}") from None
                count += 1
        enters_three_ways(hub, by_joserfc("Ed25519", material("EdDSA"), claims(), {"kid": kid("EdDSA")}))
    return f"{count + 1} tokens, each in the header, in the subprotocol and in the query"


@case("tokens of four libraries, by every algorithm they know")
def pem(_):
    with KeyFileHub(**PATIENT) as hub:
        return all_enter(hub)


@case("the same with expired certificates in the place of keys")
def certificates(_):
    with CertificateHub(**PATIENT) as hub:
        return all_enter(hub)


@case("the same with a JWK set for public keys and one of secrets")
def sets(_):
    with KeySetHub(**PATIENT) as hub:
        assert "skipped" not in hub.logged(), "each key is used by some entry"
        return all_enter(hub, lambda alg: "rsa" if alg in RSA else alg)


@case("a token with one fault is refused for it, by every library")
def wrong(_):
    now = int(time.time())
    cases = [
        ({"exp": now - 60}, "token_expired", "the token ended at", "1m"),
        ({"nbf": now + 600}, "token_not_yet", "the token begins at", "do the clocks differ?"),
        ({"exp": now * 1000}, "token_invalid", "claims count seconds", "these look like milliseconds"),
        ({"iss": "https://id.example.org/realms/other"}, "token_invalid", "`iss`", f'wants "{ISSUER}"'),
        ({"iss": ISSUER + "/"}, "token_invalid", "`iss`", f'wants "{ISSUER}"'),
        ({"aud": "account"}, "token_invalid", "`aud`", f'the `aud` "account", and `[auth] audience` wants "{AUDIENCE}"'),
        ({"sub": "a\nb"}, "token_invalid", "`sub` contains", "without control characters"),
        ({"sub": ""}, "token_invalid", "`sub` is empty", None),
    ]
    missing = [("exp", "the claims have no `exp`"), ("iss", "no `iss`"), ("aud", "no `aud`"), ("sub", "name no user")]
    with KeyFileHub(**PATIENT) as hub, Node() as node:
        for name, (make, _) in makers(node).items():
            if name == "jsonwebtoken":
                continue  # which refuses to make most of them
            token = lambda body, alg="ES256", key=None, kid=None: make(alg, key or material(alg), body, {"kid": kid or alg})
            for more, code, message, checked in cases:
                is_refused(hub, token(claims(**more)), code, message, checked)
            for claim, message in missing:
                body = {key: value for key, value in claims().items() if key != claim}
                is_refused(hub, token(body), "token_invalid", message)
            is_refused(hub, token(claims(), "RS256", KEYS["RSA2"].pem), "token_invalid", "signature does not hold", "`kid` \"RS256\"")
            is_refused(hub, token(claims(), "PS256", kid="RS256"), "token_invalid", "no key is configured", "is for RS256, and the token says PS256")
            is_refused(hub, token(claims(), "HS256", kid="HS512"), "token_invalid", "no key is configured", "is for HS512")
            is_refused(hub, token(claims(), kid="nobody"), "token_invalid", "no key is configured", 'ES256 with the `kid` "nobody"')
            good = token(claims())
            for text, checked in [
                (f'"{good}"', "stands in quotes"), (good.replace(".", "=.", 1), "padding"), (good[:-1], "was it cut"),
                (f"{good}.x.y", "encrypted ones have (JWE)"), (good.split(".")[0], "no dots"),
            ]:
                is_refused(hub, text, "token_invalid", "", checked)


@case("algorithm confusion, embedded keys and alg none are refused")
def confusion(_):
    with KeySetHub(**PATIENT) as hub:
        body = b64(json.dumps(claims()).encode())
        public = [KEYS["RSA"].public, KEYS["RSA"].public.strip(), json.dumps(KEYS["RSA"].jwk(kid="rsa", use="sig"))]
        for alg in ("HS256", "RS256"):
            for kid in ("rsa", "HS256", "../../../../dev/null"):
                message = f'{b64(json.dumps({"alg": alg, "kid": kid}).encode())}.{body}'
                for secret in public:
                    signature = b64(hmac.new(secret.encode(), message.encode(), hashlib.sha256).digest())
                    is_refused(hub, f"{message}.{signature}", "token_invalid", "")
        for header in ({"alg": "none"}, {"alg": "None", "kid": "rsa"}, {"kid": "rsa"}):
            for signature in ("", "AAAA"):
                text = f"{b64(json.dumps(header).encode())}.{body}.{signature}"
                is_refused(hub, text, "token_invalid", "")
        stranger = Private(rsa.generate_private_key(65537, 2048))
        own = {"kid": "rsa", "jwk": stranger.jwk(), "jku": "http://127.0.0.1:1/"}
        is_refused(hub, by_pyjwt("RS256", stranger.pem, claims(), own), "token_invalid", "signature")


class KeycloakHub(Hub):
    """A hub with the JWK set of a Keycloak, and users by their names."""

    def prepare(self, config):
        self.set = self.directory / "jwks.json"
        self.publish(("first", KEYS["RSA"]))
        return f"""[auth]
keys = [{{ alg = "RS256", file = "{self.set}" }}]
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
user_claim = "preferred_username"
"""

    def publish(self, *signing):
        keys = [key.keycloak(kid, "RS256", "sig") for kid, key in signing]
        write(self.set, json.dumps({"keys": [KEYS["RSA2"].keycloak("enc", "RSA-OAEP", "enc"), *keys]}), 0o644)

    def reload(self, how):
        """By `wshubctl reload`, or SIGHUP, which is answered in the log alone."""
        if how == "ctl":
            done = self.ctl("reload")
            same(done.returncode, 0, done.stderr)
            return done.stdout + done.stderr
        before = len(re.findall("reloaded: ", self.logged()))
        self.process.send_signal(1)
        eventually(self.logged, lambda: len(re.findall("reloaded: ", self.logged())) > before)
        return self.logged()


def of_keycloak(kid, key, **more):
    body = claims(sub="f:550e8400-e29b-41d4-a716-446655440000:7", preferred_username="ann", azp="web", typ="Bearer", **more)
    return by_pyjwt("RS256", key.pem, body, {"kid": kid})


@case("Keycloak's JWK set: signing key used, others warned of")
def keycloak(_):
    with KeycloakHub(**PATIENT) as hub:
        warned = 'key 1 of the JWK set, `kid` "enc", is skipped: its `use` is "enc"'
        assert f"{hub.set}: {warned}" in hub.logged(), hub.logged()
        enters_three_ways(hub, of_keycloak("first", KEYS["RSA"]))
        is_refused(hub, of_keycloak("enc", KEYS["RSA2"]), "token_invalid", "no key", 'is skipped: its `use` is "enc"')
        is_refused(hub, by_pyjwt("RS256", KEYS["RSA"].pem, claims(), {"kid": "first"}), "token_invalid", "name no user",
                   'no "preferred_username", which `[auth] user_claim` wants')
        checked = subprocess.run(
            [str(hub.process.args[0]), "--config", str(hub.directory / "wshubd.toml"), "--check"],
            env=hub.environment, capture_output=True, text=True, timeout=30,
        )
        assert checked.returncode == 0 and warned in checked.stderr, checked


@case("key rotation in the file: both keys, then the new one alone")
def rotation(_):
    with KeycloakHub(**PATIENT) as hub:
        old, new = KEYS["RSA"], Private(rsa.generate_private_key(65537, 2048))
        for how in ("ctl", "SIGHUP"):
            with hub.connect(token=of_keycloak("first", old)) as live:
                is_refused(hub, of_keycloak("second", new), "token_invalid", "no key", "is the JWK set older than the key?")
                hub.publish(("first", old), ("second", new))
                warnings = hub.reload(how)
                assert str(hub.set) in warnings and '"enc", is skipped' in warnings, warnings
                for token in (of_keycloak("first", old), of_keycloak("second", new)):
                    enters(hub, token)
                hub.publish(("second", new))
                hub.reload(how)
                enters(hub, of_keycloak("second", new))
                is_refused(hub, of_keycloak("first", old), "token_invalid", "no key", "is the JWK set older than the key?")
                same(live.until_pong(), [], "the live connection hears nothing of it")
                # To go on it takes a token of a key that is left.
                live.send({"action": "auth", "token": of_keycloak("first", old), "id": "old"})
                same(live.receive("auth_failed")["code"], "token_invalid")
                live.send({"action": "auth", "token": of_keycloak("second", new), "id": "new"})
                same(live.receive("auth_success")["user_id"], "ann")
            hub.publish(("first", old))
            hub.reload(how)


@case("a broken, empty or private set is refused by a reload")
def broken(_):
    with KeycloakHub(**PATIENT) as hub:
        good = hub.set.read_text()
        key = json.loads(good)["keys"][1]
        for text, message in [
            (good[: len(good) // 2], "it is no JWK set: "),
            ('{"keys": []}', "its JWK set is empty"),
            (json.dumps({"keys": [{**key, "use": "enc"}]}), 'its `use` is "enc"'),
            (json.dumps({"keys": [{**key, "d": "AQAB"}]}), "it holds a private key"),
            (json.dumps({"keys": [{**key, "e": "AQ"}]}), "its numbers are no key of RSA"),
            ("<html>502 Bad Gateway</html>", "it holds no public key of this kind in PEM"),
            ("", "is empty"),
        ]:
            write(hub.set, text, 0o644)
            done = hub.ctl("reload")
            assert done.returncode != 0 and message in done.stderr and str(hub.set) in done.stderr, (message, done)
            enters(hub, of_keycloak("first", KEYS["RSA"]))
        write(hub.set, good, 0o644)
        hub.reload("ctl")


@case("a single key without a kid takes tokens that name one")
def single(_):
    class Single(Hub):
        def prepare(self, config):
            write(self.directory / "key.pem", KEYS["ES256"].public, 0o644)
            return f'[auth]\nkeys = [{{ alg = "ES256", file = "{self.directory}/key.pem" }}]\nrequire_exp = false\n'

    with Single() as hub:
        for header in ({}, {"kid": "1yUEBB8bC"}):
            enters_three_ways(hub, by_pyjwt("ES256", KEYS["ES256"].pem, claims(), header))
        with hub.connect(token=by_pyjwt("ES256", KEYS["ES256"].pem, {"sub": "ann"}, {})) as wire:
            assert "expires_at" not in wire.hello, wire.hello
            same(wire.until_pong(), [], "nothing expires")
        shown = hub.ctl("token", "check", "--json", by_pyjwt("ES256", KEYS["ES256"].pem, {"sub": "ann"}, {"kid": "x"}))
        verdict = json.loads(shown.stdout)
        assert verdict["valid"] and "expires_at" not in verdict and '"x" is not looked at' in verdict["warnings"][0], verdict


@case("the documented lines make a token with the generated key")
def documented(_):
    protocol = (ROOT / "src/protocol/PROTOCOL.md").read_text()
    found = re.search(r"```sh\n(python3 -c 'import jwt.*?)```", protocol, re.S).group(1)
    page = subprocess.run(["man", "-l", str(ROOT / "packaging/man/wshubd.8")], env={**os.environ, "MANWIDTH": "200"},
                          capture_output=True, text=True, check=True).stdout
    shown = re.search(r"\$ (python3 -c 'import jwt.*?\"HS256\"\)\)')", page, re.S).group(1)
    python = str(Path(sys.executable).parent)
    with Hub() as hub:
        for line in (found, shown):
            line = line.replace("/etc/wshubd/jwt.key", str(hub.directory / "wshubd/jwt.key"))
            made = subprocess.run(["sh", "-c", line], env={**os.environ, "PATH": f"{python}:{os.environ['PATH']}"},
                                  capture_output=True, text=True, timeout=30)
            same(made.returncode, 0, made.stderr)
            enters(hub, made.stdout.strip(), "ada")


if __name__ == "__main__":
    run_cases()
