"""Runs the snippets of docs/clients against the service, as a reader would. Snippets whose interpreter (node,
php) is missing are skipped with a message.

    python tests/clients/snippets.py
"""

import base64
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile

import django
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import RequestFactory

from service import REPOSITORY, serve

SNIPPETS = REPOSITORY / "docs/clients"
PHOTO = REPOSITORY / "tests/photos/drawn-psoriasis-1.jpg"
BEST = "Psoriasis pictures Lichen Planus and related diseases"


def run(name, command):
    """Runs a snippet in a separate folder; its first line must name the class of the photo."""
    if not shutil.which(command[0]):
        print(f"skipped {name}: there is no {command[0]} here")
        return
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    if "undefined function curl_init" in done.stdout + done.stderr:
        print(f"skipped {name}: PHP has no curl extension here")
        return
    assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    assert BEST in done.stdout.splitlines()[0], f"{name}: {done.stdout}"
    print(f"{name}: {done.stdout.splitlines()[0].strip()}")


def django_view(address):
    """Tests the view with an uploaded file, a data URL, an empty request, and a file that is not a photo."""
    os.environ["SKINCELL_URL"] = address
    settings.configure(ALLOWED_HOSTS=["*"], DATABASES={}, SECRET_KEY="tests only")
    django.setup()
    spec = importlib.util.spec_from_file_location("django_view", SNIPPETS / "django_view.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    photo = PHOTO.read_bytes()
    forms = {
        "an uploaded file": SimpleUploadedFile("photo.jpg", photo, "image/jpeg"),
        "a camera's data URL": "data:image/jpeg;base64," + base64.b64encode(photo).decode(),
    }
    for what, image in forms.items():
        answer = module.predict(RequestFactory().post("/predict/", {"image": image}))
        found = json.loads(answer.content)
        assert answer.status_code == 200 and found["results"][0]["class"] == BEST, found
        assert found["heatmap_base64"].startswith("iVBOR")
        print(f"django_view.py with {what}: {found['results'][0]['probability']:.2f} %")
    assert module.predict(RequestFactory().post("/predict/")).status_code == 400
    refused = module.predict(RequestFactory().post("/predict/", {"image": SimpleUploadedFile("a.jpg", b"words")}))
    assert refused.status_code == 415 and "JPEG" in json.loads(refused.content)["error"], refused.content
    print(f"django_view.py with words: {refused.status_code}, {json.loads(refused.content)['error'][:60]}…")


def main():
    with serve() as address:
        run("predict.py", [sys.executable, SNIPPETS / "predict.py", PHOTO, address])
        run("predict.mjs", ["node", SNIPPETS / "predict.mjs", PHOTO, address])
        run("predict.php", ["php", SNIPPETS / "predict.php", PHOTO, address])
        django_view(address)
    return 0


if __name__ == "__main__":
    sys.exit(main())
