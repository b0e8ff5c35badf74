"""Writes seeds for the fuzzer: the plans of a few small graphs, and one whole file.

    python seeds.py CELL_BINARY CORPUS_FOLDER

Uses the builder in `bench/engine/make_models.py` and needs the same packages.
"""

import struct
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "engine"))
from make_models import Builder, fused, mbconv  # noqa: E402


def tiny(folder, name, build, nhwc=False):
    b = Builder(name, 12, 1, nhwc=nhwc, fold=nhwc)
    x = build(b, b.conv("input", 8, 3, 2, act="silu"))
    b.finish(x, 5, folder, side=6)


def main():
    binary, corpus = sys.argv[1], Path(sys.argv[2])
    corpus.mkdir(parents=True, exist_ok=True)
    graphs = {
        "dense": lambda b, x: b.conv(x, 13, 3, act="relu"),
        "winograd": lambda b, x: b.conv(b.conv(x, 16, 3, act="relu6"), 24, 3, act="hswish"),
        "squeezed": lambda b, x: mbconv(b, x, 8, 5, 1, 24, 4, "silu"),
        "fused": lambda b, x: fused(b, x, 8, 3, 1, 2, "silu"),
        "grouped": lambda b, x: b.conv(x, 16, 3, groups=2, act="relu"),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, build in graphs.items():
            tiny(folder, name, build, nhwc=name == "dense")
            onnx, cell = Path(folder) / f"{name}.onnx", Path(folder) / f"{name}.cell"
            subprocess.run([binary, "pack", onnx, cell], check=True)
            data = cell.read_bytes()
            (length,) = struct.unpack_from("<Q", data, 16)
            (corpus / f"{name}.plan").write_bytes(data[64:64 + length])
            (corpus / f"{name}.cell").write_bytes(data)


if __name__ == "__main__":
    main()
