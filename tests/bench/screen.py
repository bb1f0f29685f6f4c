"""What a terminal shows: takes the bytes that ncurses writes to an xterm, and keeps the characters
of every cell.  A program writes only the cells that changed, so its bytes hold no whole words; the
screen does.  Colours, charsets, titles and double width are left out."""
import codecs
import re

CSI = re.compile(r"\x1b\[([0-?]*)[ -/]*([@-~])")
OSC = re.compile(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
CHARSET = re.compile(r"\x1b[()*+].")


class Screen:
    def __init__(self, columns, lines):
        self.columns, self.lines = columns, lines
        self.cells = [[" "] * columns for _ in range(lines)]
        self.x = self.y = 0
        self.top, self.bottom = 0, lines - 1  # the lines that scroll
        self.last = " "
        self.pending = ""  # a sequence whose end has not come
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def row(self, y):
        return "".join(self.cells[y])

    def text(self):
        return "\n".join(self.row(y).rstrip() for y in range(self.lines))

    def feed(self, data):
        text, i = self.pending + self.decoder.decode(data), 0
        while i < len(text):
            if text[i] == "\x1b":
                end = self.escape(text, i)
                if end is None:
                    break
                i = end
            else:
                self.character(text[i])
                i += 1
        self.pending = text[i:]

    def escape(self, text, i):
        """Where the sequence at i ends; None if it has not come yet."""
        for pattern in (CSI, OSC, CHARSET):
            match = pattern.match(text, i)
            if match:
                if pattern is CSI:
                    self.control(match[1], match[2])
                return match.end()
        if i + 1 == len(text) or text[i + 1] in "[]()*+":
            return None
        if text[i + 1] == "M":
            self.up()
        return i + 2

    def character(self, c):
        if c == "\r":
            self.x = 0
        elif c == "\n":
            self.down()
        elif c == "\b":
            self.x = max(0, min(self.x, self.columns - 1) - 1)
        elif c == "\t":
            self.x = min(self.columns - 1, (self.x // 8 + 1) * 8)
        elif c >= " ":
            self.put(c)

    def put(self, c):
        if self.x == self.columns:  # the wrap that the last column put off
            self.x = 0
            self.down()
        self.cells[self.y][self.x] = self.last = c
        self.x += 1

    def down(self):
        if self.y == self.bottom:
            self.scroll(self.top, 1)
        else:
            self.y = min(self.lines - 1, self.y + 1)

    def up(self):
        if self.y == self.top:
            self.scroll(self.top, -1)
        else:
            self.y = max(0, self.y - 1)

    def scroll(self, top, n):
        """Moves the lines from top to the region's end up by n; down if n is negative."""
        for _ in range(min(abs(n), self.lines)):
            self.cells.insert(self.bottom + 1 if n > 0 else top, [" "] * self.columns)
            del self.cells[top if n > 0 else self.bottom + 1]

    def erase(self, y, from_x, to_x):
        self.cells[y][from_x:to_x] = [" "] * (to_x - from_x)

    def erase_screen(self, mode, x):
        if mode != 1:
            self.erase(self.y, x if mode == 0 else 0, self.columns)
        else:
            self.erase(self.y, 0, x + 1)
        for y in range(self.lines):
            if (y > self.y and mode == 0) or (y < self.y and mode == 1) or mode >= 2:
                self.erase(y, 0, self.columns)

    def control(self, parameters, final):
        if parameters[:1] in ("?", ">", "<", "="):
            return
        numbers = [int(p) if p.isdigit() else 0 for p in parameters.split(";")]
        n, many = max(1, numbers[0]), (numbers + [0])[1]
        x, row = min(self.x, self.columns - 1), self.cells[self.y]
        if final in "Hf":
            self.y = min(n, self.lines) - 1
            self.x = min(max(1, many), self.columns) - 1
        elif final in "G`":
            self.x = min(n, self.columns) - 1
        elif final == "d":
            self.y = min(n, self.lines) - 1
        elif final == "A":
            self.y = max(0, self.y - n)
        elif final == "B":
            self.y = min(self.lines - 1, self.y + n)
        elif final == "C":
            self.x = min(self.columns - 1, x + n)
        elif final == "D":
            self.x = max(0, x - n)
        elif final == "Z":
            self.x = max(0, (x - 1) // 8 * 8)
        elif final == "J":
            self.erase_screen(numbers[0], x)
        elif final == "K":
            self.erase(self.y, 0 if numbers[0] else x, x + 1 if numbers[0] == 1 else self.columns)
        elif final == "X":
            self.erase(self.y, x, min(self.columns, x + n))
        elif final == "@":
            row[x:] = ([" "] * n + row[x:])[:self.columns - x]
        elif final == "P":
            row[x:] = (row[x + n:] + [" "] * self.columns)[:self.columns - x]
        elif final in "LM" and self.top <= self.y <= self.bottom:
            self.scroll(self.y, n if final == "M" else -n)
        elif final in "ST":
            self.scroll(self.top, n if final == "S" else -n)
        elif final == "r":
            self.top, self.bottom = n - 1, (many or self.lines) - 1
            self.x = self.y = 0
        elif final == "b":
            for _ in range(n):
                self.put(self.last)
