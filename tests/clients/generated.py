"""Generates clients from the API's description, in TypeScript and in Python, and lets them speak to the service.

    (cd tests/clients/typescript && npm ci && npm run build)
    python tests/clients/generated.py

`npm run build` lints the description (no error), generates the types and compiles a program over them, strictly.
"""

import importlib
import io
import pathlib
import subprocess
import sys
import tempfile

from service import REPOSITORY, serve

PROGRAM = REPOSITORY / "tests/clients/typescript/generated/client.js"
PHOTO = REPOSITORY / "tests/photos/drawn-psoriasis-1.jpg"
BEST = "Psoriasis"
NOT_A_PHOTO = "urn:skincell:problem:not-an-image"
PACKAGE = "generated_client"


def typescript(address):
    if not PROGRAM.exists():
        raise SystemExit("build first: cd tests/clients/typescript && npm ci && npm run build")
    done = subprocess.run(["node", PROGRAM, address, PHOTO], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    models, best, several, problem = done.stdout.splitlines()
    assert "skin" in models and "imagenet" in models, models
    assert best.startswith(BEST) and best.endswith("of 3"), best
    assert several == "several: 2 answered, 0 refused", several
    assert problem == f"problem: {NOT_A_PHOTO}", problem
    print(f"TypeScript: {best}; {several}; {problem}")


def generate(folder):
    """Generates the Python client into a folder and imports it."""
    command = ["-m", "openapi_python_client", "generate", "--path", REPOSITORY / "src/openapi.json", "--meta", "none"]
    output = pathlib.Path(folder, PACKAGE)
    done = subprocess.run([sys.executable, *command, "--output-path", output], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, folder)
    return lambda name: importlib.import_module(f"{PACKAGE}.{name}")


def python(address):
    with tempfile.TemporaryDirectory() as folder:
        load = generate(folder)
        types, models = load("types"), load("models")
        predict, listing = load("api.photos.predict"), load("api.service.models")
        client = load("client").Client(base_url=address, timeout=60)
        photo = lambda data: types.File(payload=io.BytesIO(data), file_name="photo.jpg", mime_type="image/jpeg")
        form = lambda files: models.PredictFilesBody(image=files)
        data = PHOTO.read_bytes()
        names = [model.name for model in listing.sync(client=client).models]
        assert {"skin", "imagenet"} <= set(names), names
        one = predict.sync(client=client, body=form(photo(data)), top_k=3)
        assert one.results[0].display.startswith(BEST) and len(one.results) == 3, one
        assert one.heatmap_base64, "with its heatmap"
        raw = predict.sync(client=client, body=photo(data), top_k=3)
        assert raw.results == one.results, "the photo alone, without a form"
        several = predict.sync(client=client, body=form([photo(data), photo(data)]))
        assert (several.answered, several.refused) == (2, 0), several
        problem = predict.sync(client=client, body=form(photo(b"only words")))
        assert problem.type_ == NOT_A_PHOTO, problem
        print(f"Python: {one.results[0].display}: {one.results[0].probability:.3f}; 2 answered; {problem.type_}")


if __name__ == "__main__":
    with serve() as address:
        typescript(address)
        python(address)
