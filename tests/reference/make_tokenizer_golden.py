#!/usr/bin/env python3
"""Writes tests/golden/tokenizers: what the `tokenizers` package makes of varied strings.

    make_tokenizer_golden.py [SHARED]

One folder per tokenizer with cases.jsonl, a case a line: "text"; "ids", special tokens recognised;
"plain", the ids as plain text with BOS and EOS, if other; "decoded", the text of "ids" without
special tokens, if other than "text".  The small tokenizers of tokenizer_shapes.py lie beside their
cases; embedded is that of presets/model; those of SHARED/tokenizers are not part of the project.
"""
import json
import os
import sys

from check_tokenizers import load_reference, special_texts
from tokenizer_cases import texts
from tokenizer_shapes import shapes

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GOLDEN = os.path.join(ROOT, "tests", "golden", "tokenizers")
SHAPES = ("llama3 qwen smollm tekken cl100k roberta llama2 gemma metaspace metaspace_first affixes "
          "lowercase punctuation").split()


def write_cases(name, folder, n):
    reference = load_reference(folder)
    os.makedirs(os.path.join(GOLDEN, name), exist_ok=True)
    with open(os.path.join(GOLDEN, name, "cases.jsonl"), "w", encoding="utf-8") as file:
        for text in texts(n, special_texts(folder), seed=7):
            if "\0" in text:  # our JSON reader refuses it
                continue
            case = {"text": text}
            case["ids"] = reference.encode(text, add_special_tokens=False).ids
            reference.encode_special_tokens = True
            plain = reference.encode(text).ids
            reference.encode_special_tokens = False
            decoded = reference.decode(case["ids"], skip_special_tokens=True)
            if plain != case["ids"]:
                case["plain"] = plain
            if decoded != text:
                case["decoded"] = decoded
            file.write(json.dumps(case, ensure_ascii=False, separators=(",", ":")) + "\n")


def main():
    trained = shapes()
    for name in SHAPES:
        folder = os.path.join(GOLDEN, name)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as file:
            file.write(trained[name] + "\n")
        write_cases(name, folder, 80)
    write_cases("embedded", os.path.join(ROOT, "presets", "model"), 1200)
    if len(sys.argv) > 1:
        for name in ("gpt2", "pythia", "mistral-v0.3"):
            write_cases(name, os.path.join(sys.argv[1], "tokenizers", name), 300)


if __name__ == "__main__":
    main()
