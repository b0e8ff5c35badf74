"""Runs ONNX Runtime alone, as in its documentation: one run for each line on standard input.

    python onnxruntime_serve.py MODEL.onnx THREADS

Answers each line with the milliseconds of the run and the private kilobytes gained since before the model was
loaded.
"""

import re
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime


def private_kb():
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text()).group(1))


def main():
    before = private_kb()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(sys.argv[2])
    session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    declared = session.get_inputs()[0]
    shape = [side if isinstance(side, int) else 1 for side in declared.shape]
    image = np.random.default_rng(1).uniform(0, 255, shape)
    image = image.astype(np.uint8 if "uint8" in declared.type else np.float32)
    for _ in sys.stdin:
        begin = time.perf_counter()
        session.run(None, {declared.name: image})
        took = (time.perf_counter() - begin) * 1e3
        print(f"{took:.4f} {private_kb() - before}", flush=True)


main()
