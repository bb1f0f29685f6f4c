#!/usr/bin/env python3
"""Writes a llama's model folder with random weights, for what needs a model from disk.

    random_checkpoint.py FOLDER SHAPE [--layers N] [--tokenizer FOLDER] [--hollow]

Answers end at their limit only: the one id that ends them is no id of the vocabulary.
"""
import argparse
import json
import os
import random
import shutil
import struct

# `narrow` spends on attention what the 8B does, and holds only 1 GB.  No one GPU holds the 405B.
KEYS = ("layers", "dim", "ffn", "heads", "kv_heads", "head_dim", "vocab")
SHAPES = {"narrow": (32, 1024, 2048, 32, 8, 128, 8192),
          "llama-3.1-8b": (32, 4096, 14336, 32, 8, 128, 128256),
          "llama-3.1-405b": (126, 16384, 53248, 128, 8, 128, 128256)}
MAX_SEQ_LEN = 1 << 22
ONE = b"\x80\x3f"  # bf16, little-endian


def shape_of(name):
    return dict(zip(KEYS, SHAPES[name]))


def tensors(shape):
    dim, ffn = shape["dim"], shape["ffn"]
    q_dim, kv_dim = (shape[n] * shape["head_dim"] for n in ("heads", "kv_heads"))
    yield "model.embed_tokens.weight", (shape["vocab"], dim)
    for i in range(shape["layers"]):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (dim,)
        yield p + "self_attn.q_proj.weight", (q_dim, dim)
        yield p + "self_attn.k_proj.weight", (kv_dim, dim)
        yield p + "self_attn.v_proj.weight", (kv_dim, dim)
        yield p + "self_attn.o_proj.weight", (dim, q_dim)
        yield p + "post_attention_layernorm.weight", (dim,)
        yield p + "mlp.gate_proj.weight", (ffn, dim)
        yield p + "mlp.up_proj.weight", (ffn, dim)
        yield p + "mlp.down_proj.weight", (dim, ffn)
    yield "model.norm.weight", (dim,)
    yield "lm_head.weight", (shape["vocab"], dim)


def config(shape):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "hidden_size": shape["dim"], "intermediate_size": shape["ffn"],
            "num_hidden_layers": shape["layers"], "num_attention_heads": shape["heads"],
            "num_key_value_heads": shape["kv_heads"], "head_dim": shape["head_dim"],
            "vocab_size": shape["vocab"], "eos_token_id": shape["vocab"],
            "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": MAX_SEQ_LEN,
            "tie_word_embeddings": False, "torch_dtype": "bfloat16", "hidden_act": "silu"}


def random_block(high_byte):
    """bf16 numbers of random signs and mantissas, the exponents' upper bits as in high_byte.  Of
    odd length, so that no two matrices are made of the same part of it."""
    block = bytearray(random.Random(high_byte).randbytes((8 << 20) + 2 * 4099))
    signed = bytes(byte & 0x80 | high_byte for byte in range(256))
    block[1::2] = block[1::2].translate(signed)
    return memoryview(block)


def high_byte_of(name):
    """Matrices of about 0.02, but embeddings of about 1 and wide scores: the next token depends on
    the last one and on single keys, so that greedy answers do not end in one word for ever."""
    if "embed_tokens" in name:
        return 0x3F
    return 0x3D if "q_proj" in name or "k_proj" in name else 0x3C


def write_weights(file, shape):
    """Matrices from the blocks, round and round; the norms' vectors are ones."""
    blocks = {high_byte: random_block(high_byte) for high_byte in (0x3C, 0x3D, 0x3F)}
    at = 0
    for name, sizes in tensors(shape):
        if len(sizes) == 1:
            file.write(ONE * sizes[0])
            continue
        block = blocks[high_byte_of(name)]
        left = 2 * sizes[0] * sizes[1]
        while left:
            n = file.write(block[at:at + left])
            left, at = left - n, (at + n) % len(block)


def write(folder, shape, hollow=False):
    """Returns the bytes of the weights.  hollow: a file of that length, which takes no room."""
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config(shape), f)
    header, at = {}, 0
    for name, sizes in tensors(shape):
        n = 2
        for size in sizes:
            n *= size
        header[name] = {"dtype": "BF16", "shape": list(sizes), "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        if hollow:
            f.truncate(8 + len(text) + at)
        else:
            write_weights(f, shape)
    return at


def take_tokenizer(folder, source, shape):
    """Copies tokenizer.json, and sizes the vocabulary by it.  No chat template comes along."""
    path = os.path.join(source, "tokenizer.json")
    shutil.copy(path, folder)
    with open(path) as f:
        tokenizer = json.load(f)
    n_ids = max([len(tokenizer["model"]["vocab"])] +
                [token["id"] + 1 for token in tokenizer.get("added_tokens", [])])
    shape["vocab"] = -(-n_ids // 64) * 64


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("shape", choices=list(SHAPES))
    parser.add_argument("--layers", type=int, help="default: the shape's")
    parser.add_argument("--tokenizer", help="folder whose tokenizer.json the model gets")
    parser.add_argument("--hollow", action="store_true", help="weights that take no room on disk")
    arguments = parser.parse_args()
    shape = shape_of(arguments.shape)
    if arguments.layers:
        shape["layers"] = arguments.layers
    os.makedirs(arguments.folder, exist_ok=True)
    if arguments.tokenizer:
        take_tokenizer(arguments.folder, arguments.tokenizer, shape)
    write(arguments.folder, shape, arguments.hollow)


if __name__ == "__main__":
    main()
