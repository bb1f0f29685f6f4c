"""Writes tests/golden/hash_networks with PyTorch's own means.   make_hash_pickles.py FOLDER
needs torch and safetensors."""
import collections, os, pickle, sys

import torch
from safetensors.torch import save_file

LAYERS, HEADS, WIDTHS = 2, 3, (8, 6, 4)
folder = sys.argv[1]
torch.manual_seed(1)
state, table, expected = {}, {}, {}
for layer in range(LAYERS):
    table[layer] = {f"{s}_{p}": [] for s in ("query", "key") for p in ("matrix", "bias")}
    for side, word in (("q", "query"), ("k", "key")):
        for i, (n_in, n_out) in enumerate(zip(WIDTHS, WIDTHS[1:])):
            weights, biases = [], []
            for head in range(HEADS):
                name = f"{layer}.learning_to_hash_transformation_{side}.{head}.{2 * i}"
                state[f"{name}.weight"] = torch.randn(n_out, n_in).bfloat16()
                state[f"{name}.bias"] = torch.randn(n_out).bfloat16()
                weights.append(state[f"{name}.weight"].t())
                biases.append(state[f"{name}.bias"])
            table[layer][f"{word}_matrix"].append(torch.stack(weights))
            table[layer][f"{word}_bias"].append(torch.stack(biases))
            expected[f"layer.{layer}.{side}.W{i}"] = torch.stack(weights).contiguous()
            expected[f"layer.{layer}.{side}.b{i}"] = torch.stack(biases)
path = lambda name: os.path.join(folder, name)
save_file(expected, path("expected.safetensors"), metadata={"activation": "silu"})
with open(path("table.pkl"), "wb") as f:
    pickle.dump(table, f)
# Views, parameters and doubles, as a training run may leave them.
views = {l: {k: [torch.nn.Parameter(t.double().transpose(0, 1).contiguous().transpose(0, 1))
                 for t in v] for k, v in t.items()} for l, t in table.items()}
with open(path("views.pkl"), "wb") as f:
    pickle.dump(views, f)
torch.save(collections.OrderedDict(state), path("checkpoint.pt"))
torch.save(state, path("checkpoint_legacy.pt"), _use_new_zipfile_serialization=False)
with open(path("hostile.pkl"), "wb") as f:
    f.write(b"cos\nsystem\n(S'echo called'\ntR.")
with open(path("heads.pkl"), "wb") as f:
    broken = {l: dict(t) for l, t in table.items()}
    broken[1]["key_bias"] = [t[:2] for t in broken[1]["key_bias"]]
    pickle.dump(broken, f)
