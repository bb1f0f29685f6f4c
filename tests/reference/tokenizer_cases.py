"""Strings that a tokenizer may get wrong, from a fixed seed: shared by the two scripts beside it."""
import random
import unicodedata

SCALARS_END = 0x110000
WORDS = ("the of and to in is it for with attention sparse dense don't we'll I've they're it's "
         "Straße naïve façade coöperate Ångström résumé São Øresund İstanbul ĲSSEL ﬁne ＡＢＣ "
         "supercalifragilisticexpialidocious antidisestablishmentarianism").split()
CODE = ["int main(int argc, char **argv)\n{\n    return 0;\n}\n",
        "def f(x):\n\tif x != 0:\n\t\treturn x**2\n\n\n", "for (;;) { i += 1; } // done\r\n",
        "SELECT * FROM t WHERE a >= 1.5e-3;", "<div class=\"a\">&nbsp;</div>\n",
        "x = [i for i in range(10)]  # list\n", "#include <stdio.h>\n\n", "\\frac{1}{2}\\\\ $x^2$",
        "https://example.org/a/b?c=1&d=%20#e", "a->b->c; p = &q[3];", "{\"k\": [1, null, true]}"]
SCRIPTS = [(0x4E00, 0x9FFF), (0x3040, 0x30FF), (0xAC00, 0xD7A3), (0x0600, 0x06FF),
           (0x0900, 0x097F), (0x0E00, 0x0E7F), (0x0400, 0x04FF), (0x0370, 0x03FF),
           (0x0590, 0x05FF), (0x1F300, 0x1FAFF), (0x20000, 0x2A6DF), (0x1D400, 0x1D7FF),
           (0x2000, 0x206F), (0x1100, 0x11FF), (0x0300, 0x036F), (0xFF00, 0xFFEF)]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", "\u00a0", "\u2003", "\u3000", "\u0085",
          "\u2028", "\u200b", "\v", "\f", "\u1680", "\u180e", "\ufeff", " \n", "\n "]
EMOJI = ["\U0001F600", "\U0001F468\u200d\U0001F469\u200d\U0001F467", "\U0001F1E9\U0001F1EA",
         "\u2764\ufe0f", "\U0001F44D\U0001F3FD", "\U0001FAE8", "\U0001FACE", "1\ufe0f\u20e3"]
TRICKY = ["'s", "'S", "'ſ", "it'ſx", "'ll", "'LL", "'Re", "'d've", "1234567", "½¾", "٣٤", "Ⅷ",
          "²³", "a  b", "\u2581", "\u2581\u2581a", "Ġ", "Ċ", "<0x0A>", "<0xZZ>", "\u00ad", "\x00",
          "\x7f", "\ufffd", "\uffff", "\U0010ffff", "e\u0301", "\u1e9b\u0323", "\u212b", "\ufb01",
          "\U00011938", "\U00011935\U00011930", "\u0344", "\U0001d15f", "\uac00", "\u1100\u1161"]
MARKS = [chr(c) for c in range(SCALARS_END)
         if not 0xD800 <= c <= 0xDFFF and unicodedata.combining(chr(c))]


def scalar(rng):
    while True:
        c = rng.randrange(SCALARS_END)
        if not 0xD800 <= c <= 0xDFFF:
            return chr(c)


def in_script(rng):
    first, last = rng.choice(SCRIPTS)
    return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 6)))


def marks(rng):
    return rng.choice("aeoAEOnu가") + "".join(rng.choice(MARKS) for _ in range(rng.randint(1, 8)))


def number(rng):
    return rng.choice(["{}", "-{}", "{}.5", "${}", "{},000", "0x{:x}", "{}%"]).format(
        rng.randrange(10 ** rng.randint(1, 18)))


def long_word(rng):
    unit = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 9)))
    return unit * rng.randint(2, 20)


def chat(rng, specials):
    if not specials:
        return "user: hi\n"
    token = rng.choice(specials)
    return rng.choice(["{}user\nHello{}\n", "{} {}", " {}{} ", "a{}b{}", "{}\n\n{}"]).format(
        token, rng.choice(specials))


def piece(rng, specials):
    kind = rng.randrange(14)
    if kind <= 2:
        return rng.choice(["", " ", " "]) + rng.choice(WORDS)
    if kind == 3:
        return rng.choice(CODE)
    if kind == 4:
        return "".join(scalar(rng) for _ in range(rng.randint(1, 5)))
    if kind == 5:
        return in_script(rng)
    if kind == 6:
        return marks(rng)
    if kind == 7:
        return rng.choice(SPACES) * rng.randint(1, 5)
    if kind == 8:
        return number(rng)
    if kind == 9:
        return long_word(rng)
    if kind == 10:
        return rng.choice(EMOJI)
    if kind == 11:
        return rng.choice(TRICKY)
    if kind == 12:
        return chat(rng, specials)
    return "".join(chr(rng.randint(32, 126)) for _ in range(rng.randint(1, 12)))


def text(rng, specials):
    return "".join(piece(rng, specials) for _ in range(rng.choice([1, 2, 3, 4, 6, 10])))


def texts(n, specials, seed=20240607):
    rng = random.Random(seed)
    return [text(rng, specials) for _ in range(n)]


def scalars():
    return [chr(c) for c in range(SCALARS_END) if not 0xD800 <= c <= 0xDFFF]
