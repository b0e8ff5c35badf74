"""Runs tritonclient[http] from PyPI against /v2: metadata, configuration, statistics, ready, infer with JSON and
with binary tensors, batches, classification, errors. Its results must equal those of /predict for the same photo,
and a batch those of its rows.

    python tests/clients/inference_protocol.py
"""

import io
import json
import sys

import numpy
import requests
import tritonclient.http as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from service import REPOSITORY, serve

PHOTOS = REPOSITORY / "tests/photos"
MODELS = REPOSITORY / "models"
# A photo of the model's size is not resized, so only the 4 decimals of /predict differ.
EXACT = 0.0001
# Pillow's Lanczos and the service's differ by at most one level of 255, which may cost a percent.
RESIZED = 1.0


def prepared(picture, card):
    """The input tensor of a photo, prepared by the card, as every client of a raw model must do."""
    shown = card["input"]
    size = (shown["width"], shown["height"])
    pixels = numpy.asarray(picture.convert("RGB").resize(size, Image.LANCZOS))
    if shown["dtype"] == "f32":
        mean, std = (numpy.array(shown[name], numpy.float32) for name in ("mean", "std"))
        pixels = (pixels.astype(numpy.float32) - mean) / std
    if shown["layout"] == "nchw":
        pixels = pixels.transpose(2, 0, 1)
    return numpy.ascontiguousarray(pixels)[None]


def inferred(client, model, tensor, binary):
    described = client.get_model_metadata(model)["inputs"][0]
    tensor_in = triton.InferInput(described["name"], list(tensor.shape), described["datatype"])
    tensor_in.set_data_from_numpy(tensor, binary_data=binary)
    wanted = triton.InferRequestedOutput("probabilities", binary_data=binary)
    answer = client.infer(model, [tensor_in], outputs=[wanted], request_id="42")
    assert answer.get_response()["id"] == "42"
    return answer.as_numpy("probabilities")[0]


def predicted(address, model, file):
    answer = requests.post(f"{address}/predict", params={"model": model, "gradcam": "false", "top_k": 2000},
                           data=file, headers={"content-type": "image/png"}, timeout=60)
    answer.raise_for_status()
    ranked = answer.json()["results"]
    return numpy.array([entry["probability"] for entry in sorted(ranked, key=lambda entry: entry["index"])])


def compare(client, address, model):
    """Every photo, unchanged and at the model's size, by JSON and by binary data, against /predict."""
    card = json.loads((MODELS / model / "card.json").read_text())
    size = (card["input"]["width"], card["input"]["height"])
    furthest = {"exact": 0.0, "resized": 0.0}
    names = sorted(path for path in PHOTOS.glob("drawn-*") if "turned" not in path.name)
    for path in names:
        whole = Image.open(path).convert("RGB")
        for kind, picture in [("exact", whole.resize(size, Image.LANCZOS)), ("resized", whole)]:
            expected = predicted(address, model, to_png(picture))
            tensor = prepared(picture, card)
            for binary in (True, False) if kind == "exact" else (True,):
                found = inferred(client, model, tensor, binary) * 100
                furthest[kind] = max(furthest[kind], float(numpy.abs(found - expected).max()))
    print(f"{model}: {len(names)} photos; probabilities differ from /predict's by at most "
          f"{furthest['exact']:.6f} % (at the model's size, JSON and binary), "
          f"{furthest['resized']:.4f} % (resized by Pillow)")
    assert furthest["exact"] <= EXACT, furthest
    assert furthest["resized"] <= RESIZED, furthest


