#!/usr/bin/env python3
"""As check_tokenizers.py, over small tokenizers of every shape and with every part.

    check_tokenizer_shapes.py BUILD/tests/tokenize_lines [STRINGS [PREFIX]]

PREFIX picks shapes by the beginning of their names.  The shapes cuts_* have ids that show every
cut of the pre-tokenizer, bytes_* every byte of the normalizer; these also get every scalar value,
alone and between two letters.
"""
import os
import sys
import tempfile

from check_tokenizers import check
from tokenizer_shapes import shapes


def main():
    n = int(sys.argv[2]) if len(sys.argv) > 2 else 20000
    prefix = sys.argv[3] if len(sys.argv) > 3 else ""
    results = []
    with tempfile.TemporaryDirectory() as top:
        for name, text in shapes().items():
            if not name.startswith(prefix):
                continue
            folder = os.path.join(top, name)
            os.mkdir(folder)
            with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as file:
                file.write(text)
            results.append(check(sys.argv[1], folder, n, name.startswith(("cuts_", "bytes_"))))
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
