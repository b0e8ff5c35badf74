"""Makes model files as public projects and tools write them; each must be prepared correctly, or refused with
a message that helps.

    SKINCELL_BIN=target/release/skincell python tests/reference/kinds.py torch     # with models/torch/requirements.txt
    SKINCELL_BIN=target/release/skincell python tests/reference/kinds.py keras     # with models/keras/requirements.txt

Each kind is a function that writes files and returns the file, flags, a part of the expected refusal or None,
and a function from a photo [height, width, 3] to the correct probabilities. A prepared model is compared with
the latter by `model check` on three photos of its own size. Exits with 1 if any result differs.
"""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
PHOTOS = [ROOT / "tests/photos" / name for name in ("drawn-acne-1.jpg", "rocket.jpg", "coffee.webp")]
LABELS = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
IMAGENET = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


def softmax(scores):
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


# --- PyTorch ------------------------------------------------------------------------------------------------


def torch_net(head=None):
    import torch
    from torch import nn

    torch.manual_seed(4)
    layers = [m for a, b in [(3, 8), (8, 16), (16, 24)] for m in (nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())]
    net = nn.Sequential(*layers, *(head or [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 7)]))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    net(torch.randn(16, 3, 64, 64))
    return net.eval()


def torch_answer(net, normal=IMAGENET, order=slice(None)):
    import torch

    def right(photo):
        pixels = ((photo - normal[0]) / normal[1])[..., order]
        return softmax(net(torch.tensor(pixels.transpose(2, 0, 1)[None].astype("float32"))).detach().numpy()[0].astype("float64"))

    return right


def exported(net, file, side=64, **given):
    import torch

    net.eval()  # the exporter gives a wrapper's mode to all that is in it
    torch.onnx.export(net, (torch.zeros(1, 3, side, side),), str(file), input_names=["images"], output_names=["output0"],
                      dynamo=False, **given)
    return file


def lightning_checkpoint(folder):
    import torch

    torch.save({"state_dict": torch_net().state_dict(), "pytorch-lightning_version": "2.5"}, folder / "epoch=9.ckpt")
    return folder / "epoch=9.ckpt", [], "net.load_state_dict", None


def fastai_pickle(folder):
    import torch

    torch.save(torch_net(), folder / "export.pkl")
    return folder / "export.pkl", [], "torch.onnx.export(learn.model", None


def fastai_onnx(folder):
    """The head of fastai's cnn_learner: both poolings joined, batch norms, two dense layers."""
    import torch
    from torch import nn

    class Both(nn.Module):
        def forward(self, x):
            return torch.cat([nn.functional.adaptive_max_pool2d(x, 1), nn.functional.adaptive_avg_pool2d(x, 1)], 1)

    head = [Both(), nn.Flatten(), nn.BatchNorm1d(48), nn.Dropout(0.25), nn.Linear(48, 32, bias=False), nn.ReLU(),
            nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, 7, bias=False)]
    net = torch_net(head)
    flags = ["--preprocess", "torch", "--fit", "stretch", "--labels", ",".join(LABELS)]
    return exported(net, folder / "model.onnx"), flags, None, torch_answer(net)


def ultralytics_pickle(folder):
    import torch

    torch.save({"model": torch_net(), "train_args": {"task": "classify"}}, folder / "best.pt")
    return folder / "best.pt", [], "yolo export", None


def ultralytics_onnx(folder):
    """As `yolo export format=onnx` writes it: with softmax, and with class names and task in the metadata."""
    import onnx
    from torch import nn

    net = torch_net()
    file = exported(nn.Sequential(net, nn.Softmax(1)), folder / "best.onnx")
    model = onnx.load(file)
    entries = {"author": "Ultralytics", "task": "classify", "names": str(dict(enumerate(LABELS))), "imgsz": "[64, 64]"}
    onnx.helper.set_model_props(model, entries)
    onnx.save(model, file)
    return file, [], None, torch_answer(net, (np.zeros(3), np.full(3, 255.0)))


def quantized_script(folder):
    """A traced model with PyTorch's static quantization, whose operators only PyTorch knows."""
    import torch
    from torch.ao import quantization as q

    net = nn_quantizable(torch_net())
    net.qconfig = q.get_default_qconfig("x86")
    q.prepare(net, inplace=True)
    net(torch.randn(4, 3, 64, 64))
    q.convert(net, inplace=True)
    torch.jit.trace(net, torch.zeros(1, 3, 64, 64)).save(folder / "quantized.pt")
    return folder / "quantized.pt", ["--labels", ",".join(LABELS), "--size", "64x64"], "quantized", None


