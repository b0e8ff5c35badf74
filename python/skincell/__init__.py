"""Serves image classifiers with heatmaps, and asks such a service about photos. Not a medical device.

    import skincell

    skincell.prepare("model.keras", "models/mine", labels=["benign", "malignant"])
    with skincell.serve("models/mine") as client:
        answer = client.predict("photo.jpg")
        print(answer.results[0].label, answer.results[0].probability)

The work is done by the program `skincell`, which this package contains; a model of Keras or PyTorch is exported
by the Python that runs this module. Only the standard library is needed.
"""

from importlib import metadata as _metadata

from ._client import Client, Familiarity, Prediction, Problem, Result
from ._program import PrepareError, ServeError, Service, prepare, program, serve

try:
    __version__ = _metadata.version("skincell")
except _metadata.PackageNotFoundError:  # run from a checkout
    __version__ = "unknown"

__all__ = [
    "Client", "Familiarity", "Prediction", "PrepareError", "Problem", "Result", "ServeError", "Service",
    "prepare", "program", "serve",
]
