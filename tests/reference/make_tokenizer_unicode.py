#!/usr/bin/env python3
"""Writes engine/text/unicode_tables.c: where the reference's Unicode versions differ from ours.

The `tokenizers` package carries its own Unicode data: its regular expressions, normal forms,
letter case, numbers and punctuation each follow another version of Unicode.  This script asks the
package about every code point and writes down what Unicode 14 (Python 3.11, Oniguruma 6.9.8) and
utf8proc say otherwise.

    python3.11 tests/reference/make_tokenizer_unicode.py > engine/text/unicode_tables.c
    clang-format -i engine/text/unicode_tables.c
"""
import unicodedata
from collections import defaultdict

from tokenizers import Regex, normalizers
from tokenizers.pre_tokenizers import Digits, Punctuation, Split

assert unicodedata.unidata_version == "14.0.0", "the baseline is Unicode 14: use Python 3.11"
SCALARS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cf").split()


def matching(pattern, candidates):
    """The candidates that the reference's regular expressions match."""
    split = Split(Regex(pattern), "isolated")
    return {c for c in candidates if len(split.pre_tokenize_str(f"\x01{chr(c)}\x01")) > 1}


def splitting(pre_tokenizer):
    return {c for c in SCALARS if len(pre_tokenizer.pre_tokenize_str(f"a{chr(c)}a")) > 1}


def properties(code_points):
    """code point -> (category, is Han, is Alphabetic, UTF-8 length), as the reference sees it."""
    category = {}
    for name in CATEGORIES:
        for c in matching(r"\p{%s}" % name, code_points):
            category[c] = name
    han = matching(r"\p{Han}", code_points)
    alphabetic = matching(r"\p{Alphabetic}", code_points)
    return {c: (name, c in han, c in alphabetic, len(chr(c).encode()))
            for c, name in category.items()}


def ranges(values):
    """{code point: value} -> [first, last, value], adjacent equal ones joined."""
    out = []
    for c in sorted(values):
        if out and out[-1][1] == c - 1 and out[-1][2] == values[c]:
            out[-1][1] = c
        else:
            out.append([c, c, values[c]])
    return out


def table(name, values):
    print(f"\nconst struct code_range {name}[] = {{")
    for first, last, value in ranges(values):
        print(f"    {{0x{first:X}, 0x{last:X}, {value}}},")
    print(f"}};\nconst int {name}_n = sizeof {name} / sizeof {name}[0];")


def stand_ins():
    assigned = [c for c in SCALARS if unicodedata.category(chr(c)) not in ("Cn", "Co", "Cc")]
    unassigned = [c for c in SCALARS if unicodedata.category(chr(c)) == "Cn"]
    known = defaultdict(list)
    for c, props in properties(assigned).items():
        known[props].append(c)
    newer = properties(unassigned)
    out = {}
    for c, props in newer.items():
        if c - 1 in out and newer[c - 1] == props:
            out[c] = out[c - 1]
        else:
            out[c] = min(known[props], key=lambda old: abs(old - c))
    return out


def unknown_to_normal_forms(newer):
    nfd, nfkd = normalizers.NFD(), normalizers.NFKD()
    out = {}
    for c in SCALARS:
        char = chr(c)
        ccc = unicodedata.combining(char)
        decomposes = unicodedata.normalize("NFKD", char)
        if c in newer or (ccc == 0 and decomposes == char):
            continue
        reorders = (nfd.normalize_str("\u0345" + char) != "\u0345" + nfd.normalize_str(char)
                    or nfd.normalize_str(char + "\u0334") != nfd.normalize_str(char) + "\u0334")
        if decomposes != char and nfkd.normalize_str(char) != decomposes:
            out[c] = 0
            if unicodedata.normalize("NFD", char) != char:
                out.update({ord(part): 0 for part in unicodedata.normalize("NFD", char)})
        elif ccc and decomposes == char and not reorders:
            out[c] = 0
    return out


def main():
    newer = stand_ins()
    numbers = splitting(Digits(individual_digits=True))
    punctuation = splitting(Punctuation())
    ours = {c for c in SCALARS if unicodedata.category(chr(c)).startswith("P")}
    lower = {c: normalizers.Lowercase().normalize_str(chr(c)) for c in SCALARS if c != 0x130}
    print("/* Where the Unicode data of the `tokenizers` library is not that of Oniguruma 6.9.8 and\n"
          " * utf8proc 2.8.  Made by tests/reference/make_tokenizer_unicode.py; see the header. */\n"
          '#include "engine/text/unicode_tables.h"')
    table("unicode_stand_ins", newer)
    table("unicode_no_normal_form", unknown_to_normal_forms(newer))
    table("unicode_newer_numbers",
          {c: 0 for c in numbers if not unicodedata.category(chr(c)).startswith("N")})
    table("unicode_not_punctuation", {c: 0 for c in ours - punctuation})
    table("unicode_old_punctuation", {c: 0 for c in punctuation - ours if c >= 0x80})
    table("unicode_newer_lowercase",
          {c: ord(text) - c for c, text in lower.items() if text != chr(c).lower()})


if __name__ == "__main__":
    main()