def nn_quantizable(net):
    from torch import nn
    from torch.ao import quantization as q

    return nn.Sequential(q.QuantStub(), net, q.DeQuantStub()).eval()


def safetensors(folder):
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return folder / "model.safetensors", [], "optimum-cli", None


def hugging_face_folder(folder):
    """A folder of Optimum: all axes variable, labels and preprocessing in files beside the model."""
    net = torch_net()
    axes = {"images": {0: "batch_size", 1: "num_channels", 2: "height", 3: "width"}, "output0": {0: "batch_size"}}
    file = exported(net, folder / "model.onnx", dynamic_axes=axes)
    (folder / "config.json").write_text(json.dumps({"model_type": "resnet", "id2label": dict(enumerate(LABELS))}))
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        "resample": 3, "size": {"height": 64, "width": 64}}))
    return file, ["--size", "64x64"], None, torch_answer(net, (np.full(3, 127.5), np.full(3, 127.5)))


def timm_folder(folder):
    net = torch_net()
    (folder / "config.json").write_text(json.dumps({
        "architecture": "resnet18", "num_classes": 7, "label_names": LABELS, "pretrained_cfg": {
            "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "interpolation": "bicubic", "crop_pct": 1.0,
            "crop_mode": "center"}}))
    return exported(net, folder / "model.onnx"), [], None, torch_answer(net)


def custom_vision(folder):
    """Azure Custom Vision: BGR and the metadata that Windows ML reads; labels.txt beside the model."""
    import onnx
    from torch import nn

    net = torch_net()
    bgr = [2, 1, 0]
    scaled = nn.Sequential(nn.Identity(), *net)
    file = exported(nn.Sequential(scaled, nn.Softmax(1)), folder / "model.onnx")
    model = onnx.load(file)
    onnx.helper.set_model_props(model, {"Image.BitmapPixelFormat": "Bgr8", "Image.ColorSpaceGamma": "SRGB",
                                        "Image.NominalPixelRange": "NominalRange_0_255"})
    onnx.save(model, file)
    (folder / "labels.txt").write_text("\n".join(LABELS))
    return file, [], None, torch_answer(net, (np.zeros(3), np.ones(3)), bgr)


