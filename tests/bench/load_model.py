#!/usr/bin/env python3
"""Loads a checkpoint of Llama-3.1-8B's shape (random weights, 16 GB, written to a temporary folder)
and tells how fast it loaded from the warm page cache and what host memory it took.

    load_model.py PROGRAM [FOLDER]
"""
import json
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time

DIM, FFN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 4096, 14336, 32, 32, 8, 128, 128256


def tensors():
    yield "model.embed_tokens.weight", (VOCAB, DIM)
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (DIM,)
        yield p + "self_attn.q_proj.weight", (HEADS * HEAD_DIM, DIM)
        yield p + "self_attn.k_proj.weight", (KV_HEADS * HEAD_DIM, DIM)
        yield p + "self_attn.v_proj.weight", (KV_HEADS * HEAD_DIM, DIM)
        yield p + "self_attn.o_proj.weight", (DIM, HEADS * HEAD_DIM)
        yield p + "post_attention_layernorm.weight", (DIM,)
        yield p + "mlp.gate_proj.weight", (FFN, DIM)
        yield p + "mlp.up_proj.weight", (FFN, DIM)
        yield p + "mlp.down_proj.weight", (DIM, FFN)
    yield "model.norm.weight", (DIM,)
    yield "lm_head.weight", (VOCAB, DIM)


def write(folder):
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": DIM,
              "intermediate_size": FFN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
              "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "vocab_size": VOCAB,
              "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 131072,
              "tie_word_embeddings": False, "torch_dtype": "bfloat16", "hidden_act": "silu"}
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f)
    header, at = {}, 0
    for name, shape in tensors():
        n = 2
        for size in shape:
            n *= size
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # bf16 numbers of about +-0.02: exponents near 2^-6, random mantissas and signs.
    random.seed(1)
    block = bytearray(random.randbytes(8 << 20))
    for i in range(1, len(block), 2):
        block[i] = block[i] & 0x80 | 0x3C
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        left = at
        while left:
            left -= f.write(block[:left] if left < len(block) else block)
    return at


def main():
    program = sys.argv[1]
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        n_bytes = write(folder)
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
