"""A typical service: FastAPI under uvicorn, ONNX Runtime, one session for all requests.

    PEER_MODEL=big.onnx PEER_THREADS=1 uvicorn --port 8000 fastapi_app:app

A photo is the request's body. There is no heatmap, because ONNX Runtime computes no gradients. For benchmarks
only.
"""

import io
import os

import numpy as np
import onnxruntime
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image

SIDE = 300
OPTIONS = onnxruntime.SessionOptions()
OPTIONS.intra_op_num_threads = int(os.environ.get("PEER_THREADS", "1"))
SESSION = onnxruntime.InferenceSession(
    os.environ["PEER_MODEL"], OPTIONS, providers=["CPUExecutionProvider"]
)
INPUT = SESSION.get_inputs()[0].name
app = FastAPI()


def classify(photo):
    image = Image.open(io.BytesIO(photo)).convert("RGB").resize((SIDE, SIDE), Image.LANCZOS)
    scores = SESSION.run(None, {INPUT: np.asarray(image, "float32")[None]})[0][0]
    order = np.argsort(scores)[::-1]
    return {"results": [{"index": int(i), "probability": float(scores[i]) * 100} for i in order]}


@app.get("/health")
def health():
    return {"status": "ok"}


@app.post("/predict")
async def predict(request: Request):
    return await run_in_threadpool(classify, await request.body())
