"""Exports a PyTorch classifier to ONNX: a timm name, a `.pt2` or a TorchScript `.pt` in, one file out.

    python3 -m venv .venv && .venv/bin/pip install -r models/torch/requirements.txt
    .venv/bin/python models/torch/export.py timm:resnet50 raw.onnx --weights mine.pth --classes 7 --size 224 224
    skincell model prepare raw.onnx --labels labels.txt -o models/skin --preprocess torch

Either of PyTorch's exporters does the work, always in evaluation mode, for one photo, with the names
`image` and `scores`; the versions used are recorded. A state dict is loaded with `weights_only`, so
that a downloaded file runs no code. The photo's size is the one the file records: a `.pt2` program
does, a traced module seldom; where it is open it must be given. Makes no Grad-CAM: `prepare` does.

With `--predict` it prints a line `skincell: {"inputs", "outputs"}` and then answers, for every line of JSON
`[{"name", "shape", "file"}]` on its standard input (files of little-endian float32), with a line
`skincell: {"output": [numbers]}`.
"""

import argparse
import collections
import json
import os
import queue
import sys
import threading
import zipfile

REQUESTS = queue.SimpleQueue()
EXPORTED = threading.Event()


def read_requests():
    """Puts the lines of standard input into `REQUESTS`, and `None` at its end. If it ends before the export and before
    any line, the program that wants the export has ended, and so does this one."""
    none = True
    # Unbuffered, because Python cannot end while another thread is reading through a buffer.
    for line in open(0, "rb", buffering=0, closefd=False):
        none = False
        REQUESTS.put(line)
    if none and not EXPORTED.is_set():
        os._exit(1)
    REQUESTS.put(None)


# Before the frameworks are imported, which takes seconds.
if "--predict" in sys.argv:
    threading.Thread(target=read_requests, daemon=True).start()

import numpy as np
import onnx
import torch

OPSET = 18


def load(name, weights=None, classes=None):
    """A model in evaluation mode with its weights, and the shapes of its inputs, `None` where unknown."""
    if name.startswith("timm:"):
        import timm

        sizes = {} if classes is None else {"num_classes": classes}
        model = timm.create_model(name.removeprefix("timm:"), **sizes)
        if weights is not None:
            model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        return model.eval(), [None]
    if is_program(name):
        program = torch.export.load(name)
        refuse_training(program)
        return program.module(), program_shapes(program)
    model = torch.jit.load(name, map_location="cpu").eval()
    return model, script_shapes(model)


def program_shapes(program):
    """Input shapes of a `torch.export` program; a side it leaves open is None."""
    wanted = set(program.graph_signature.user_inputs)
    nodes = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in wanted]
    return [[side if isinstance(side, int) else None for side in node.meta["val"].shape] for node in nodes]


def script_shapes(model):
    """Input shapes as far as a TorchScript graph still shows them."""
    shapes = []
    for value in list(model.graph.inputs())[1:]:
        sizes = value.type().sizes() if isinstance(value.type(), torch.TensorType) else None
        shapes.append(list(sizes) if sizes else None)
    return shapes


def is_program(name):
    """Whether a file is a `torch.export` program, and not TorchScript, whatever its name; others are refused."""
    if not zipfile.is_zipfile(name):
        raise SystemExit("it is a pickle of an old PyTorch, and a pickle is code that is not run: load it in the "
                         "script that made it and save it with torch.export.save or torch.jit.save")
    with zipfile.ZipFile(name) as archive:
        members = archive.namelist()
    if any(member.endswith(("archive_format", "serialized_exported_program.json")) for member in members):
        return True
    if not any("/code/" in member or member.endswith("constants.pkl") for member in members):
        raise SystemExit("it holds a pickle (a state dict or a whole module), not a program. In the script that "
                         "defines the network: net.load_state_dict(…); net.eval(); torch.onnx.export(net, "
                         "torch.zeros(1, 3, 224, 224), \"model.onnx\"). A .pt of Ultralytics: yolo export "
                         "model=FILE format=onnx")
    return False


