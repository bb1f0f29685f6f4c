#!/usr/bin/env python3
"""What the workbench costs a terminal.

    terminal.py PROGRAM
        time to the first frame, bytes while idle, and the echo of a key while the engine prefills
    terminal.py PROGRAM --model FOLDER --context FILE --context-tokens N [--backend B] [--keys N]
        one JSON line: the echo of a key while that model prefills that much, and the time until
        the screen says that the run is cancelled
"""
import argparse
import fcntl
import json
import os
import pty
import re
import select
import signal
import statistics
import string
import struct
import sys
import tempfile
import termios
import time

from screen import Screen

COLUMNS, LINES = 120, 40
LETTERS = string.ascii_letters + string.digits
STATUS = re.compile(r"(starting|no model|loading|ready|tokenize|prefill|question|decode|stopping|"
                    r"partial|done|ENGINE ERROR)[ 0-9.%smh]*$")
PREFILL = re.compile(r"prefill +(\d+)%")
# What docs/benchmarks.md promises.
ECHO_MS, CANCEL_MS = 50, 200


class Terminal:
    def __init__(self, program, args):
        self.home = tempfile.TemporaryDirectory()
        self.screen = Screen(COLUMNS, LINES)
        self.ended = False
        self.started = time.monotonic()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
            os.environ.update(TERM="xterm-256color", LC_ALL="C.UTF-8", HOME=self.home.name)
            for name in ("XDG_STATE_HOME", "SSH_CONNECTION", "NO_COLOR"):
                os.environ.pop(name, None)
            os.execv(program, [program, *args])

    def read(self, seconds):
        """The bytes that come next, and when they came; none after so long, or at the end."""
        if self.ended or not select.select([self.fd], [], [], seconds)[0]:
            return b"", time.monotonic()
        try:
            got = os.read(self.fd, 65536)
        except OSError:  # the program has ended
            got = b""
        now = time.monotonic()
        self.ended = not got
        self.screen.feed(got)
        return got, now

    def wait(self, shown, seconds):
        """Reads until shown(screen) is true; the time when the bytes for it came, or None."""
        now = time.monotonic()
        end = now + seconds
        while not shown(self.screen):
            if self.ended or now >= end:
                return None
            _, now = self.read(end - now)
        return now

    def count(self, seconds):
        """The number of bytes that come in so long."""
        n, now = 0, time.monotonic()
        end = now + seconds
        while now < end and not self.ended:
            got, now = self.read(end - now)
            n += len(got)
        return n

    def press(self, keys):
        """Returns when it was pressed."""
        now = time.monotonic()
        os.write(self.fd, keys)
        return now

    def close(self):
        os.kill(self.pid, signal.SIGTERM)
        self.count(5)
        if not self.ended:
            os.kill(self.pid, signal.SIGKILL)
        os.close(self.fd)
        os.waitpid(self.pid, 0)
        self.home.cleanup()


class Failed(Exception):
    pass


def need(terminal, shown, seconds, what):
    """As wait, but what does not come is a failure."""
    at = terminal.wait(shown, seconds)
    if at is None:
        raise Failed(f"{what} did not come; the screen shows:\n{terminal.screen.text()}")
    return at


def status(screen):
    """The end of the first line: "ready", "prefill 12% 3.4s", "done 0.1s" ..."""
    match = STATUS.search(screen.row(0).rstrip())
    return match[0] if match else ""


def prefill_percent(screen):
    match = PREFILL.search(status(screen))
    return int(match[1]) if match else None


def start_prefill(terminal, load_s):
    need(terminal, lambda s: "ready" in status(s), load_s, "the loaded model")
    terminal.press(b"r")
    need(terminal, lambda s: prefill_percent(s) is not None, 10, "the prefill's progress")
    terminal.press(b"i")
    need(terminal, lambda s: "Esc normal" in s.text(), 5, "the prompt")


