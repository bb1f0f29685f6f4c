#!/usr/bin/env python3
"""What every preset keeps and loses on the embedded model, as a table in markdown.

usage: presets.py ATTNSCOPE [--backend cpu|cuda] [SAMPLE ...]     (needle-4k and facts-12k)

Kept: questions whose answer is the dense one, of all.  Density, recall (softmax mass on kept keys)
and error (of the attention's output, relative) are means over questions, layers and steps.
"""
import json
import subprocess
import sys


def presets(program):
    out = subprocess.run([program, "stacks"], capture_output=True, text=True, check=True).stdout
    lines = out[out.index("Presets") :].split("\n\n")[0].splitlines()[1:]
    names = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    return [name for name in names if name != "dense"]


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def ask(program, sample, stacks, options):
    command = [program, "ask", "--sample", sample, "--json", *options]
    for stack in stacks:
        command += ["--stack", stack]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def row(questions, lane):
    lanes = [question["lanes"][lane] for question in questions]
    dense = [question["lanes"][0] for question in questions]
    layers = [layer for one in lanes for layer in one["layers"]]
    kept = sum(a["answer"] == b["answer"] for a, b in zip(lanes, dense))
    return (
        f"{kept} of {len(lanes)} | {100 * mean(one['density'] for one in lanes):.1f} % | "
        f"{mean(layer['recall'] for layer in layers):.3f} | "
        f"{mean(layer['output_error'] for layer in layers):.3f} | "
        f"{mean(one['jaccard'] for one in lanes):.2f}"
    )


def main():
    arguments = sys.argv[1:]
    options = []
    if "--backend" in arguments:
        at = arguments.index("--backend")
        options = arguments[at : at + 2]
        del arguments[at : at + 2]
    program, samples = arguments[0], arguments[1:] or ["needle-4k", "facts-12k"]
    names = presets(program)
    rows = {name: [] for name in names}
    for sample in samples:
        for first in range(0, len(names), 4):
            some = names[first : first + 4]
            questions = ask(program, sample, some, options)["questions"]
            for i, name in enumerate(some):
                rows[name].append(row(questions, i + 1))
    titles = " | ".join(f"{sample}: kept | density | recall | error | Jaccard" for sample in samples)
    print(f"| preset | {titles} |")
    print("|---" * (1 + 5 * len(samples)) + "|")
    for name in names:
        print(f"| `{name}` | {' | '.join(rows[name])} |")


if __name__ == "__main__":
    main()