def refuse_training(program):
    """Refuses a program whose batch norms or dropouts were exported as they train."""
    for node in program.graph.nodes:
        name = str(node.target)
        trains = ("batch_norm" in name and any(a is True for a in node.args[5:6])) \
            or ("dropout" in name and any(a is True for a in node.args[2:3]))
        if node.op == "call_function" and trains:
            raise SystemExit(f"{node.name} was exported in training mode: call net.eval() before torch.export.export")


def settle(shapes, size):
    """The shape of every input for one photo."""
    settled = []
    for shape in shapes:
        if shape is None:
            if size is None:
                raise SystemExit("the file does not say which size of photo it was made for, and another gives wrong "
                                 "answers: say it with --size WIDTHxHEIGHT")
            shape = [1, 3, *size]
        elif len(shape) == 4:
            held = shape[2:] if shape[1] == 3 or shape[3] != 3 else shape[1:3]
            if None in held and size is None:
                raise SystemExit("the program takes photos of any size; say which with --size WIDTHxHEIGHT")
            if size is not None and None not in held and list(size) != held:
                raise SystemExit(f"--size {size[1]}x{size[0]} was given, and the program is made for "
                                 f"{held[1]}x{held[0]}")
            if None in held:
                shape = [1, shape[1] or 3, *size]
        settled.append([1, *(1 if side is None else side for side in shape[1:])])
    return settled


def names_of(shapes):
    """`image` for the photo, `input_1`, … for what else the model takes."""
    return ["image" if len(shape) == 4 else f"input_{i}" for i, shape in enumerate(shapes)]


def tensors(answers):
    """The tensors of whatever a model returns: one, a list, a dictionary."""
    if isinstance(answers, torch.Tensor):
        return [answers]
    values = answers.values() if isinstance(answers, dict) else answers
    return [tensor for value in values if value is not None for tensor in tensors(value)]


def output_names(answers):
    """A name for each of these tensors: a dictionary's keys, or else `output_0`, …; `scores` for a single one."""
    count = len(tensors(answers))
    if count == 1:
        return ["scores"]
    if not isinstance(answers, dict):
        return [f"output_{i}" for i in range(count)]
    parts = {key: tensors([value]) for key, value in answers.items() if value is not None}
    return [f"{key}_{i}" if len(part) > 1 else str(key) for key, part in parts.items() for i in range(len(part))]


class Flat(torch.nn.Module):
    """A TorchScript module that returns the tensors of its dictionary as a tuple."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *inputs):
        return tuple(tensors(self.model(*inputs)))


def without_dictionary(model, inputs, answers):
    """The module, or for a TorchScript that returns a dictionary, which no exporter takes, one without."""
    if not (isinstance(model, torch.jit.ScriptModule) and isinstance(answers, dict)):
        return model
    traced = torch.jit.trace(Flat(model), inputs, strict=False)
    torch._C._jit_pass_inline(traced.graph)
    torch._C._jit_pass_peephole(traced.graph)
    return traced


def conv_bias(model):
    """Whose the biases of a network's convolutions are: its own, or what batch norms will have left; else None."""
    def kind(module):
        return getattr(module, "original_name", type(module).__name__)

    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    convolutions = [module for module in modules if kind(module) == "Conv2d"]
    if convolutions and all(getattr(module, "bias", None) is None for module in convolutions):
        return "folded"
    normed = any("Norm" in kind(module) for module in modules)
    return "own" if convolutions and not normed else None


def module_outputs(program, graph):
    """What each module computes last, by the module's path, and the paths of those called more than once. A
    convolution is named by its node, because its value may be that of a batch norm folded into it."""
    made = {value: node for node in graph.node for value in node.output}
    last, repeated = {}, set()
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        for key, (path, _) in node.meta.get("nn_module_stack", {}).items():
            last[path] = node
            if "@" in key:  # a second call of one module: layer4.0.relu@1
                repeated.add(path)

    def name(node):
        if "conv" not in str(node.target):
            return node.name if node.name in made else None
        for _ in range(3):  # a folded batch norm and the selection of its first result
            if found := made.get(node.name):
                return found.name if found.op_type == "Conv" else None
            node = next(iter(node.users), node)
        return None

    outputs = {path: found for path, node in last.items() if path and (found := name(node))}
    return outputs, sorted(repeated)


