#!/usr/bin/env python3
"""Runs a program on a terminal of its own, as a person would.

on_terminal.py TRANSCRIPT [see REGEX | type TEXT | key NAME]... -- COMMAND...

see waits until that is shown, from where the last one ended; type types a line; key presses
interrupt (Ctrl-C) or end (Ctrl-D). Ends as the program does; 99: what was waited for was not shown.
"""
import os
import pty
import re
import select
import sys
import time

SECONDS = 30


class Terminal:
    def __init__(self, command, transcript):
        self.shown, self.seen, self.transcript = b"", 0, transcript
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvp(command[0], command)

    def read(self, seconds):
        """False: it has ended."""
        ready, _, _ = select.select([self.fd], [], [], seconds)
        if not ready:
            return True
        try:
            more = os.read(self.fd, 65536)
        except OSError:
            more = b""
        self.shown += more
        self.transcript.write(more)
        self.transcript.flush()
        return more != b""

    def see(self, pattern):
        until = time.monotonic() + SECONDS
        running = True
        while time.monotonic() < until:
            found = re.compile(pattern.encode()).search(self.shown, self.seen)
            if found:
                self.seen = found.end()
                return
            if not running:
                break
            running = self.read(0.2)
        os.close(self.fd)  # hangs up
        os.waitpid(self.pid, 0)
        print(f"not shown: {pattern}", file=sys.stderr)
        sys.exit(99)

    def end(self):
        until = time.monotonic() + SECONDS
        while self.read(0.2):
            if time.monotonic() > until:
                print("it does not end", file=sys.stderr)
                os.close(self.fd)
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def main():
    words = sys.argv[2:]
    split = words.index("--")
    steps, command = words[:split], words[split + 1:]
    with open(sys.argv[1], "wb") as transcript:
        terminal = Terminal(command, transcript)
        for verb, text in zip(steps[::2], steps[1::2]):
            if verb == "see":
                terminal.see(text)
            elif verb == "type":
                os.write(terminal.fd, text.encode() + b"\n")
            else:
                os.write(terminal.fd, {"interrupt": b"\x03", "end": b"\x04"}[text])
        sys.exit(terminal.end())


main()
