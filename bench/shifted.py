#!/usr/bin/env python3
"""What would cutting files by their content save, against pages and whole aligned chunks?

For a file that was written anew, three ways to send it, each in bytes before compression:

  pages    what differs from the file's old version at the same 4 KiB page, less whole, aligned
           chunks of 64 KiB that were anywhere in the old tree (what repl does)
  content  chunks cut by a rolling hash of the bytes (gear, as in FastCDC: 64 KiB on average,
           16 to 256 KiB) that were nowhere in the old tree
  16 KiB   the same, 16 KiB on average, 4 to 64 KiB

and for a set of files, what sending each small file (up to 64 KiB) only once would save.

  bench/shifted.py shifted OLD NEW [OLD NEW ...]
  bench/shifted.py small DIRECTORY [DIRECTORY ...]
"""
import hashlib
import os
import random
import sys

PAGE, CHUNK = 4096, 65536
random.seed(1)
GEAR = [random.getrandbits(64) for _ in range(256)]


def cut(data, average):
    """Ends of content-defined chunks."""
    least, most, mask = average // 4, average * 4, (average - 1) << 20
    at, size = 0, len(data)
    while at < size:
        end, stop, value = at + least, min(at + most, size), 0
        while end < stop:
            value = (value << 1) + GEAR[data[end]] & 0xFFFFFFFFFFFFFFFF
            end += 1
            if not value & mask:
                break
        end = min(end, size)
        yield at, end
        at = end


def digest(data):
    return hashlib.blake2b(data, digest_size=16).digest()


def pages(old, new):
    known = {digest(old[i:i + CHUNK]) for i in range(0, len(old) - CHUNK + 1, CHUNK)}
    sent = 0
    for at in range(0, len(new), CHUNK):
        chunk = new[at:at + CHUNK]
        if len(chunk) == CHUNK and digest(chunk) in known:
            continue
        for page in range(0, len(chunk), PAGE):
            if chunk[page:page + PAGE] != old[at + page:at + page + PAGE]:
                sent += len(chunk[page:page + PAGE])
    return sent


def content(old, new, average):
    known = {digest(old[a:b]) for a, b in cut(old, average)}
    sent = 0
    for a, b in cut(new, average):
        name = digest(new[a:b])
        if name not in known:
            sent += b - a
            known.add(name)
    return sent


def shifted(paths):
    print(f"{'file':28} {'bytes':>12} {'pages':>12} {'content':>12} {'16 KiB':>12}")
    for old_path, new_path in zip(paths[::2], paths[1::2]):
        with open(old_path, "rb") as old_file, open(new_path, "rb") as new_file:
            old, new = old_file.read(), new_file.read()
        print(f"{os.path.basename(new_path):28} {len(new):12} {pages(old, new):12} "
              f"{content(old, new, 65536):12} {content(old, new, 16384):12}")


def small(directories):
    for top in directories:
        total = all_small = again = 0
        seen = set()
        for directory, _, names in os.walk(top):
            for name in names:
                path = os.path.join(directory, name)
                if os.path.islink(path) or not os.path.isfile(path):
                    continue
                size = os.path.getsize(path)
                total += size
                if not 0 < size <= CHUNK:
                    continue
                with open(path, "rb") as file:
                    key = digest(file.read())
                all_small += size
                if key in seen:
                    again += size
                seen.add(key)
        print(f"{top}: {total} bytes, {all_small} in files of up to 64 KiB, "
              f"{again} of them a second time ({100 * again / max(total, 1):.1f} % of all)")


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("shifted", "small"):
        sys.exit(__doc__)
    {"shifted": shifted, "small": small}[sys.argv[1]](sys.argv[2:])
