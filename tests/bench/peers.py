#!/usr/bin/env python3
"""What other engines reach on this GPU, to stand beside `attnscope bench` of the same job.

Decode and prefill attention by PyTorch's SDPA (flash, cuDNN, memory-efficient), torch.topk, GEMV by
cuBLAS, and transformers generating with an 8B-shaped random Llama: eager, and compiled with a
static cache.  `peers.py compiled` measures only the last, which takes minutes to compile.  With
--ours FILE (lines of `attnscope bench ... --json`, one object each) it prints ratios.
Needs torch and transformers; the product needs neither.
"""
import argparse
import functools
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

HEADS, KV_HEADS, DIM = 32, 8, 128
SDPA = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION}
results = {}


def tell(name, value):
    results[name] = value
    print(f"{name:44s} {value:.4g}" if isinstance(value, float) else f"{name:44s} {value}",
          flush=True)


def median_us(run, repeats=20, warm=3):
    for _ in range(warm):
        run()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return statistics.median(times)


def graph_us(run, repeats=20):
    """Microseconds of a replay: what the kernels cost without Python's launches."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return median_us(graph.replay, repeats)


def copy_bandwidth():
    x = torch.empty(1 << 32, dtype=torch.uint8, device="cuda").random_()
    y = torch.empty_like(x)
    us = median_us(lambda: y.copy_(x), 10)
    tell("copy_gb_s", 2 * x.numel() / us * 1e-3)


def decode_attention():
    for ctx in (4096, 32768, 131072):
        layers = 32 if ctx < 100000 else 16
        q = torch.randn(1, HEADS, 1, DIM, dtype=torch.bfloat16, device="cuda")
        kv = [(torch.randn(1, KV_HEADS, ctx, DIM, dtype=torch.bfloat16, device="cuda"),
               torch.randn(1, KV_HEADS, ctx, DIM, dtype=torch.bfloat16, device="cuda"))
              for _ in range(layers)]
        for name, backend in SDPA.items():
            # Grouped as one more dimension of rows: the kernels then read K and V once.
            grouped = q.view(1, KV_HEADS, HEADS // KV_HEADS, DIM)

            def run(query=grouped, gqa=False):
                with sdpa_kernel([backend]):
                    for k, v in kv:
                        F.scaled_dot_product_attention(query, k, v, enable_gqa=gqa)

            for form, call in (("grouped", run), ("gqa", lambda: run(q, True))):
                try:
                    tell(f"sdpa_{name}_{form}_us_{ctx}", graph_us(call, 10) / layers)
                except Exception as error:  # a backend refuses a shape
                    tell(f"sdpa_{name}_{form}_us_{ctx}", str(error).split("\n")[0][:60])
        del kv
        torch.cuda.empty_cache()


def prefill_attention():
    n = 16384
    q = torch.randn(1, HEADS, n, DIM, dtype=torch.bfloat16, device="cuda")
    k = torch.randn(1, HEADS, n, DIM, dtype=torch.bfloat16, device="cuda")
    v = torch.randn(1, HEADS, n, DIM, dtype=torch.bfloat16, device="cuda")
    flops = 4.0 * HEADS * DIM * n * (n + 1) / 2
    for name, backend in SDPA.items():
        def run():
            with sdpa_kernel([backend]):
                F.scaled_dot_product_attention(q, k, v, is_causal=True)
        try:
            tell(f"sdpa_{name}_prefill_tflop_s", flops / median_us(run, 5) * 1e-6)
        except Exception as error:
            tell(f"sdpa_{name}_prefill_tflop_s", str(error).split("\n")[0][:60])


def top_k():
    x = torch.randn(HEADS, 131072, device="cuda")
    k = 13107
    tell("torch_topk_us", graph_us(lambda: torch.topk(x, k, dim=1, sorted=False)))


def gemv():
    for name, n_out, n_in in (("qkv", 6144, 4096), ("attention_out", 4096, 4096),
                              ("ffn_up", 28672, 4096), ("ffn_down", 4096, 14336),
                              ("lm_head", 128256, 4096)):
        copies = max(2, int(1e9 // (n_out * n_in * 2)))
        ws = [torch.randn(n_out, n_in, dtype=torch.bfloat16, device="cuda") for _ in range(copies)]
        x = torch.randn(1, n_in, dtype=torch.bfloat16, device="cuda")
        us = graph_us(lambda: [F.linear(x, w) for w in ws], 10) / copies
        tell(f"cublas_gemv_{name}_us", us)
        tell(f"cublas_gemv_{name}_gb_s", n_out * n_in * 2 / us * 1e-3)
    a = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    b = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    tell("gemm_8192_tflop_s", 2 * 8192.0**3 / median_us(lambda: a @ b, 10) * 1e-6)


@functools.cache
def random_llama():
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                         num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, vocab_size=128256,
                         max_position_embeddings=131072, rope_theta=500000.0,
                         attn_implementation="sdpa")
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(config).eval()
        torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def tokens_per_s(n_new, **options):
    """Of two lengths, so that the prefill and what surrounds it cancel out.  The longer comes
    first: its static cache serves the shorter too, and nothing is compiled again."""
    model = random_llama()
    ids = torch.randint(0, 128256, (1, 448), device="cuda")
    mask = torch.ones_like(ids)

    def seconds(n):
        torch.cuda.synchronize()
        start = time.monotonic()
        model.generate(ids, attention_mask=mask, do_sample=False, min_new_tokens=n,
                       max_new_tokens=n, **options)
        torch.cuda.synchronize()
        return time.monotonic() - start

    best = []
    with torch.inference_mode():
        for n in (8 + n_new, 8):
            seconds(n)  # warms up, or compiles
            best.append(min(seconds(n), seconds(n)))
    return n_new / (best[0] - best[1])


def generate_eager():
    tell("transformers_eager_tokens_s", tokens_per_s(64))


def generate_compiled():
    start = time.monotonic()
    try:
        tell("transformers_compiled_tokens_s", tokens_per_s(128, cache_implementation="static"))
    except Exception as error:
        tell("transformers_compiled_tokens_s", str(error).split("\n")[0][:80])
    tell("transformers_compiled_took_s", time.monotonic() - start)


def compare(path):
    """Ratios of our figures (lines of JSON) over the best peer's: above 1 we are faster."""
    for line in open(path):
        if not line.startswith("{"):
            continue
        ours = json.loads(line)
        if ours.get("shape") != "llama-3.1-8b":
            continue
        if ours["bench"] == "attention" and "dense_us_per_layer_median" in ours:
            keys = ours["ctx"] + ours["ctx"] % 2  # 131,071 in the cache and the step's own
            peers = [v for k, v in results.items() if isinstance(v, float)
                     and k.startswith("sdpa_") and k.endswith(f"_us_{keys}")]
            if peers:
                print(f"dense attention {ours['ctx']}: fastest SDPA / ours = "
                      f"{min(peers) / ours['dense_us_per_layer_median']:.3f}")
        if ours["bench"] == "select" and "torch_topk_us" in results and "choose_us" in ours:
            print(f"top-k: torch.topk / ours = {results['torch_topk_us'] / ours['choose_us']:.2f}")
        if ours["bench"] == "decode" and ours["ctx"] <= 1024:
            for name in ("eager", "compiled"):
                peer = results.get(f"transformers_{name}_tokens_s")
                if isinstance(peer, float):
                    print(f"decode {ours['ctx']}: ours / transformers {name} = "
                          f"{ours['tokens_per_s_median'] / peer:.3f}")
        if ours["bench"] == "gemv":
            for part in ("qkv", "attention_out", "ffn_up", "ffn_down", "lm_head"):
                peer = results.get(f"cublas_gemv_{part}_us")
                if peer and part in ours:
                    print(f"gemv {part}: cuBLAS / ours = {peer / ours[part]['us']:.3f}")


def main():
    parts = {"copy": copy_bandwidth, "decode": decode_attention, "prefill": prefill_attention,
             "topk": top_k, "gemv": gemv, "eager": generate_eager, "compiled": generate_compiled}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=list(parts) + [[]], help="default: all")
    parser.add_argument("--ours", help="file with lines of `attnscope bench --json`")
    parser.add_argument("--out", help="file for the figures, as JSON")
    arguments = parser.parse_args()
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for name in arguments.parts or parts:
        parts[name]()
    if arguments.out:
        json.dump(results, open(arguments.out, "w"), indent=1)
    if arguments.ours:
        compare(arguments.ours)


if __name__ == "__main__":
    main()
