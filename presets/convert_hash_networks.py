#!/usr/bin/env python3
"""Converts published HashAttention networks to a safetensors file that attnscope reads.

usage: convert_hash_networks.py [--activation NAME] [--force] FROM TO.safetensors

FROM is a Python pickle of {layer: {"query_matrix", "query_bias", "key_matrix", "key_bias"}}, each
a list of tensors [heads, in, out] or [heads, out], or a training checkpoint of PyTorch with tensors
named {layer}.learning_to_hash_transformation_{q|k}.{head}.{0,2,4...}.{weight,bias}.  TO gets
layer.L.{q,k}.{W,b}N, as `attnscope stacks --describe hash` says; --activation is that between the
linears (relu, silu, gelu or tanh; the published networks have silu).

It needs neither PyTorch nor any other package.  A pickle can name any function to be called; here
only tensors are rebuilt, and a file that asks for anything else is refused.
"""
import argparse, array, collections, io, json, os, pickle, re, struct, sys, zipfile

DTYPES = {  # of torch: the element's struct letter, bytes, and safetensors' name
    "FloatStorage": ("I", 4, "F32"),
    "HalfStorage": ("H", 2, "F16"),
    "BFloat16Storage": ("H", 2, "BF16"),
    "DoubleStorage": ("d", 8, "F32"),
}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
SIDES = {"q": "query", "k": "key"}


class Refused(Exception):
    """One sentence: what is wrong with the file."""


# --- Tensors -------------------------------------------------------------------------------------

class Storage:
    def __init__(self, kind):
        if kind not in DTYPES:
            raise Refused(f"it holds a {kind}; networks are of floats of 16, 32 or 64 bits")
        self.kind, self.data = kind, None


class Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.storage, self.offset = storage, offset
        self.shape, self.strides = tuple(shape), tuple(strides)

    def dtype(self):
        return DTYPES[self.storage.kind][2]

    def transposed(self):
        return Tensor(self.storage, self.offset, self.shape[::-1], self.strides[::-1])

    def bytes(self):
        """Its elements in C order; f64 as f32."""
        letter, size, _ = DTYPES[self.storage.kind]
        data = self.storage.data
        most = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides))
        if data is None or min(self.shape, default=1) < 1 or most >= len(data) // size:
            raise Refused("a tensor reaches beyond its data")
        return b"".join(self._rows(memoryview(data)[: len(data) // size * size].cast(letter),
                                   self.offset, 0))

    def _rows(self, words, at, dim):
        if dim + 1 < len(self.shape):
            for i in range(self.shape[dim]):
                yield from self._rows(words, at + i * self.strides[dim], dim + 1)
            return
        n, stride = (self.shape[dim], self.strides[dim]) if self.shape else (1, 1)
        row = words[at : at + (n - 1) * stride + 1 : stride] if stride else [words[at]] * n
        row = array.array(words.format, row)
        yield (array.array("f", row) if words.format == "d" else row).tobytes()


def rebuild_tensor(storage, offset, shape, strides, *_):
    return Tensor(storage, offset, shape, strides)


# --- Pickles that name nothing but tensors -------------------------------------------------------

class Unpickler(pickle.Unpickler):
    """storage_of(key, kind) gives the storage that a tensor names by its key."""

    def __init__(self, stream, storage_of):
        super().__init__(stream)
        self.storage_of = storage_of

    def find_class(self, module, name):
        known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("torch.storage", "_load_from_bytes"): lambda data: read_legacy(io.BytesIO(data)),
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name.endswith("Storage"):
            return name
        raise Refused(f"it asks for {module}.{name}, which no file of tensors needs")

    def persistent_load(self, pid):
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise Refused("it names data that is no tensor's")
        return self.storage_of(pid[2], pid[1])


def read_legacy(stream):
    """PyTorch's format before zip files, also that of a tensor inside a plain pickle."""
    storages = {}

    def storage_of(key, kind):
        return storages.setdefault(key, Storage(kind))

    if Unpickler(stream, storage_of).load() != LEGACY_MAGIC:
        raise Refused("it is no file of PyTorch")
    for _ in ("protocol", "system"):
        Unpickler(stream, storage_of).load()
    result = Unpickler(stream, storage_of).load()
    for key in Unpickler(stream, storage_of).load():
        (n,) = struct.unpack("<q", stream.read(8))
        size = DTYPES[storages[key].kind][1]
        storages[key].data = stream.read(n * size)
        if n < 0 or len(storages[key].data) != n * size:
            raise Refused("it ends in the middle of a tensor")
    return result


def read_zip(path):
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        root = next((n[: -len("data.pkl")] for n in names if n.endswith("/data.pkl")), None)
        if root is None:
            raise Refused("it is a zip file without a data.pkl")
        if root + "byteorder" in names and archive.read(root + "byteorder") != b"little":
            raise Refused("its numbers are big-endian")
        storages = {}

        def storage_of(key, kind):
            if key not in storages:
                storages[key] = Storage(kind)
                storages[key].data = archive.read(f"{root}data/{key}")
            return storages[key]

        return Unpickler(io.BytesIO(archive.read(root + "data.pkl")), storage_of).load()


def read(path):
    if zipfile.is_zipfile(path):
        return read_zip(path)
    with open(path, "rb") as stream:
        try:
            return read_legacy(stream)
        except Refused:
            pass  # a plain pickle: what is wrong with it is said below
        except (TypeError, ValueError, struct.error, KeyError):
            pass
        stream.seek(0)
        return Unpickler(stream, lambda key, kind: Storage(kind)).load()


# --- Networks ------------------------------------------------------------------------------------

def of_table(table, layer):
    """{"q.W0": [its parts, which stacked make the tensor], ...} of one layer of the pickle."""
    out = {}
    for side, word in SIDES.items():
        for part, noun in (("W", "matrix"), ("b", "bias")):
            tensors = table.get(f"{word}_{noun}") if isinstance(table, dict) else None
            if not isinstance(tensors, list) or not all(isinstance(t, Tensor) for t in tensors):
                raise Refused(f"layer {layer} has no list of tensors {word}_{noun}")
            for i, tensor in enumerate(tensors):
                out[f"{side}.{part}{i}"] = [tensor]
    return out


def of_checkpoint(state):
    name = re.compile(r"(?:.*\.)?(\d+)\.learning_to_hash_transformation_([qk])\.(\d+)\.(\d+)\."
                      r"(weight|bias)$")
    parts = {}
    for key, tensor in state.items():
        found = name.match(key)
        if not found or not isinstance(tensor, Tensor):
            continue
        layer, side, head, slot, what = found.groups()
        if int(slot) % 2:
            raise Refused(f"{key} is at an odd place, where the activations are")
        tensor = tensor.transposed() if what == "weight" else tensor
        place = f"{side}.{'W' if what == 'weight' else 'b'}{int(slot) // 2}"
        parts.setdefault(int(layer), {}).setdefault(place, {})[int(head)] = tensor
    layers = {}
    for layer, places in parts.items():
        for place, heads in places.items():
            if sorted(heads) != list(range(len(heads))):
                raise Refused(f"layer {layer}, {place}: heads {sorted(heads)} are not 0 to "
                              f"{len(heads) - 1}")
        layers[layer] = {place: [heads[h] for h in range(len(heads))]
                         for place, heads in places.items()}
    return layers


def shape_of(parts):
    """A single part is the whole; several are heads, to be stacked."""
    if any(p.shape != parts[0].shape or p.dtype() != parts[0].dtype() for p in parts):
        raise Refused("the heads' networks differ in shape or type")
    whole = len(parts[0].shape) == 3 or len(parts) == 1
    return parts[0].shape if whole else (len(parts), *parts[0].shape)


def check(layers):
    """That all layers have the same linears, each as wide as the one before it."""
    if sorted(layers) != list(range(len(layers))):
        raise Refused(f"its layers {sorted(layers)} are not 0 to {len(layers) - 1}")
    for layer, places in sorted(layers.items()):
        if not places or places.keys() - {p for p in layers[0]}:
            raise Refused(f"layer {layer} has other linears than layer 0")
        for side in SIDES:
            n_linears = sum(p.startswith(f"{side}.W") for p in places)
            if not n_linears:
                raise Refused(f"layer {layer} has no networks of the {SIDES[side]}s")
            width = None
            for i in range(n_linears):
                weight = shape_of(places.get(f"{side}.W{i}", [Tensor(None, 0, (), ())]))
                if len(weight) != 3 or (width and weight[1] != width):
                    raise Refused(f"layer {layer}, {side}.W{i}: {list(weight)} is not "
                                  f"[heads, {width or 'in'}, out]")
                width = weight[2]
                bias = places.get(f"{side}.b{i}")
                if bias and shape_of(bias) != (weight[0], width):
                    raise Refused(f"layer {layer}, {side}.b{i}: {list(shape_of(bias))} is not "
                                  f"{[weight[0], width]}")


def networks(loaded):
    if not isinstance(loaded, dict) or not loaded:
        raise Refused("it holds no table of layers and no checkpoint")
    if all(isinstance(layer, int) for layer in loaded):
        layers = {layer: of_table(table, layer) for layer, table in loaded.items()}
    else:
        layers = of_checkpoint(loaded)
    if not layers:
        raise Refused("none of its tensors is named *.learning_to_hash_transformation_*")
    check(layers)
    return layers


# --- Writing -------------------------------------------------------------------------------------

def write(path, layers, activation):
    header = {"__metadata__": {"activation": activation}}
    blobs, at = [], 0
    for layer, places in sorted(layers.items()):
        for place, parts in sorted(places.items()):
            data = b"".join(p.bytes() for p in parts)
            header[f"layer.{layer}.{place}"] = {"dtype": parts[0].dtype(),
                                                "shape": list(shape_of(parts)),
                                                "data_offsets": [at, at + len(data)]}
            blobs.append(data)
            at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    unfinished = f"{path}.unfinished"
    try:
        with open(unfinished, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.writelines(blobs)
        os.replace(unfinished, path)
    except OSError:
        if os.path.exists(unfinished):
            os.remove(unfinished)
        raise


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", metavar="FROM")
    parser.add_argument("target", metavar="TO.safetensors")
    parser.add_argument("--activation", default="silu", choices=["relu", "silu", "gelu", "tanh"])
    parser.add_argument("--force", action="store_true", help="write over TO")
    options = parser.parse_args()
    if os.path.exists(options.target) and not options.force:
        sys.exit(f"{options.target} is there already; --force writes over it")
    try:
        layers = networks(read(options.source))
        write(options.target, layers, options.activation)
    except Refused as why:
        sys.exit(f"{options.source}: {why}; nothing was written")
    except OSError as why:
        sys.exit(f"{why.filename or options.target}: {why.strerror}; nothing was written")
    except (pickle.UnpicklingError, EOFError, zipfile.BadZipFile, ValueError, TypeError,
            AttributeError, KeyError, IndexError, struct.error):
        sys.exit(f"{options.source}: it is neither a pickle nor a checkpoint of PyTorch, or is "
                 "broken; nothing was written")
    linears = sum(p.startswith("q.W") for p in layers[0])
    shape = shape_of(layers[0][f"q.W{linears - 1}"])
    print(f"{options.target}: {len(layers)} layers, {shape[0]} heads, {linears} linears, "
          f"{shape[2]} bits")


if __name__ == "__main__":
    main()
