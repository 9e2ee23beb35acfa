"""Received positions: the checks on what a subscriber receives, and one ledger of all positions of a run.

The promises about `epoch` and `seq`: a position stands for one message for ever; one subscription receives ascending
positions; what is missing between two of them was announced in a `gap`; `recovered: true` leaves nothing out. Bytes are
collected first and parsed later, so that a subscriber keeps up with a saturated daemon.
"""

import json
import re
import zlib
from array import array

# Every frame of the hub begins like this, and no message of these suites contains it: the heads of WebSocket frames in
# between need not be read.
FRAME = b'{"type":"'
CHANNEL = re.compile(rb'message","channel":"([^"]*)"')
# The end of a message as the hub writes it; the last byte shows that the number was whole when the link was cut.
TAIL = re.compile(rb'"message_id":"([^"]*)","timestamp":"[^"]*"(?:,"seq":(\d+))?[,}]')
LONGEST_TAIL = 420
# Where a run of messages ends that is parsed once for all subscribers with the same bytes.
BOUNDARY = re.compile(rb'"timestamp":"[^"]*","seq":\d*00[,}]')
MOST_KNOWN = 2000
DECODER = json.JSONDecoder()


def parsed(piece):
    """A frame as an object; None where its end is missing."""
    try:
        return DECODER.raw_decode((FRAME + piece).decode("utf-8", "replace"))[0]
    except ValueError:
        return None


def fingerprint(message_id, piece):
    """Distinguishes messages: the id and the beginning of the data."""
    start = piece.find(b'"data":')
    return zlib.crc32(message_id) | zlib.crc32(piece[start : start + 40]) << 32


class Reading:
    """One subscription, or the inbox of one connection: its position, and the faults in what it received."""

    def __init__(self, log, epoch, at, expected):
        self.log, self.epoch, self.at = log, epoch, at
        # The position that has to come next; None: any.
        self.expected, self.last, self.gap_due, self.gaps, self.hole = expected, 0, False, [], None
        # Up to where `recovered: true` has promised all of it.
        self.owed = 0
        # seq -> message, of this log and epoch.
        self.places = None

    def gap(self, got):
        self.gap_due = False
        if got.get("cause") == "epoch":
            # What the epoch before had between what is kept and what is new was never given out in this one.
            self.expected = self.at + 1 if self.epoch == got["epoch"] else None
            self.epoch, self.last, self.places = got["epoch"], 0, None
        elif "from_seq" in got:
            self.gaps.append((got["from_seq"], got["to_seq"]))

    def unreported(self, first, last):
        """The first of these positions without a gap; None where all are announced."""
        for begin, end in sorted(gap for gap in self.gaps if gap[1] >= first):
            if begin > first:
                break
            first = max(first, end + 1)
        return first if first <= last else None

    def message(self, seq):
        """The fault in receiving this position now, if there is one."""
        wrong, self.hole = None, None
        if self.gap_due:
            wrong = "recovered: false, and no gap came before it"
        elif seq <= self.last and self.unreported(seq, seq):
            wrong = f"it came after {self.last} on the same connection"
        elif self.expected is not None and seq > self.expected and (missing := self.unreported(self.expected, seq - 1)):
            self.hole = missing, seq
        self.last, self.gap_due = seq, False
        # The undelivered backlog has holes: others have received what is missing there.
        if self.expected is None or seq >= self.expected:
            self.expected = seq + 1
        if not self.log.startswith("@"):
            self.gaps = [gap for gap in self.gaps if gap[1] > seq]
        return wrong


