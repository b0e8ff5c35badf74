"""Runs a model in another engine once for each line on standard input, and answers with milliseconds.

    python others.py onnxruntime|litert|openvino MODEL INPUT.npy --threads N [--answer OUT.npy]

As `cell serve --wait` does: it prints `ready` on standard error once the engine's libraries are loaded, the first
line loads the model, each further line runs it. With `--answer` it runs once and stores the first output.
Needs the package of the engine (requirements.txt).
"""

import argparse
import sys
import time

import numpy as np


def onnxruntime(threads):
    from compare import runtime

    def load(path):
        session = runtime(path, threads)
        name = session.get_inputs()[0].name
        return lambda value: session.run(None, {name: value})[0]

    return load


def litert(threads):
    from ai_edge_litert.interpreter import Interpreter

    def load(path):
        interpreter = Interpreter(model_path=path, num_threads=threads)
        interpreter.allocate_tensors()
        given, result = (part()[0]["index"] for part in (interpreter.get_input_details, interpreter.get_output_details))

        def run(value):
            interpreter.set_tensor(given, value)
            interpreter.invoke()
            return interpreter.get_tensor(result)

        return run

    return load


def openvino(threads):
    import openvino as ov

    def load(path):
        wanted = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = ov.Core().compile_model(path, "CPU", wanted)
        request = compiled.create_infer_request()
        return lambda value: request.infer([value])[0]

    return load


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=["onnxruntime", "litert", "openvino"])
    parser.add_argument("model")
    parser.add_argument("input")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--answer")
    args = parser.parse_args()
    load, value = globals()[args.engine](args.threads), np.load(args.input)
    if args.answer:
        np.save(args.answer, load(args.model)(value))
        return
    print("ready", file=sys.stderr, flush=True)
    run = None
    for _ in sys.stdin:
        begin = time.perf_counter()
        if run is None:
            run = load(args.model)
        else:
            run(value)
        print((time.perf_counter() - begin) * 1e3, flush=True)


if __name__ == "__main__":
    main()
