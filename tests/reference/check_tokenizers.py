#!/usr/bin/env python3
"""Holds our tokenizer against the `tokenizers` package: ids and decoded text, string by string.

    check_tokenizers.py BUILD/tests/tokenize_lines [--strings N] [--scalars] FOLDER...

Needs `pip install tokenizers`.  Compared per folder: the ids of N varied strings (100,000) with
special tokens recognised, and as plain text with BOS and EOS; the text of those ids with and
without special tokens; the text of N / 2 random runs of ids; with --scalars also every one of the
1,112,064 Unicode scalar values, alone and between letters.  Ends with 1 at the first differences, which it prints.
"""
import argparse
import json
import os
import random
import struct
import subprocess
import sys

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizer_cases import scalars, texts

PLAIN, SPECIAL, ADD_BOS_EOS = 0, 1, 2


def load_reference(folder):
    path = os.path.join(folder, "tokenizer.json")
    if os.path.exists(path):
        return Tokenizer.from_file(path)
    tokenizer = Tokenizer(models.BPE.from_file(os.path.join(folder, "vocab.json"),
                                               os.path.join(folder, "merges.txt")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    return tokenizer


def special_texts(folder):
    path = os.path.join(folder, "tokenizer.json")
    if not os.path.exists(path):
        return ["<|endoftext|>"]
    with open(path, encoding="utf-8") as file:
        return [t["content"] for t in json.load(file)["added_tokens"]][:40]


def ask(driver, folder, requests):
    """Sends all requests; returns the raw answers, lists of ids or bytes."""
    data = b"".join(op + struct.pack("<II", flags, n) + payload
                    for op, flags, n, payload in requests)
    done = subprocess.run([driver, folder], input=data, stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"{driver} {folder}: ended with {done.returncode}")
    out, at, answers = done.stdout, 0, []
    for op, _, _, _ in requests:
        n, = struct.unpack_from("<I", out, at)
        at += 4
        if op == b"E":
            answers.append(list(struct.unpack_from(f"<{n}i", out, at)))
            at += 4 * n
        else:
            answers.append(out[at:at + n].decode("utf-8"))
            at += n
    return answers


def encode_request(string, flags):
    data = string.encode("utf-8")
    return b"E", flags, len(data), data


def decode_request(ids, skip_special):
    return b"D", int(skip_special), len(ids), struct.pack(f"<{len(ids)}i", *ids)


def report(name, inputs, got, want):
    bad = [(i, g, w) for i, g, w in zip(inputs, got, want) if g != w]
    print(f"  {name}: {len(inputs):,} compared, {len(bad):,} differ", flush=True)
    for text, g, w in bad[:5]:
        print(f"    input {text!r:.300}\n    got   {g!r:.300}\n    want  {w!r:.300}")
    return not bad


def in_chunks(items, size=20000):
    return [items[i:i + size] for i in range(0, len(items), size)]


def encode_all(reference, strings, add_special_tokens):
    out = []
    for chunk in in_chunks(strings):
        out += [e.ids for e in reference.encode_batch(chunk, add_special_tokens=add_special_tokens)]
    return out


def check(driver, folder, n, with_scalars):
    print(folder)
    reference = load_reference(folder)
    strings = texts(n, special_texts(folder))
    ok = True

    ids = encode_all(reference, strings, False)
    got = ask(driver, folder, [encode_request(s, SPECIAL) for s in strings])
    ok &= report("ids, special tokens recognised", strings, got, ids)

    reference.encode_special_tokens = True
    plain = encode_all(reference, strings, True)
    reference.encode_special_tokens = False
    got = ask(driver, folder, [encode_request(s, PLAIN | ADD_BOS_EOS) for s in strings])
    ok &= report("ids, plain text with BOS and EOS", strings, got, plain)

    rng = random.Random(n)
    vocab_size = reference.get_vocab_size()
    runs = [[rng.randrange(vocab_size + 3) for _ in range(rng.randint(0, 24))] for _ in range(n // 4)]
    first = min(vocab_size, 800)  # special tokens, and the bytes of SentencePiece vocabularies
    runs += [[rng.randrange(first) for _ in range(rng.randint(0, 24))] for _ in range(n // 4)]
    for name, lists in (("text of these ids", ids), ("text of random ids", runs)):
        for skip in (False, True):
            want = reference.decode_batch(lists, skip_special_tokens=skip)
            got = ask(driver, folder, [decode_request(i, skip) for i in lists])
            ok &= report(f"{name}, {'without' if skip else 'with'} special tokens", lists, got, want)

    if with_scalars:
        for name, singles in (("", scalars()), (" between letters", [f"a{c}a" for c in scalars()])):
            got = ask(driver, folder, [encode_request(s, SPECIAL) for s in singles])
            want = encode_all(reference, singles, False)
            ok &= report(f"ids of every scalar value{name}", singles, got, want)
    return ok


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("driver")
    parser.add_argument("--strings", type=int, default=100000)
    parser.add_argument("--scalars", action="store_true")
    parser.add_argument("folders", nargs="+")
    args = parser.parse_args()
    results = [check(args.driver, folder, args.strings, args.scalars) for folder in args.folders]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