class Listener:
    """What one subscriber receives over all its connections; it reconnects with the last position received."""

    def __init__(self, user, mode, channels):
        self.user, self.mode, self.channels = user, mode, channels
        # (log, epoch) -> seq -> message; one book for all listeners of a process.
        self.places, self.read = {}, {}
        # channel -> (epoch, seq) to reconnect with; inboxes need none.
        self.positions = {}
        self.faults, self.began, self.readings, self.tops = [], [], {}, {}
        # Positions from, up to, that were left out without a gap: (log, epoch, from, up to).
        self.holes = []
        self.inbox = None
        self.ended, self.runs = None, None
        self.gaps, self.messages = {}, 0

    def connected(self):
        """A new connection begins; the requests to send on it."""
        self.readings, self.asked, self.ended = {}, dict(self.positions), None
        for channel in self.channels:
            since = self.asked.get(channel)
            yield {"action": "subscribe", "channel": channel, **({"since": {"epoch": since[0], "seq": since[1]}} if since else {})}

    def fault(self, text):
        if len(self.faults) < 5:
            self.faults.append(f"{self.user}: {text}")

    def receive(self, data):
        """Takes bytes in; what is left of them is a frame that is not whole yet."""
        begin = 0
        for end in BOUNDARY.finditer(data):
            block, begin = data[begin : end.end()], end.end()
            runs = self.read.get(block)
            if runs is None or not self._same_as_others(runs):
                self._block(block)
        *whole, last = data[begin:].split(FRAME)
        for piece in whole[1:]:
            self._piece(piece)
        if whole:
            # Behind a whole frame the beginning of the next one may have come in part.
            last = last[1 - len(FRAME) :] if self._piece(last) else FRAME + last
        self._settle()
        return last

    def _same_as_others(self, runs):
        """All subscribers get the same bytes: whether these go on from this position, as they did for the first subscriber."""
        for channel, (epoch, first, *_) in runs.items():
            reading = self.readings.get(channel)
            if reading is None or reading.gap_due or (reading.epoch, reading.expected) != (epoch, first):
                return False
        for channel, (_, _, last, count) in runs.items():
            reading = self.readings[channel]
            reading.last, reading.expected = last, last + 1
            self.messages += count
        return True

    def _block(self, block):
        """Some frames, read one by one. What is remembered of them: for each channel the run of positions, if it is one."""
        self.runs = {}
        for piece in block.split(FRAME)[1:]:
            self._piece(piece)
        if self.runs:
            if len(self.read) >= MOST_KNOWN:
                self.read.clear()
            self.read[block] = self.runs
        self.runs = None

    def _piece(self, piece):
        """One frame without its beginning; whether it was whole."""
        if piece.startswith(b"message"):
            return self._message(piece)
        if (got := parsed(piece)) is None:
            return False
        self._frame(got["type"], got)
        return True

    def _frame(self, kind, got):
        self.runs = None
        if kind == "connection_established" and self.mode != "off" and "inbox" in got:
            inbox = got["inbox"]
            self._begin(Reading("@" + self.user, inbox["epoch"], inbox["seq"], None), "@me")
        elif kind == "subscription_succeeded":
            self._subscribed(got)
        elif kind == "gap":
            reading = self.readings.get(got.get("channel"))
            if reading is None:
                return self.fault(f"a gap of a channel that it does not hear: {got}")
            self._settle()
            reading.gap(got)
            cause = got.get("cause")
            self.gaps[cause] = self.gaps.get(cause, 0) + 1
        elif kind == "bye":
            self.ended = got
        elif kind == "error":
            self.fault(f"is refused: {got}")

    def _begin(self, reading, channel):
        self._settle()
        self.readings[channel] = reading
        self.began.append((reading.log, reading.epoch, reading.at))
        highest = self.tops.get((reading.log, reading.epoch), 0)
        if reading.at < highest:
            self.fault(f"{reading.log} is at seq {reading.at} of epoch {reading.epoch}, and {highest} of it was heard before: it is given out again")

    def _subscribed(self, got):
        channel, since = got["channel"], self.asked.pop(got["channel"], None)
        recovered, is_history = got.get("recovered"), channel.startswith("history")
        # Live only, behind a backlog that may have holes.
        expected = got["seq"] + 1
        if recovered is True:
            expected = since[1] + 1
            if since[0] not in ("", got["epoch"]):
                self.fault(f"{channel}: recovered: true for epoch {since[0]} in epoch {got['epoch']}")
        elif recovered is False and since[0] == got["epoch"] and is_history:
            expected = since[1] + 1
        elif recovered is False and is_history:
            expected = None
        reading = Reading(channel, got["epoch"], got["seq"], expected)
        reading.gap_due = recovered is False and since[0] != ""
        self._begin(reading, channel)
        if recovered is True:
            # What has to follow, if the link lasts.
            reading.owed = got["seq"]

    def _message(self, piece):
        tail = TAIL.search(piece, max(0, len(piece) - LONGEST_TAIL))
        if tail is None or (tail[2] is None and not tail[0].endswith(b"}")):
            return False
        if tail[2] is not None:
            self._enter_received(CHANNEL.match(piece)[1].decode(), int(tail[2]), fingerprint(tail[1], piece), tail[1])
        return True

    def _enter_received(self, channel, seq, mark, message_id):
        self.messages += 1
        reading = self.readings.get(channel)
        if reading is None:
            return self.fault(f"a message of {channel}, which it does not hear")
        if seq == reading.expected and not reading.gap_due:
            reading.last, reading.expected = seq, seq + 1
            if self.runs is not None and channel != "@me":
                epoch, first, _, count = self.runs.get(channel, (reading.epoch, seq, seq, 0))
                self.runs[channel] = epoch, first, seq, count + 1
        else:
            self.runs = None
            if wrong := reading.message(seq):
                self.fault(f"{reading.log}, epoch {reading.epoch}, seq {seq}: {wrong}")
            if reading.hole and len(self.holes) < 100:
                self.holes.append((reading.log, reading.epoch, *reading.hole))
        if reading.places is None:
            reading.places = self.places.setdefault((reading.log, reading.epoch), {})
        if reading.places.setdefault(seq, mark) != mark:
            self.runs = None
            self.fault(f"{reading.log}, epoch {reading.epoch}, seq {seq} stands for two messages; the later one is {message_id.decode()}")

    def _settle(self):
        """Notes how far it has come: where it begins again, and what must not be given out again."""
        for channel, reading in self.readings.items():
            if reading.last:
                place = (reading.log, reading.epoch)
                self.tops[place] = max(reading.last, self.tops.get(place, 0))
                if channel == "@me":
                    self.inbox = (reading.epoch, reading.last)
                else:
                    self.positions[channel] = (reading.epoch, reading.last)

    def without_places(self):
        self.places, self.read = {}, {}
        return self

    def gaps_that_others_received(self):
        """A loss that was not announced, and that others received, is a fault; whether the rest ever existed is unknown here."""
        holes, self.holes = self.holes, []
        for log, epoch, first, end in holes:
            received = self.places.get((log, epoch), {})
            if missing := next((seq for seq in range(first, min(end, first + 20_000)) if seq in received), None):
                self.fault(f"{log}, epoch {epoch}: {missing}, which others heard, is left out before {end}, and no gap tells of it")
            else:
                self.holes.append((log, epoch, first, end))

    def stayed(self):
        """What is wrong at the end of a connection that was read to its end: what `recovered: true` promised has come."""
        for reading in self.readings.values():
            owed = reading.owed
            behind = reading.unreported(reading.expected or owed + 1, owed)
            if behind:
                self.fault(f"{reading.log}: recovered: true at seq {owed}, and it ended before {behind} came")


class PositionLedger:
    """All positions received in a run, with the message of each and the round in which it was first received."""

    def __init__(self):
        self.marks, self.rounds, self.count = {}, {}, 0

    def received_between(self, place, first, end):
        """A position in a range that was received; None where none was."""
        marks = self.marks.get(place, ())
        return next((seq for seq in range(first, min(end, len(marks))) if marks[seq]), None)

    def enter(self, number, place, seqs, marks):
        """Enters the positions received in one log and epoch; their faults."""
        known = self.marks.setdefault(place, array("Q"))
        rounds = self.rounds.setdefault(place, array("H"))
        if seqs and (missing := max(seqs) + 1 - len(known)) > 0:
            known.frombytes(bytes(8 * missing))
            rounds.frombytes(bytes(2 * missing))
        for seq, mark in zip(seqs, marks):
            if not known[seq]:
                known[seq], rounds[seq] = mark, number
                self.count += 1
            elif known[seq] != mark:
                return f"{place[0]}, epoch {place[1]}: seq {seq} was heard in round {rounds[seq]} as one message, and in round {number} as another"
        return None
