#!/usr/bin/env python3
"""Loads a checkpoint of Llama-3.1-8B's shape (random weights, 16 GB, written to a temporary folder)
and tells how fast it loaded from the warm page cache and what host memory it took.

    load_model.py PROGRAM [FOLDER]
"""
import resource
import subprocess
import sys
import tempfile
import time

import random_checkpoint


def main():
    program = sys.argv[1]
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        n_bytes = random_checkpoint.write(folder, random_checkpoint.shape_of("llama-3.1-8b"))
        for attempt in range(2):
            start = time.monotonic()
            run = subprocess.run([program, "debug", "logits", folder, "--tokens", "1,2,3",
                                  "--positions", "2", "--backend", "cuda", "--json"],
                                 stdout=subprocess.PIPE, check=False)
            seconds = time.monotonic() - start
            print(f"load_and_one_forward_s {seconds:.2f}  gb_per_s {n_bytes / seconds * 1e-9:.2f}  "
                  f"exit {run.returncode}  peak_host_mib "
                  f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f}", flush=True)


if __name__ == "__main__":
    main()
