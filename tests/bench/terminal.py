#!/usr/bin/env python3
"""What the workbench costs a terminal: time to the first frame, bytes while idle, and the echo of a
key while the engine prefills.   terminal.py ATTNSCOPE"""
import fcntl, os, pty, select, struct, sys, tempfile, termios, time

program = sys.argv[1]


class Terminal:
    def __init__(self, args, columns=80, lines=24):
        self.home = tempfile.TemporaryDirectory()
        self.started = time.monotonic()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", LC_ALL="C.UTF-8", HOME=self.home.name)
            os.environ.pop("XDG_STATE_HOME", None)
            os.execv(program, [program, *args])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self, seconds, until=None):
        """Reads for so long, or until bytes `until` have come; returns (bytes, seconds)."""
        got, start = b"", time.monotonic()
        while time.monotonic() - start < seconds:
            if until and until in got:
                break
            if select.select([self.fd], [], [], 0.005)[0]:
                try:
                    got += os.read(self.fd, 65536)
                except OSError:  # the program has ended
                    break
        return got, time.monotonic() - start

    def close(self):
        os.write(self.fd, b"\x03")
        time.sleep(0.3)
        os.write(self.fd, b"q")
        self.read(0.5)
        os.close(self.fd)
        os.waitpid(self.pid, 0)


frames = []
for _ in range(5):
    t = Terminal([])
    t.read(5, b"F1")
    frames.append((time.monotonic() - t.started) * 1e3)
    t.read(1)
    idle, _ = t.read(3)
    t.close()
print("first frame, ms:", " ".join(f"{f:.0f}" for f in sorted(frames)))
print("idle for 3 s, bytes:", len(idle))

t = Terminal(["--sample", "facts-12k", "--stack", "sink:4,local:64"])
t.read(3, b"ready")
os.write(t.fd, b"r")
t.read(0.3)
os.write(t.fd, b"i")
t.read(0.2)
echoes = []
for key in b"bcdfghjkmnpqvwxz":
    sent = time.monotonic()
    os.write(t.fd, bytes([key]))
    t.read(1, bytes([key]))
    echoes.append((time.monotonic() - sent) * 1e3)
print(f"key echo while prefilling, ms: median {sorted(echoes)[8]:.0f}, worst {max(echoes):.0f}")
os.write(t.fd, b"\x1b")
t.close()
