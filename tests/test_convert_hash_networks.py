#!/usr/bin/env python3
"""presets/convert_hash_networks.py against files that PyTorch wrote (tests/reference/
make_hash_pickles.py).   test_convert_hash_networks.py"""
import json, os, struct, subprocess, sys, tempfile, unittest

TESTS = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(TESTS, "golden", "hash_networks")
CONVERT = os.path.join(TESTS, os.pardir, "presets", "convert_hash_networks.py")


def values(path):
    """{tensor: (shape, values)} of a safetensors file of F32 or BF16."""
    with open(path, "rb") as f:
        data = f.read()
    (n,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + n])
    metadata = header.pop("__metadata__")
    out = {"activation": metadata["activation"]}
    for name, t in header.items():
        begin, end = t["data_offsets"]
        raw = data[8 + n + begin : 8 + n + end]
        if t["dtype"] == "BF16":  # the upper half of an f32
            raw = b"".join(b"\0\0" + raw[i : i + 2] for i in range(0, len(raw), 2))
        out[name] = (t["shape"], struct.unpack(f"<{len(raw) // 4}f", raw))
    return out


class Convert(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.target = os.path.join(self.folder.name, "to.safetensors")

    def convert(self, source, *options):
        source = source if os.path.isabs(source) else os.path.join(GOLDEN, source)
        return subprocess.run([sys.executable, CONVERT, *options, source, self.target],
                              capture_output=True, text=True)

    def check_equal(self, source):
        result = self.convert(source)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertEqual(values(self.target), values(os.path.join(GOLDEN, "expected.safetensors")))

    def check_refused(self, source, words):
        result = self.convert(source)
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        self.assertIn(words, result.stderr)
        self.assertFalse(os.path.exists(self.target))

    def test_a_pickled_table(self):
        self.check_equal("table.pkl")

    def test_parameters_views_and_doubles(self):
        self.check_equal("views.pkl")

    def test_a_training_checkpoint(self):
        self.check_equal("checkpoint.pt")

    def test_a_checkpoint_of_the_old_format(self):
        self.check_equal("checkpoint_legacy.pt")

    def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(self):
        self.check_refused("hostile.pkl", "asks for os.system")

    def test_layers_of_other_heads_are_refused(self):
        self.check_refused("heads.pkl", "layer 1, k.b0: [2, 6] is not [3, 6]")

    def test_what_is_no_pickle_is_refused(self):
        self.check_refused("expected.safetensors", "neither a pickle nor a checkpoint")

    def test_a_file_that_ends_early_is_refused(self):
        for name in ("table.pkl", "checkpoint.pt", "checkpoint_legacy.pt"):
            with open(os.path.join(GOLDEN, name), "rb") as f:
                data = f.read()
            for n in range(0, len(data) - 1, len(data) // 40):
                short = os.path.join(self.folder.name, "short")
                with open(short, "wb") as f:
                    f.write(data[:n])
                with self.subTest(name=name, n=n):
                    self.check_refused(short, "nothing was written")

    def test_a_missing_file_is_named(self):
        self.check_refused("/nonexistent/x.pkl", "/nonexistent/x.pkl: No such file")

    def test_a_file_that_is_there_stays(self):
        with open(self.target, "w") as f:
            f.write("mine")
        result = self.convert("table.pkl")
        self.assertEqual(result.returncode, 1)
        self.assertIn("--force writes over it", result.stderr)
        with open(self.target) as f:
            self.assertEqual(f.read(), "mine")
        self.assertEqual(self.convert("table.pkl", "--force").returncode, 0)


if __name__ == "__main__":
    unittest.main()