def echoes_ms(terminal, n_keys, burst):
    """Types keys into the prompt, a burst of them whenever the progress is drawn anew, each when
    the last is seen.  Ends with the prefill, if that is sooner."""
    times, typed, progress = [], "", None
    while len(times) < n_keys:
        terminal.wait(lambda s: status(s) != progress, 5)
        progress = status(terminal.screen)
        for _ in range(min(burst, n_keys - len(times))):
            if prefill_percent(terminal.screen) is None:
                return times
            key = LETTERS[len(times) % len(LETTERS)]
            typed += key
            sent = terminal.press(key.encode())
            line = "> " + typed
            at = need(terminal, lambda s: any(line in s.row(y) for y in range(LINES)), 10,
                      f"the key {key}")
            times.append((at - sent) * 1e3)
    return times


def cancel(terminal):
    """Milliseconds until the screen says that the run stops, and until it has."""
    sent = terminal.press(b"\x03")
    stopping = need(terminal, lambda s: re.search("stopping|partial", status(s)), 10, "stopping")
    partial = need(terminal, lambda s: "partial" in status(s), 10, "partial")
    return (stopping - sent) * 1e3, (partial - sent) * 1e3


def check_model(arguments):
    result = {"check": "echo", "ok": False, "context_tokens": arguments.context_tokens}
    terminal = Terminal(arguments.program, [
        arguments.model, "--backend", arguments.backend, "--context", arguments.context,
        "--max-context", str(arguments.context_tokens), "--keep", "head", "--question", "Who?",
        "--stack", "sink:128,local:5%", "--max-tokens", "16"])
    try:
        start_prefill(terminal, 15)
        result["percent_at_first_key"] = prefill_percent(terminal.screen)
        times = echoes_ms(terminal, arguments.keys, burst=8)
        if times:
            result.update(keys=len(times), median_ms=round(statistics.median(times), 1),
                          largest_ms=round(max(times), 1))
        result["percent_at_cancel"] = prefill_percent(terminal.screen)
        if result["percent_at_cancel"] is None:
            raise Failed(f"the prefill was over after {len(times)} keys: give it more tokens")
        stopping_ms, cancelled_ms = cancel(terminal)
        result.update(stopping_ms=round(stopping_ms, 1), cancelled_ms=round(cancelled_ms, 1))
        result["ok"] = max(times) <= ECHO_MS and cancelled_ms <= CANCEL_MS
    except Failed as why:
        result["why"] = str(why).split(";")[0]
        print(why, file=sys.stderr)
    terminal.close()
    print(json.dumps(result))
    return 0 if result["ok"] else 1


def measure_embedded(program):
    frames = []
    for _ in range(5):
        terminal = Terminal(program, [])
        at = need(terminal, lambda s: "F1" in s.row(LINES - 1), 5, "the first frame")
        frames.append((at - terminal.started) * 1e3)
        need(terminal, lambda s: "ready" in status(s), 5, "the loaded model")
        terminal.count(1)
        idle = terminal.count(3)
        terminal.close()
    print("first frame, ms:", " ".join(f"{f:.0f}" for f in sorted(frames)))
    print("idle for 3 s, bytes:", idle)

    terminal = Terminal(program, ["--sample", "facts-12k", "--stack", "sink:4,local:64"])
    start_prefill(terminal, 5)
    times = echoes_ms(terminal, 60, burst=8)
    print(f"key echo while prefilling, ms, of {len(times)}: median {statistics.median(times):.0f}, "
          f"worst {max(times):.0f}")
    terminal.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program")
    parser.add_argument("--model", help="folder of the model that prefills")
    parser.add_argument("--context", help="file of at least so many tokens")
    parser.add_argument("--context-tokens", type=int)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--keys", type=int, default=100)
    arguments = parser.parse_args()
    if not arguments.model:
        measure_embedded(arguments.program)
        return 0
    if not arguments.context or not arguments.context_tokens:
        parser.error("--model needs --context and --context-tokens")
    return check_model(arguments)


if __name__ == "__main__":
    sys.exit(main())
