#!/usr/bin/env python3
"""Asks the same of a model in two processes, dense and by sparse stacks, and holds the two runs
against each other: token ids, and the log-probabilities to the last bit.  Prints one JSON line.

    repeat.py PROGRAM MODEL --context FILE [--context-tokens N] [--steps N] [--backend B]
"""
import argparse
import json
import subprocess
import sys

STACKS = ("sink:128,local:5%", "random:5%:share=group", "oracle-topk:5%")


def run(arguments):
    """Of every lane, the (id, logprob) of its tokens, and how it ended."""
    command = [arguments.program, "ask", arguments.model, "--backend", arguments.backend,
               "--context", arguments.context, "--max-context", str(arguments.context_tokens),
               "--keep", "head", "--question", "And then?", "--max-tokens", str(arguments.steps),
               "--temperature", "0", "--jsonl"]
    for stack in STACKS:
        command += ["--stack", stack]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    lanes = [{"tokens": [], "finish": None} for _ in range(1 + len(STACKS))]
    for line in done.stdout.splitlines():
        event = json.loads(line)
        if event["ev"] == "tok":
            lanes[event["lane"]]["tokens"].append((event["id"], event["logprob"]))
        elif event["ev"] == "done":
            lanes[event["lane"]]["finish"] = event["finish"]
    return done.returncode, lanes


def first_difference(a, b):
    """The index of the first token where the two differ; None: nowhere."""
    for i, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return i
    return None if len(a) == len(b) else min(len(a), len(b))


def compare(name, first, second):
    a, b = first["tokens"], second["tokens"]
    return {"stack": name, "steps": len(a), "finish": first["finish"],
            "distinct_tokens": len({i for i, _ in a}),
            "first_other_token": first_difference([i for i, _ in a], [i for i, _ in b]),
            "first_other_logprob": first_difference(a, b)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--context", required=True)
    parser.add_argument("--context-tokens", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--backend", default="cuda")
    arguments = parser.parse_args()
    (code, first), (code_again, second) = run(arguments), run(arguments)
    lanes = [compare(name, a, b) for name, a, b in zip(("dense", *STACKS), first, second)]
    ok = code == code_again == 0 and all(
        lane["steps"] == arguments.steps and lane["first_other_token"] is None for lane in lanes)
    print(json.dumps({"check": "repeat", "ok": ok, "exit_codes": [code, code_again],
                      "context_tokens": arguments.context_tokens, "lanes": lanes}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