def to_png(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def describe(client):
    assert client.is_server_live() and client.is_server_ready()
    server = client.get_server_metadata()
    assert server["name"] == "skincell" and "binary_tensor_data" in server["extensions"], server
    listed = {entry["name"] for entry in client.get_model_repository_index()}
    assert {"skin", "imagenet"} <= listed, listed
    for model in sorted(listed):
        assert client.is_model_ready(model) and client.is_model_ready(model, "1")
        metadata = client.get_model_metadata(model)
        print(f"{model}: ready; inputs {metadata['inputs']}, outputs {[o['name'] for o in metadata['outputs']]}")
    assert not client.is_model_ready("nosuch")
    counted = {entry["name"] for entry in client.get_inference_statistics()["model_stats"]}
    assert counted == listed, counted


def batch(client, model):
    """A batch of 8 different rows equals 8 single requests, bit by bit, in every output; 17 rows are refused."""
    card = json.loads((MODELS / model / "card.json").read_text())
    names = sorted(PHOTOS.glob("drawn-*"))[:8]
    rows = numpy.concatenate([prepared(Image.open(path), card) for path in names])
    assert len({row.tobytes() for row in rows}) == 8
    described = client.get_model_metadata(model)
    assert described["inputs"][0]["shape"] == [-1, *rows.shape[1:]], described
    config = client.get_model_config(model)
    assert config["max_batch_size"] == 16 and config["input"][0]["dims"] == list(rows.shape[1:]), config

    def infer(tensor):
        given = triton.InferInput(config["input"][0]["name"], list(tensor.shape), described["inputs"][0]["datatype"])
        given.set_data_from_numpy(tensor)
        wanted = [triton.InferRequestedOutput(output["name"]) for output in config["output"]]
        answer = client.infer(model, [given], outputs=wanted)
        return {output["name"]: answer.as_numpy(output["name"]) for output in config["output"]}

    together, alone = infer(rows), [infer(row[None]) for row in rows]
    for name, values in together.items():
        assert values.shape[0] == 8, (name, values.shape)
        assert values.tobytes() == numpy.concatenate([one[name] for one in alone]).tobytes(), name
    counted = client.get_inference_statistics(model)["model_stats"][0]
    success = counted["inference_stats"]["success"]
    assert counted["name"] == model and success["count"] >= 16 and success["ns"] > 0, counted
    try:
        infer(numpy.repeat(rows[:1], 17, axis=0))
    except InferenceServerException as error:
        assert "up to 16" in error.message(), error.message()
    else:
        raise AssertionError("17 rows were taken")
    print(f"{model}: a batch of 8 equals 8 singles in {', '.join(together)}; {success['count']} runs counted")


def classify(client):
    """Triton's classification extension, and all outputs if none is named."""
    tensor = triton.InferInput("image", [1, 3, 224, 224], "FP32")
    tensor.set_data_from_numpy(numpy.zeros((1, 3, 224, 224), numpy.float32))
    wanted = triton.InferRequestedOutput("probabilities", class_count=3)
    best = client.infer("skin", [tensor], outputs=[wanted]).as_numpy("probabilities")
    score, index, label = best[0][0].decode().split(":", 2)
    assert best.shape == (1, 3) and 0 <= float(score) <= 1 and int(index) < 7 and label
    everything = client.infer("skin", [tensor])
    assert everything.as_numpy("cam").shape == (1, 7, 7, 7)
    assert everything.as_numpy("logits").shape == (1, 7)
    print(f"classification: {best[0][0].decode()!r} is the likeliest of a grey photo")


def refuse(client):
    """Errors have the protocol's form, so that the client raises its own exception."""
    tensor = triton.InferInput("image", [1, 3, 10, 10], "FP32")
    tensor.set_data_from_numpy(numpy.zeros((1, 3, 10, 10), numpy.float32))
    for model, version in [("skin", ""), ("nosuch", ""), ("skin", "2")]:
        try:
            client.infer(model, [tensor], model_version=version)
        except InferenceServerException as error:
            print(f"refused as it should be, {error.status()}: {error.message()[:100]}")
        else:
            raise AssertionError(f"{model} {version} took a wrong tensor")


def main():
    with serve() as address:
        client = triton.InferenceServerClient(address.removeprefix("http://"))
        describe(client)
        for model in ("skin", "imagenet"):
            compare(client, address, model)
            batch(client, model)
        classify(client)
        refuse(client)
        client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
