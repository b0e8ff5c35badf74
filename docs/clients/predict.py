"""Rank the classes of a photo with skincell: python predict.py photo.jpg [address]"""

import base64
import sys

import requests


def predict(photo, address="http://127.0.0.1:3000", **options):
    """The answer as a dictionary. Raises RuntimeError with what the service says is wrong."""
    with open(photo, "rb") as file:
        answer = requests.post(f"{address}/predict", params=options, files={"image": file}, timeout=60)
    if not answer.ok:
        raise RuntimeError(answer.json()["detail"])
    return answer.json()


if __name__ == "__main__":
    found = predict(*sys.argv[1:3], top_k=3)
    for result in found["results"]:
        print(f"{result['probability']:6.2f} %  {result['class']}")
    if found["heatmap_base64"]:
        with open("heatmap.png", "wb") as file:
            file.write(base64.b64decode(found["heatmap_base64"]))
    print(found["model"]["notice"])
