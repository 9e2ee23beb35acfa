"""Many subscribers that keep up, in one process: it collects bytes first, and parses them when there is time.

They connect, reconnect after a crash with the last position that they received, and acknowledge. What they ought to receive
is decided in `received_positions`.
"""

import multiprocessing
import select
import time
from array import array

from ws_client import Refused, Silence

# The kernel's buffer of a subscriber that does not read at once.
ROOM = 4 << 20
# More than this is parsed while it comes: a machine has no room for all of a saturated second.
MOST_COLLECTED = 96 << 20
# Nothing is sent any more, and for so long nothing has arrived: all is there.
QUIET = 0.15
LONGEST_DRAIN = 6.0
PROCESSES = multiprocessing.get_context("fork")


class PooledSubscriber:
    """One listener's connection, with what came and is not parsed yet."""

    def __init__(self, door, listener):
        self.door, self.listener, self.wire, self.chunks, self.left = door, listener, None, [], b""

    def connect(self):
        listener = self.listener
        try:
            self.wire = self.door.connect(listener.user, established=False, path=f"/ws?inbox={listener.mode}", rcvbuf=ROOM)
            for request in listener.connected():
                self.wire.send(request)
        except (OSError, Refused, Silence, EOFError) as e:
            self.wire = None
            return isinstance(e, Refused)
        except Exception:  # the link was cut while it came
            self.wire = None
            return False
        self.wire.sock.setblocking(False)
        self.chunks, self.left = [self.wire.buffer], b""
        return True

    def read(self):
        """Collects what is there; how much, or None at the end of the link."""
        size = 0
        while size < ROOM:
            try:
                chunk = self.wire.sock.recv(1 << 20)
            except BlockingIOError:
                return size
            except OSError:
                return None
            if not chunk:
                return None
            self.chunks.append(chunk)
            size += len(chunk)
        return size

    def parse(self):
        data, self.chunks = self.left + b"".join(self.chunks), []
        self.left = self.listener.receive(data)

    def acknowledge(self):
        """Acknowledges the inbox now and then: that needs the frames to be parsed."""
        self.parse()
        if self.listener.inbox and "@me" in self.listener.readings:
            epoch, seq = self.listener.inbox
            try:
                self.wire.send({"action": "ack", "epoch": epoch, "seq": seq})
            except OSError:
                pass
            self.wire.sock.setblocking(False)

    def close(self):
        self.parse()
        if self.wire:
            self.wire.close()
        self.wire = None


class Room:
    """The loop of the process: the connections, and the commands of the suite."""

    def __init__(self, door, listeners, suite):
        self.seats, self.suite, self.places = [PooledSubscriber(door, listener) for listener in listeners], suite, {}
        read = {}
        for listener in listeners:
            listener.places, listener.read = self.places, read
        self.poll, self.by_number, self.collected, self.cut = select.epoll(), {}, 0, 0
        self.poll.register(suite.fileno(), select.EPOLLIN)
        self.waiting, self.acknowledged = list(self.seats), time.monotonic()

    def come(self):
        """Connects the absent ones; a daemon that is being started is tried again soon."""
        for seat in list(self.waiting):
            if not seat.connect() or seat.wire is None:
                return
            self.waiting.remove(seat)
            self.by_number[seat.wire.sock.fileno()] = seat
            self.poll.register(seat.wire.sock.fileno(), select.EPOLLIN)

    def go(self, seat):
        number = seat.wire.sock.fileno()
        self.poll.unregister(number)
        del self.by_number[number]
        seat.close()
        self.cut += seat.listener.ended is None
        self.waiting.append(seat)

    def turn(self):
        """Reads what came in one turn; whether the suite has sent a command."""
        came, spoken = 0, False
        for number, _ in self.poll.poll(0.05 if not self.waiting else 0.01):
            if number == self.suite.fileno():
                spoken = True
                continue
            size = self.by_number[number].read()
            if size is None:
                self.go(self.by_number[number])
            else:
                came += size
        self.collected += came
        if self.collected > MOST_COLLECTED:
            self.parse()
        if time.monotonic() - self.acknowledged > 0.1:
            self.acknowledged = time.monotonic()
            for seat in self.by_number.values():
                if seat.listener.mode == "ack":
                    seat.acknowledge()
        return came, spoken

    def parse(self):
        for seat in self.by_number.values():
            seat.parse()
        self.collected = 0

    def run(self):
        self.come()
        self.suite.send(len(self.by_number))
        spoken = False
        while not spoken:
            _, spoken = self.turn()
            self.come()
        self.suite.recv()
        end = last_read = time.monotonic()
        while (now := time.monotonic()) - last_read < QUIET and now - end < LONGEST_DRAIN:
            if self.waiting:
                self.come()
            if self.turn()[0]:
                last_read = time.monotonic()
        stayed = list(self.by_number.values())
        self.parse()
        for seat in stayed:
            seat.listener.stayed()
            seat.close()
        for seat in self.seats:
            seat.listener.gaps_that_others_received()
        self.suite.send(([seat.listener.without_places() for seat in self.seats], self.places_as_lists(), self.cut))
        self.suite.recv()


    def places_as_lists(self):
        return {place: (array("Q", received), array("Q", received.values())) for place, received in self.places.items()}


def _process(door, listeners, suite):
    Room(door, listeners, suite).run()


class SubscriberPool:
    """The process, as the suite sees it: there after `start`, and over after `leave`, which returns what was received."""

    def __init__(self, door, listeners):
        self.here, there = PROCESSES.Pipe()
        self.process = PROCESSES.Process(target=_process, args=(door, listeners, there), daemon=True)
        self.process.start()
        there.close()
        assert self.here.poll(20), "the subscribers were not connected within 20 s"
        self.connected = self.here.recv()

    def leave(self, within=60):
        """The subscribers; what they received, by log and epoch; how many connections ended without a close."""
        self.here.send("over")
        assert self.here.poll(within), f"the subscribers have not come to an end within {within} s"
        came = self.here.recv()
        self.here.send("thanks")
        self.process.join(10)
        return came

    def kill(self):
        self.process.kill()
        self.process.join()