def edge_impulse(folder):
    (folder / "trained.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    return folder / "trained.tflite", [], "tf2onnx.convert --tflite", None


def edge_impulse_library(folder):
    with zipfile.ZipFile(folder / "ei-library.zip", "w") as archive:
        archive.writestr("tflite-model/trained_model_compiled.cpp", "")
    return folder / "ei-library.zip", [], "unpack it", None


def matlab(folder):
    """MATLAB's exportONNXNetwork: operator set 9, zero-centring as a subtraction, MATLAB's names."""
    import onnx
    from torch import nn

    net = torch_net()
    file = exported(nn.Sequential(net, nn.Softmax(1)), folder / "net.onnx", opset_version=9)
    model = onnx.load(file)
    mean = np.full((1, 3, 1, 1), 120, "float32")
    model.graph.initializer.append(onnx.numpy_helper.from_array(mean, "imageinput_Mean"))
    for node in model.graph.node:
        node.input[:] = ["imageinput_Sub" if name == "images" else name for name in node.input]
    model.graph.node.insert(0, onnx.helper.make_node("Sub", ["imageinput", "imageinput_Mean"], ["imageinput_Sub"], name="imageinput_Sub"))
    model.graph.input[0].name = "imageinput"
    model.producer_name = "MATLAB Deep Learning Toolbox Converter for ONNX Model Format"
    onnx.save(model, file)
    return file, ["--labels", ",".join(LABELS)], None, torch_answer(net, (np.full(3, 120.0), np.ones(3)))


# --- Keras --------------------------------------------------------------------------------------------------


def keras_net(size, *extra):
    import keras
    from keras import layers

    keras.utils.set_random_seed(6)
    return keras.Sequential([
        keras.Input((*size, 3)), *extra, layers.Conv2D(32, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
        layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(), layers.Dropout(0.25), layers.Flatten(),
        layers.Dense(64, activation="relu"), layers.Dropout(0.5), layers.Dense(7, activation="softmax")])


def ham10000(folder):
    """The CNN of Kaggle notebooks on 75x100 pixels, standardised by mean and deviation of the training
    set."""
    model = keras_net((75, 100))
    model.save(folder / "model.h5")
    mean, std = 159.9, 46.5
    flags = ["--mean", str(mean), "--std", str(std), "--labels", ",".join(LABELS)]
    return folder / "model.h5", flags, None, lambda p: model.predict((p[None] - mean) / std, verbose=0)[0]


def mixed_precision(folder):
    """Trained with the policy mixed_float16; its layers compute in half precision, with weights in float32."""
    import keras
    from keras import layers

    keras.config.set_dtype_policy("mixed_float16")
    model = keras_net((64, 64), layers.Rescaling(1 / 255))
    model.save(folder / "model.keras")
    keras.config.set_dtype_policy("float32")
    exact = keras_net((64, 64), layers.Rescaling(1 / 255))
    exact.set_weights(model.get_weights())
    return folder / "model.keras", ["--labels", ",".join(LABELS)], None, lambda p: exact.predict(p[None], verbose=0)[0]


def weights_only(folder):
    keras_net((64, 64)).save_weights(folder / "model.weights.h5")
    return folder / "model.weights.h5", ["--labels", ",".join(LABELS)], "weights without a model", None


def saved_model(folder):
    from keras import layers

    model = keras_net((64, 64), layers.Rescaling(1 / 255))
    model.export(folder / "saved", verbose=False)
    return folder / "saved", ["--labels", ",".join(LABELS)], None, lambda p: model.predict(p[None], verbose=0)[0]


def autokeras(folder):
    """AutoKeras, with its custom layer CastToFloat32."""
    import keras

    @keras.saving.register_keras_serializable(package="autokeras")
    class CastToFloat32(keras.layers.Layer):
        def call(self, x):
            return keras.ops.cast(x, "float32")

    keras_net((64, 64), CastToFloat32(), keras.layers.Normalization()).save(folder / "best.keras")
    return folder / "best.keras", ["--labels", ",".join(LABELS)], "A layer of your own", None


def frozen_graph(folder):
    (folder / "frozen.pb").write_bytes(b"\x0a\0")
    return folder / "frozen.pb", [], "tf2onnx.convert --graphdef", None


def core_ml(folder):
    (folder / "net.mlmodel").write_bytes(b"\x08\x01")
    return folder / "net.mlmodel", [], "Core ML, which cannot be converted back", None


KINDS = {
    "torch": [lightning_checkpoint, fastai_pickle, fastai_onnx, ultralytics_pickle, ultralytics_onnx, quantized_script,
              safetensors, hugging_face_folder, timm_folder, custom_vision, edge_impulse, edge_impulse_library, matlab],
    "keras": [ham10000, mixed_precision, weights_only, saved_model, autokeras, frozen_graph, core_ml],
}  # fmt: skip


def tried(kind):
    """Tries one kind; returns whether the result is as expected, and a description."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        file, flags, refusal, right = kind(folder)
        tool, out = os.environ["SKINCELL_BIN"], folder / "out/net"
        command = [tool, "model", "prepare", file, "-o", out, "--python", sys.executable, *flags]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1]
            return bool(refusal) and refusal in said and not out.exists(), f"refused: {said}"
        card = json.loads((out / "card.json").read_text())
        labels = [entry["label"] for entry in card["classes"]]
        size = card["input"]["width"], card["input"]["height"]
        pictures = []
        for at, path in enumerate(PHOTOS):
            pictures.append(folder / f"{at}.png")
            shrunk = Image.open(path).convert("RGB").resize(size, Image.LANCZOS)
            Image.fromarray(np.asarray(shrunk)).save(pictures[-1])  # without its profile
        subprocess.run([tool, "model", "check", out, *pictures, "--keep", folder / "kept.json"], check=True, capture_output=True)
        answers = json.loads((folder / "kept.json").read_text())["photos"]
        found = np.array([answers[str(path)]["probabilities"] for path in pictures])
        wanted = np.array([right(np.asarray(Image.open(path), "float32")) for path in pictures]) if right else None
        off = float(abs(found - wanted).max()) if right else 1.0
        heat = f"heatmap of {card['gradcam']['layer']}" if card["gradcam"] else f"no heatmap: {card['gradcam_missing']}"
        return off < 1e-4 and labels == LABELS, f"probabilities within {off:.1e}, {heat}"


if __name__ == "__main__":
    outcomes = [(kind.__name__, *tried(kind)) for kind in KINDS[sys.argv[1]]]
    for name, good, words in outcomes:
        print(f"{'as it should be' if good else 'WRONG':16} {name:22} {words}")
    sys.exit(0 if all(good for _, good, _ in outcomes) else 1)
