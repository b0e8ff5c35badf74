"""Asks a running service about photos, over HTTP."""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Union

Photo = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, IO[bytes]]
"""A path, the bytes of a photo file, or an open file of them, such as io.BytesIO or what a web form uploads."""


class Problem(Exception):
    """The service refused a request; the text says why and what to do next (RFC 9457)."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        # All of them, so that process pools can send it.
        super().__init__(status, title, detail)
        self.status = status
        """The HTTP status, such as 413."""
        self.title = title
        """The kind of problem in words."""
        self.detail = detail
        """Why, and what to do next; may be empty."""

    def __str__(self) -> str:
        return self.detail or self.title


@dataclass(frozen=True)
class Result:
    """One class of an answer."""

    label: str
    """The class as the model names it."""
    display: str
    """The class for people; the label if the model has no other words."""
    probability: float
    """In per cent, 0 to 100."""
    index: int
    """The class's place among the model's scores, from 0."""


@dataclass(frozen=True)
class Familiarity:
    """Whether the model knows photos of this kind."""

    score: float
    """The distance from the photos that the model knows; 0 is in their middle."""
    is_familiar: bool
    """Whether the score is below the model's threshold."""


@dataclass(frozen=True)
class Prediction:
    """The answer to a photo."""

    model: str
    """The model's name."""
    notice: str
    """What the model's makers want users to know, such as "Not a medical device."; empty without one."""
    results: list[Result]
    """The classes, the likeliest first."""
    heatmap: bytes | None = field(repr=False)
    """The Grad-CAM heatmap over the photo, a PNG; None if there is none."""
    heatmap_label: str | None
    """The class whose heatmap it is."""
    familiarity: Familiarity | None
    """None if the model does not tell."""
    raw: dict[str, Any] = field(repr=False)
    """The whole JSON answer."""


class Client:
    """A client of a service at `url`, which is HTTP if it does not say.

    `token` is sent as a bearer token; `timeout` is in seconds. Proxies of the environment are used, except for
    services on this machine.
    """

    def __init__(self, url: str = "http://127.0.0.1:3000", *, token: str | None = None, timeout: float = 60) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self._token = token
        self._timeout = timeout
        direct = [urllib.request.ProxyHandler({})] if _is_here(self.url) else []
        self._service: object = None
        self._opener = urllib.request.build_opener(*direct)

    def predict(
        self,
        photo: Photo,
        *,
        top_k: int | None = None,
        heatmap: bool = True,
        label: str | int | None = None,
        model: str | None = None,
    ) -> Prediction:
        """Ranks the classes of a photo: the path, the bytes or an open file of a JPEG, PNG, WebP, BMP or GIF.

        `top_k` is the number of classes, `label` the class to show on the heatmap (the likeliest if None),
        `model` another model of the service. Raises Problem if the service refuses the photo, and OSError if
        the file or the service cannot be reached.
        """
        return _prediction(self._call(_predict(top_k, heatmap, label, model), _read(photo)))

    def predict_all(
        self,
        photos: Iterable[Photo],
        *,
        top_k: int | None = None,
        heatmap: bool = True,
        label: str | int | None = None,
        model: str | None = None,
    ) -> list[Prediction | Problem]:
        """As `predict`, for many photos with as few requests as possible: for each photo in order its answer, or
        the Problem with it, which is not raised.

        Raises Problem if the service refuses a whole request, and OSError if a file or the service cannot be
        reached.
        """
        if isinstance(photos, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(photos, "read"):
            raise TypeError("predict_all takes a list of photos; for one photo: predict")
        path = _predict(top_k, heatmap, label, model)
        found: list[Prediction | Problem] = []
        for group in _groups(_read(photo) for photo in photos):
            images = [base64.b64encode(photo).decode("ascii") for photo in group]
            body = json.dumps({"images": images}).encode("ascii")
            answer = self._call(path, body, "application/json")
            for entry in answer["photos"]:
                problem = entry.get("problem")
                if problem:
                    found.append(Problem(problem["status"], problem["title"], problem["detail"]))
                else:
                    found.append(_prediction(entry["prediction"]))
        return found

    def models(self) -> list[dict[str, Any]]:
        """The models of the service, as `GET /models` describes them."""
        models: list[dict[str, Any]] = self._call("/models")["models"]
        return models

    def is_ready(self) -> bool:
        """Whether the service takes requests."""
        try:
            with self._open(urllib.request.Request(f"{self.url}/readyz")):
                return True
        except OSError:
            return False

    def _call(
        self, path: str, body: bytes | None = None, content_type: str = "application/octet-stream"
    ) -> dict[str, Any]:
        headers = {"Content-Type": content_type} if body is not None else {}
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        try:
            with self._open(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise _problem(error) from None

    def _open(self, request: urllib.request.Request) -> Any:
        if self._token is not None:
            request.add_header("Authorization", f"Bearer {self._token}")
        return self._opener.open(request, timeout=self._timeout)


# Of one request: photos, and bytes of them, so that their base64 fits into a body of 16 MiB.
_MOST_PHOTOS = 64
_MOST_BYTES = 11 << 20


def _groups(photos: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The photos in groups of which each fits into a request; one that is too large is alone."""
    group: list[bytes] = []
    size = 0
    for photo in photos:
        if group and (len(group) == _MOST_PHOTOS or size + len(photo) > _MOST_BYTES):
            yield group
            group, size = [], 0
        group.append(photo)
        size += len(photo)
    if group:
        yield group


def _is_here(url: str) -> bool:
    """Whether the service is on this machine, which no proxy reaches."""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _read(photo: Photo) -> bytes:
    if isinstance(photo, (bytes, bytearray, memoryview)):
        return bytes(photo)
    if isinstance(photo, (str, os.PathLike)):
        with open(photo, "rb") as file:
            return file.read()
    read = getattr(photo, "read", None)
    if read is None:
        kind = f"{type(photo).__module__}.{type(photo).__qualname__}"
        raise TypeError(
            f"a photo is a path, the bytes of a file, or an open file, not {kind}; an image of Pillow or an array "
            'becomes one with Pillow: file = io.BytesIO(); image.save(file, "PNG"); predict(file.getvalue())'
        )
    content = read()
    if not isinstance(content, bytes):
        raise TypeError('the photo\'s file gives text; open it with mode "rb"')
    return content


def _predict(top_k: int | None, heatmap: bool, label: str | int | None, model: str | None) -> str:
    """The path and query of a request."""
    asked = {"top_k": top_k, "gradcam": str(heatmap).lower(), "class": label, "model": model}
    query = urllib.parse.urlencode({name: value for name, value in asked.items() if value is not None})
    return f"/predict?{query}"


def _prediction(answer: dict[str, Any]) -> Prediction:
    encoded, familiarity = answer.get("heatmap_base64"), answer.get("familiarity")
    return Prediction(
        model=answer["model"]["name"],
        notice=answer["model"].get("notice") or "",
        results=[
            Result(one["class"], one.get("display") or one["class"], one["probability"], one["index"])
            for one in answer["results"]
        ],
        heatmap=base64.b64decode(encoded) if encoded else None,
        heatmap_label=answer.get("heatmap_class"),
        familiarity=Familiarity(familiarity["score"], familiarity["is_familiar"]) if familiarity else None,
        raw=answer,
    )


def _problem(error: urllib.error.HTTPError) -> Problem:
    try:
        body = json.load(error)
        return Problem(error.code, str(body.get("title", error.reason)), str(body.get("detail", "")))
    except (ValueError, AttributeError):
        return Problem(error.code, str(error.reason), "")
