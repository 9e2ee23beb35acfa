"""An NBD server: a disk with a volatile write cache that is lost when the power goes.

A disk must keep the writes before a FLUSH that it has answered, and those marked FUA; it may lose all others, each sector
of them by itself. Killing a virtual machine alone shows nothing, since its host has what it wrote by then; here what was
not flushed is lost.
"""

import random
import socket
import struct
import subprocess
import tempfile
import threading
import time

SECTOR = 512
MAGIC, OPTION_MAGIC, REPLY_MAGIC = b"NBDMAGIC", b"IHAVEOPT", 0x3E889045565A9
EXPORT_NAME, ABORT, GO = 1, 2, 7
ACK, INFO, UNSUPPORTED = 1, 3, 2**31 + 1
READ, WRITE, DISCONNECT, FLUSH = 0, 1, 2, 3
FUA = 1
# What the disk can do: flags, flush, FUA.
FLAGS = 1 | 4 | 8


class WriteCacheDisk:
    def __init__(self, path, content, rng: random.Random):
        """`path`: of the Unix socket on which it is offered; `content`: what is on it."""
        self.rng, self.lock = rng, threading.Lock()
        self.safe, self.seen = bytearray(content), bytearray(content)
        self.unflushed, self.on = [], False
        self.writes = self.flushes = self.lost = 0
        # A flush takes its time, so that a daemon that does not wait for it is detected.
        self.slowest_flush = 0.01
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def power_on(self):
        with self.lock:
            self.unflushed, self.on = [], True

    def power_off(self):
        """From here on nothing is answered. Of what was not flushed, some sectors were written, and some were not."""
        with self.lock:
            self.on = False
            survive = self.rng.choice([lambda _: False, lambda _: True, lambda _: self.rng.random() < 0.5, self._up_to_here()])
            for offset, data in self.unflushed:
                for at in range(0, len(data), SECTOR):
                    if survive(offset):
                        self.safe[offset + at : offset + at + SECTOR] = data[at : at + SECTOR]
                    else:
                        self.lost += 1
            self.unflushed = []
            self.seen = bytearray(self.safe)

    def repair(self):
        """Has its file system checked, as a machine does that boots."""
        with tempfile.NamedTemporaryFile() as file:
            file.write(self.safe)
            file.flush()
            # 1: what was wrong is right now.
            checked = subprocess.run(["e2fsck", "-f", "-y", file.name], capture_output=True, text=True)
            assert checked.returncode in (0, 1), f"e2fsck: {checked.stdout}{checked.stderr}"
            file.seek(0)
            with self.lock:
                self.safe[:] = file.read()
                self.seen = bytearray(self.safe)

    def _up_to_here(self):
        """Writes in the order in which they came, up to a random one."""
        left = self.rng.randrange(1 + sum(-(-len(data) // SECTOR) for _, data in self.unflushed))

        def survives(_):
            nonlocal left
            left -= 1
            return left >= 0

        return survives

    def _serve(self):
        while True:
            peer, _ = self.listener.accept()
            threading.Thread(target=self._guard, args=(peer,), daemon=True).start()

    def _guard(self, peer):
        with peer:
            try:
                if self._negotiate(peer):
                    while self._request(peer):
                        pass
            except (ConnectionError, EOFError):
                pass  # the machine is gone

    def _negotiate(self, peer):
        peer.sendall(MAGIC + OPTION_MAGIC + struct.pack("!H", 1 | 2))
        (flags,) = struct.unpack("!I", exactly(peer, 4))
        while True:
            magic, option, length = struct.unpack("!8sII", exactly(peer, 16))
            assert magic == OPTION_MAGIC, magic
            exactly(peer, length)
            if option == EXPORT_NAME:
                peer.sendall(struct.pack("!QH", len(self.seen), FLAGS) + (b"" if flags & 2 else bytes(124)))
                return True
            if option == GO:
                peer.sendall(reply(option, INFO, struct.pack("!HQH", 0, len(self.seen), FLAGS)) + reply(option, ACK))
                return True
            peer.sendall(reply(option, ACK if option == ABORT else UNSUPPORTED))
            if option == ABORT:
                return False

    def _request(self, peer):
        magic, flags, kind, handle, offset, length = struct.unpack("!IHHQQI", exactly(peer, 28))
        assert magic == 0x25609513, hex(magic)
        data = exactly(peer, length) if kind == WRITE else b""
        if kind == DISCONNECT:
            return False
        if kind == FLUSH or flags & FUA:
            time.sleep(self.rng.uniform(0, self.slowest_flush))
        with self.lock:
            if not self.on:
                return False
            error, answer = self._do(kind, flags, offset, length, data)
            peer.sendall(struct.pack("!IIQ", 0x67446698, error, handle) + answer)
        return True

    def _do(self, kind, flags, offset, length, data):
        if kind == READ:
            return 0, bytes(self.seen[offset : offset + length])
        if kind == WRITE:
            self.writes += 1
            self.seen[offset : offset + length] = data
            if flags & FUA:
                self.safe[offset : offset + length] = data
            else:
                self.unflushed.append((offset, data))
            return 0, b""
        if kind == FLUSH:
            self.flushes += 1
            for at, written in self.unflushed:
                self.safe[at : at + len(written)] = written
            self.unflushed = []
            return 0, b""
        return 22, b""  # EINVAL


def reply(option, kind, data=b""):
    return struct.pack("!QIII", REPLY_MAGIC, option, kind, len(data)) + data


def exactly(peer, count):
    taken = b""
    while len(taken) < count:
        more = peer.recv(count - len(taken))
        if not more:
            raise EOFError
        taken += more
    return taken