def calls_in(module, path=()):
    """The paths of the modules that a TorchScript module calls, once for each call."""
    inside = {}
    for node in module.graph.nodes():
        if node.kind() == "prim::GetAttr":
            around = inside.get(node.input().debugName(), ())
            inside[node.output().debugName()] = (*around, node.s("name"))
        elif node.kind() == "prim::CallMethod" and (called := inside.get(next(node.inputs()).debugName())):
            yield ".".join((*path, *called))
            if node.s("name") == "forward":
                below = module
                for name in called:
                    below = getattr(below, name)
                yield from calls_in(below, (*path, *called))


def export(model, path, shapes, opset=OPSET, exporter="dynamo"):
    """Writes `model` to `path`; `shapes` are its inputs', `exporter` "dynamo" or "script"."""
    inputs = tuple(torch.zeros(shape) for shape in shapes)
    new = exporter == "dynamo" and not isinstance(model, torch.jit.ScriptModule)
    calls = collections.Counter(calls_in(model) if isinstance(model, torch.jit.ScriptModule) else [])
    repeated = [path for path, count in calls.items() if count > 1]
    with torch.no_grad():
        try:
            answers = model(*inputs)
        except RuntimeError as error:
            size = "x".join(str(side) for side in reversed(shapes[0][2:]))
            raise SystemExit(f"the network does not run on a photo of {size} ({str(error).strip().splitlines()[-1]}); "
                             "say its size with --size WIDTHxHEIGHT") from None
        outputs = output_names(answers)
        program = torch.onnx.export(
            without_dictionary(model, inputs, answers),
            inputs,
            path,
            opset_version=opset,
            input_names=names_of(shapes),
            output_names=outputs,
            dynamo=new,
            external_data=False,
        )
    exported = onnx.load(path)
    versions = {"opset": opset, "torch": torch.__version__, "exporter": exporter}
    if kind := conv_bias(model):
        versions["skincell.conv_bias"] = kind
    if program is not None:
        made, repeated = module_outputs(program.exported_program, exported.graph)
        versions["skincell.layer_outputs"] = json.dumps(made)
    versions["skincell.repeated_layers"] = json.dumps(repeated)
    onnx.helper.set_model_props(exported, {k: str(v) for k, v in versions.items()})
    onnx.save(exported, path)
    return exported, outputs


def answer(model, names, outputs, request):
    """What the model says to one request: each output's numbers by its name."""
    given = {i["name"]: torch.from_numpy(np.fromfile(i["file"], "<f4").reshape(i["shape"])) for i in request}
    with torch.no_grad():
        found = tensors(model(*(given[name] for name in names)))
    return {name: value.double().flatten().tolist() for name, value in zip(outputs, found)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="timm:NAME, a .pt2 program or a TorchScript .pt file")
    parser.add_argument("onnx")
    parser.add_argument("--weights", help="a state dict for a timm model")
    parser.add_argument("--classes", type=int)
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--opset", type=int, default=OPSET)
    parser.add_argument("--exporter", choices=["dynamo", "script"], default="dynamo")
    parser.add_argument("--predict", action="store_true", help="then answer requests on standard input")
    asked = parser.parse_args()
    try:
        net, shapes = load(asked.model, asked.weights, asked.classes)
        shapes = settle(shapes, asked.size)
        made, outputs = export(net, asked.onnx, shapes, asked.opset, asked.exporter)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise SystemExit(f"{type(error).__name__}: {(lines or ['it said nothing'])[0][:400]}") from None
    names = names_of(shapes)
    print(f"{asked.onnx}: {len(made.graph.node)} nodes, opset {asked.opset}, {', '.join(names)} -> "
          f"{', '.join(outputs)}", flush=True)
    EXPORTED.set()
    if not asked.predict:
        return
    print("skincell:", json.dumps({"inputs": names, "outputs": outputs}), flush=True)
    for line in iter(REQUESTS.get, None):
        print("skincell:", json.dumps(answer(net, names, outputs, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
