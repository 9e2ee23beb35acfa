"""State, keys and secrets that survive the process, and the machine."""

from machine import ROOT, Machine
from harness import case, run_cases, same

CREDENTIALS = """[Service]
LoadCredential=jwt.key:/etc/wshubd/jwt.key
LoadCredential=broadcast.secret:/etc/wshubd/broadcast.secret
"""


@case("the dynamic user exists only at runtime, state is private")
def user(hub):
    same(hub.run("stat", "-c", "%a", "/var/lib/private/wshubd").stdout.strip(), "700")
    same(hub.run("id", "-u", "wshubd").returncode, 0)
    uid = hub.path(f"/proc/{hub.main()}/status").read_text().split("\nUid:")[1].split()[0]
    same(hub.run("id", "-u", "wshubd").stdout.strip(), uid)
    assert 61184 <= int(uid) <= 65519, uid
    return f"uid {uid}"


@case("kept messages, key and secret survive a restart")
def restart(hub):
    token = hub.token("ann")
    hub.run("wshubctl", "pub", "--to", "ann", "later")
    hub.ctl("restart", "wshubd")
    with hub.connect(token=token) as ann:
        ann.receive("message", data="later")
    same(hub.post("/broadcast", {"channel": "c", "event": "e"}).status, 200)


@case("credentials only root can read are used, restarts close none")
def credentials(hub):
    key, secret = b"k" * 40, "s3cret-s3cret-s3cret"
    hub.write("/etc/wshubd/jwt.key", key.decode(), mode=0o600)
    hub.write("/etc/wshubd/broadcast.secret", secret + "\n", mode=0o600)
    with hub.edited(CREDENTIALS):
        hub.connect(token=hub.token("ann", key=key)).close()
        same(hub.post("/broadcast", {"channel": "c", "event": "e"}, secret=secret).status, 200)
        same(hub.post("/broadcast", {"channel": "c", "event": "e"}).status, 401)
        with hub.connect(token=hub.token("ann", key=key)) as ann:
            hub.ctl("restart", "wshubd")
            hub.run("wshubctl", "pub", "--to", "ann", "still here")
            ann.receive("message", data="still here")


@case("the README's commands for own keys work")
def typed(hub):
    blocks = (ROOT / "README.md").read_text().split("```sh\n")[1:]
    block, = [text for text in (block.split("```")[0] for block in blocks) if "LoadCredential=" in text]
    for name in ("jwt.key", "broadcast.secret"):
        hub.path(f"/etc/wshubd/{name}").unlink(missing_ok=True)
    with hub.subscriber("news") as ann:
        hub.run("bash", "-eu", "-c", block)
        hub.run("wshubctl", "pub", "news", "still here")
        ann.receive("message", data="still here")
    key, secret = (hub.path(f"/etc/wshubd/{name}").read_bytes().strip() for name in ("jwt.key", "broadcast.secret"))
    same(hub.run("stat", "-c", "%U %a", "/etc/wshubd/jwt.key", "/etc/wshubd/broadcast.secret").stdout, "root 600\n" * 2)
    hub.connect(token=hub.token("ann", key=key)).close()
    same(hub.post("/broadcast", {"channel": "c", "event": "e"}, secret=secret.decode()).status, 200)
    same(hub.post("/broadcast", {"channel": "c", "event": "e"}).status, 401)
    # Only the daemon itself can show this: what root reads is not what the daemon reads.
    checked = hub.run("wshubd", "--check", check=False)
    same((checked.returncode, checked.stderr), (0, ""))
    assert "not tried: writing to the state directory /var/lib/wshubd, which systemd opens to the unit alone\n" in checked.stdout, checked
    hub.write("/etc/wshubd/wshubd.toml", "[auth]\nkeys = [{ alg = 'HS256', file = '/etc/wshubd/jwt.key' }]\n")
    checked = hub.run("wshubd", "--check", check=False)
    same(checked.returncode, 78)
    assert "/etc/wshubd/jwt.key: cannot be read: Permission denied" in checked.stderr, checked
    assert "; `LoadCredential=jwt.key:/etc/wshubd/jwt.key` in its unit passes it" in checked.stderr, checked
    hub.drop_in("", name="keys")
    hub.fresh()


@case("a missing credential stops the start and is named")
def missing(hub):
    hub.path("/etc/wshubd/jwt.key").unlink(missing_ok=True)
    hub.drop_in(CREDENTIALS)
    failed = hub.ctl("restart", "wshubd", check=False)
    status = hub.ctl("status", "wshubd", check=False).stdout
    hub.fresh()
    assert failed.returncode != 0 and "CREDENTIALS" in status, status
    same(hub.post("/broadcast", {"channel": "c", "event": "e"}).status, 200)


@case("after a reboot the daemon is started and state is there")
def reboot(hub):
    hub.run("wshubctl", "pub", "--durable", "letters", "over a boot")
    hub.reboot()
    same(hub.show("ActiveState"), "active")
    received = hub.run("wshubctl", "sub", "-n", "1", "letters").stdout
    assert "over a boot" in received, received


run_cases(Machine)
