"""Defines the formats of openapi.json for schemathesis, so that it makes valid requests as well as invalid
ones: photos, and names of the repository's own models and their classes.
"""

import base64
import json
import pathlib
import re

import schemathesis
from hypothesis import strategies

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Small files of each format, because a thousand of them are posted.
PHOTOS = [
    (REPOSITORY / "tests/photos" / name).read_bytes()
    for name in ("drawn-acne-2.jpg", "drawn-eczema-2.png", "drawn-infestation-2.webp")
]
MODELS = ("skin", "imagenet")


def read(path):
    return json.loads((REPOSITORY / path).read_text())


OPTIONS = [parameter["name"] for parameter in read("src/openapi.json")["paths"]["/predict"]["post"]["parameters"]]
# Classes of every model: the indices of the smallest model.
CLASSES = min(len(read(f"models/{name}/card.json")["classes"]) for name in MODELS)

photos = strategies.sampled_from(PHOTOS)
schemathesis.openapi.format("model-name", strategies.sampled_from(MODELS))
schemathesis.openapi.format("class-name", strategies.sampled_from([str(index) for index in range(CLASSES)]))
# No model that is served here takes numbers beside the photo.
schemathesis.openapi.format("fields-json", strategies.just(""))
schemathesis.openapi.format("photo-base64", strategies.sampled_from(
    [prefix + base64.b64encode(photo).decode() for photo in PHOTOS for prefix in ("", "data:image/x;base64,")]))
schemathesis.openapi.format("binary", photos)
for media_type in ("image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, photos)


def bound_class(options):
    """Whether a value is a class index, below the number of classes; JSON's 7.0 counts too."""
    index = options.get("class")
    if type(index) in (int, float) and index >= 0 and index == int(index):
        options["class"] = int(index) % CLASSES


@schemathesis.hook
def map_query(context, query):
    """Checks of a query that a schema cannot express, because an index is text there."""
    index = query.get("class") if isinstance(query, dict) else None
    if isinstance(index, str) and index.isdecimal():
        query["class"] = str(int(index) % CLASSES)
    elif index is not None:
        bound_class(query)
    return query


def is_json(body):
    """Whether an object is JSON, in which photos are text, and not a form, in which they are bytes."""
    image = body.get("image")
    return type(image[0] if type(image) is list and image else image) is str


@schemathesis.hook
def map_body(context, body):
    """Restrictions that a schema cannot express: names of a form's unknown fields must be valid in a form, and an
    index is below the number of classes.
    """
    if not isinstance(body, dict) or "image" not in body:
        return body
    bound_class(body)
    is_form = not is_json(body)
    return {name: value for name, value in body.items() if re.fullmatch(r"[\w-]+", name)} if is_form else body


@schemathesis.hook
def filter_body(context, body):
    """Form values are text: a number becomes text when sent, and an empty list is not sent at all."""
    if not isinstance(body, dict) or is_json(body):
        return True
    return all(isinstance(body.get(name, ""), str) for name in OPTIONS)


@schemathesis.hook
def filter_case(context, case):
    """schemathesis takes any text for a violation of our formats, but an empty text (apart from spaces), an existing
    name or an index is valid. A photo of a list that is none has a problem in its entry, and the answer is 200. A list
    is a body of /predict too, which the description does not say (see `photo_forms`).
    """
    if case.path == "/predict" and isinstance(case.body, list):
        return False
    mutations = getattr(case.meta.phase.data, "mutations", ())
    return not mutations or not all(is_inside(mutation, case) for mutation in mutations)


def is_inside(mutation, case):
    """Whether an option that should violate its format still has a valid value."""
    given = case.body if mutation.parameter_location == "body" else case.query
    if isinstance(given, dict) and type(given.get("image")) is list and given["image"] and "image" in mutation.path:
        return True
    name = mutation.path[-1] if mutation.path else None
    if mutation.keywords != ("format",) or name not in ("model", "class") or not isinstance(given, dict):
        return False
    text = given.get(name)
    return isinstance(text, str) and text.strip() in ("", *(MODELS if name == "model" else map(str, range(CLASSES))))
