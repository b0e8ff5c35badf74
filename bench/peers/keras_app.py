"""Answers like the origin app: Keras `predict`, then Grad-CAM by a gradient tape, under gunicorn.

    PEER_MODEL=big.keras PEER_THREADS=1 gunicorn --workers 1 --threads 2 --bind 127.0.0.1:8000 keras_app:app

Plain WSGI, because Django's overhead is not compared. The model is loaded at import, as in the origin app. A
photo is the request's body; `?gradcam=false` omits the heatmap. For benchmarks only.
"""

import base64
import io
import json
import os

THREADS = int(os.environ.get("PEER_THREADS", "1"))
os.environ.update({"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"})
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from PIL import Image

tf.config.threading.set_intra_op_parallelism_threads(THREADS)
tf.config.threading.set_inter_op_parallelism_threads(1)

SIDE, ALPHA = 300, 0.4
MODEL = keras.models.load_model(os.environ["PEER_MODEL"], compile=False)
PARTS = keras.Model(MODEL.input, [MODEL.get_layer("top_conv").output, MODEL.output])


def heatmap(image):
    """The map of the most likely class, 0 to 1, `[10, 10]`."""
    with tf.GradientTape() as tape:
        conv, scores = PARTS(image)
        best = scores[:, int(tf.argmax(scores[0]))]
    weights = tf.reduce_mean(tape.gradient(best, conv), axis=(0, 1, 2))
    heat = np.maximum(tf.tensordot(conv[0], weights, 1).numpy(), 0)
    return heat / heat.max() if heat.max() > 1e-10 else heat


def overlay(photo, heat):
    """The photo with the map over it, as base64 of a PNG."""
    large = Image.fromarray(heat.astype("float32")).resize((SIDE, SIDE), Image.BILINEAR)
    coloured = matplotlib.colormaps["jet"](np.asarray(large))[..., :3] * 255
    blended = np.clip(photo * (1 - ALPHA) + coloured * ALPHA, 0, 255).astype("uint8")
    png = io.BytesIO()
    Image.fromarray(blended).save(png, "PNG")
    return base64.b64encode(png.getvalue()).decode()


def predict(body, with_map):
    photo = Image.open(io.BytesIO(body)).convert("RGB").resize((SIDE, SIDE), Image.LANCZOS)
    photo = np.asarray(photo, "float32")
    image = photo[None]
    scores = MODEL.predict(image, verbose=0)[0]
    order = np.argsort(scores)[::-1]
    answer = {"results": [{"index": int(i), "probability": float(scores[i]) * 100} for i in order]}
    if with_map:
        answer["heatmap_base64"] = overlay(photo, heatmap(image))
    return answer


def app(environ, start_response):
    """WSGI: POST a photo; any other request shows that the process runs."""
    if environ["REQUEST_METHOD"] == "POST":
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        answer = predict(body, "gradcam=false" not in environ.get("QUERY_STRING", ""))
    else:
        answer = {"status": "ok"}
    text = json.dumps(answer).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
    return [text]
