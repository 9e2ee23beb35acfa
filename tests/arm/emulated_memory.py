"""Memory of an emulated 32-bit program, without that of its emulator.

qemu-user maps the four gigabytes that such a program can address as one run of mappings, most of which are inaccessible;
the kernel reports their contents.
"""

import re

HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ")
# Where the emulator gives the program the same addresses as its own, the first pages are not among them.
NEARLY_FOUR_GIB = (4 << 30) - (64 << 10)


class Mapping:
    def __init__(self, begin, end, rights):
        self.begin, self.end, self.rights, self.kib = begin, end, rights, {}


def _mappings(pid):
    found = []
    with open(f"/proc/{pid}/smaps") as smaps:
        for line in smaps:
            header = HEADER.match(line)
            if header:
                found.append(Mapping(int(header[1], 16), int(header[2], 16), header[3]))
            elif line.startswith(("Rss:", "Anonymous:")):
                name, size = line.split(":")
                found[-1].kib[name] = int(size.split()[0])
    return found


def _run_of_four_gib(mappings):
    run = []
    for mapping in mappings:
        if run and run[-1].end != mapping.begin:
            run = []
        run.append(mapping)
        if mapping.end - run[0].begin >= NEARLY_FOUR_GIB:
            return run
    raise AssertionError("nothing spans four gigabytes: is it a program of 32 bits, in qemu-user?")


def memory(pid):
    """KiB of address space that can be used, of it what is in memory, and of that what is no file's."""
    mappings = [m for m in _run_of_four_gib(_mappings(pid)) if m.rights != "---p"]
    space = sum(m.end - m.begin for m in mappings) // 1024
    return space, sum(m.kib["Rss"] for m in mappings), sum(m.kib["Anonymous"] for m in mappings)
