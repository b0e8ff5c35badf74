"""Compares the service with Pillow on the photos of other projects' test suites: finds photos that are
refused, answered differently, or slow.

    cargo build --release && cargo build --release --target wasm32-wasip2 -p skincell
    python3 -m venv .venv && .venv/bin/pip install pillow numpy onnxruntime
    .venv/bin/python bench/photos.py FOLDER… [--models skin,imagenet] [--chromium] [--json FILE]

Every file with a photo's extension is posted. The reference is Pillow: turned by EXIF, transparency over
white, colours converted to sRGB by ImageCms (a PNG's gamma by its formula, which browsers apply and Pillow
ignores), squashed to the model's size by Lanczos, and run by ONNX Runtime as the card says. Kinds of findings:

- refused: a 4xx for a photo that Pillow reads.
- differs: another top class, or a probability more than a point away. Both must exceed the effect of rounding
  alone on this photo and model (Lanczos rounded once instead of twice, in both orders, seeded noise of half a level, and
  Pillow's own two-step methods: `reducing_gap=2` and, for a JPEG, libjpeg's scaled decode).
- slow: more than 3 seconds.
- fault: any 5xx, or a broken connection.

With `--chromium` a photo that differs or is refused is also shown in Chromium: it is no finding if the service saw what
Chromium shows, or if Chromium does not show it either.

Photos that the service answers and Pillow refuses are counted, but are not findings. Findings that
`photos-allowed.json` lists, each with its reason, are counted separately. Exits with 1 if any other is left.
Formats that browsers do not show (TIFF, ICO) are left out. Suites: the source packages of Pillow, thumbor,
reportlab, django (`pip download --no-binary :all:`), npm's bmp-js and others.
"""

import argparse
import collections
import fnmatch
import io
import json
import pathlib
import re
import time
import warnings

import numpy as np
import onnxruntime
from PIL import Image, ImageCms, ImageOps

import browser
from service import ROOT, Service, machine

ENDINGS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".avif", ".heic", ".heif"}
POINTS, SLOW_S, MOST_PIXELS = 1.0, 3.0, 60_000_000
# Where three draws of noise do not explain a difference.
MORE_DRAWS = 40
LARGEST_FILE = 16 << 20
ALLOWED = pathlib.Path(__file__).with_name("photos-allowed.json")
SRGB = ImageCms.createProfile("sRGB")
Image.MAX_IMAGE_PIXELS = None
warnings.simplefilter("ignore")


class Reference:
    """A model run by ONNX Runtime on photos decoded by Pillow."""

    def __init__(self, name):
        folder = ROOT / "models" / name
        self.name, self.card = name, json.loads((folder / "card.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options, ["CPUExecutionProvider"])
        self.side = self.card["input"]["width"], self.card["input"]["height"]

    def shares(self, pixels):
        """Per cent by class for an image of the model's size: H×W×3, RGB, 0 to 255, fractions allowed."""
        shown, output = self.card["input"], self.card["output"]
        tensor = (pixels - np.array(shown["mean"], np.float32)) / np.array(shown["std"], np.float32)
        if shown["layout"] == "nchw":
            tensor = tensor.transpose(2, 0, 1)
        scores = self.session.run([output["name"]], {shown["name"]: tensor[None].astype(np.float32)})[0].ravel()
        if output["form"] == "logits" and output["activation"] == "softmax":
            scores = scores / self.card.get("calibration", {}).get("temperature", 1.0)
            scores = np.exp(scores - scores.max())
            scores /= scores.sum()
        return scores * 100

    def judge(self, photo, scaled=None, draws=3):
        """Per cent by class, and the largest change of any by rounding alone, with so many draws of noise.
        `scaled` is the photo as its own library decodes it at a smaller scale."""
        twice = np.asarray(photo.resize(self.side, Image.LANCZOS), np.float32)
        bands = [np.asarray(band.convert("F").resize(self.side, Image.LANCZOS)) for band in photo.split()]
        others = [np.clip(np.rint(np.stack(bands, -1)), 0, 255)]
        # Rows before columns and columns before rows: libraries and versions differ in the order.
        for size in ((photo.width, self.side[1]), (self.side[0], photo.height)):
            others.append(np.asarray(photo.resize(size, Image.LANCZOS).resize(self.side, Image.LANCZOS)))
        random = np.random.default_rng(1)
        others += [np.clip(np.rint(twice + random.normal(0, 0.5, twice.shape)), 0, 255) for _ in range(draws)]
        others.append(np.asarray(photo.resize(self.side, Image.LANCZOS, reducing_gap=2.0)))
        if scaled:
            others.append(np.asarray(scaled.resize(self.side, Image.LANCZOS)))
        exact = self.shares(twice)
        return exact, max(np.abs(self.shares(other.astype(np.float32)) - exact).max() for other in others)


def opened(path, managed=True, at_least=None):
    """The photo as a browser shows it, in RGB; None if Pillow cannot read it. `at_least`: decode at the
    smallest scale that leaves twice these sides, if the library can."""
    try:
        photo = Image.open(path)
        if photo.size[0] * photo.size[1] > MOST_PIXELS:
            return None
        if at_least:
            photo.draft(None, [2 * side for side in at_least])
        photo.load()
        profile, gamma = photo.info.get("icc_profile"), gamma_of(photo)
        photo = ImageOps.exif_transpose(photo)
        alpha = None
        if photo.mode.startswith("I"):
            # Pillow clips 16-bit grey to white and ignores its transparency; browsers take the high byte.
            deep, clear = np.asarray(photo).astype(np.uint32), photo.info.get("transparency")
            photo = Image.fromarray((deep >> 8).astype(np.uint8))
            alpha = Image.fromarray(np.where(deep == clear, 0, 255).astype(np.uint8)) if clear is not None else None
        if photo.mode in ("PA", "LA", "La", "RGBa", "RGBA") or "transparency" in photo.info:
            photo = photo.convert("RGBA")
            alpha, photo = photo.getchannel("A"), photo.convert("RGB")
        if profile and managed:
            photo = to_srgb(photo, profile)
        photo = photo.convert("RGB")
        if gamma and managed:
            light = (np.arange(256) / 255) ** (1 / gamma)
            coded = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
            photo = photo.point(np.rint(coded * 255).astype(int).tolist() * 3)
        return Image.composite(photo, Image.new("RGB", photo.size, "white"), alpha) if alpha else photo
    except Exception:
        return None


def gamma_of(photo):
    """The gamma of a PNG, if its colours must be converted from it."""
    gamma, info = photo.info.get("gamma"), photo.info
    if photo.format != "PNG" or not gamma or "srgb" in info or "icc_profile" in info or abs(gamma - 0.45455) < 0.005:
        return None
    return gamma


def to_srgb(photo, profile):
    """Converts to sRGB by the photo's profile; ignores one that cannot be used, as browsers do."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        # ImageCms takes no palette; browsers convert its colours.
        photo = photo.convert("RGB") if photo.mode == "P" else photo
        return ImageCms.profileToProfile(photo, source, SRGB, ImageCms.Intent.PERCEPTUAL, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return photo


def post(service, photo, model):
    """Status, the answer's members, and seconds."""
    begin, connection = time.perf_counter(), service.connect()
    try:
        path = f"/predict?gradcam=false&top_k=100000&model={model}"
        connection.request("POST", path, photo, {"Content-Type": "application/octet-stream"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()), time.perf_counter() - begin
    except (OSError, ValueError) as error:
        return 599, {"type": "no-answer", "detail": str(error)}, time.perf_counter() - begin
    finally:
        connection.close()


def format_of(photo):
    starts = {b"\xff\xd8": "JPEG", b"\x89P": "PNG", b"RI": "WebP", b"BM": "BMP", b"GI": "GIF"}
    return "HEIF" if photo[4:8] == b"ftyp" else starts.get(photo[:2], "other")


def findings(service, path, references, chromium):
    """Kind and reason of each finding for a file; None if Pillow cannot read it and there is no finding. What
    `chromium` settles has the kind "settled"."""
    photo, found = path.read_bytes(), []
    seen = opened(path)
    for reference in references:
        status, answer, seconds = post(service, photo, reference.name)
        if seconds > SLOW_S:
            found.append(("slow", f"{seconds:.1f} s"))
        if status >= 500:
            found.append(("fault", f"{status} {answer.get('detail', '')}"))
        elif seen and status != 200:
            if chromium and browser.shown(path) is None:
                found.append(("settled", "refused, and not shown by Chromium either"))
            else:
                found.append(("refused", f"{answer['type'].rsplit(':', 1)[-1]}: {answer['detail']}"))
            break
        elif seen:
            new = difference(reference, path, seen, answer)
            picture = browser.shown(path) if chromium and new else None
            if picture and not difference(reference, path, picture, answer):
                new = [("settled", "other pixels than Pillow's, and the same as Chromium's")]
            found += new
    return found if seen or found else None


def difference(reference, path, seen, answer):
    given = np.zeros(len(answer["results"]))
    for result in answer["results"]:
        given[result["index"]] = result["probability"]
    is_jpeg = format_of(path.read_bytes()[:16]) == "JPEG"
    scaled = opened(path, at_least=reference.side) if is_jpeg else None
    expected, floor = reference.judge(seen, scaled)
    points = np.abs(given - expected).max()
    if points > POINTS + floor:
        expected, floor = reference.judge(seen, scaled, MORE_DRAWS)
    first, second = np.sort(expected)[::-1][:2]
    # Two classes change places where each moves by half of what lies between them.
    is_other = given.argmax() != expected.argmax() and first - second > 2 * floor
    if points <= POINTS + floor and not is_other:
        return []
    plain = opened(path, managed=False)
    unmanaged = np.abs(given - reference.judge(plain)[0]).max() if plain else points
    why = "its colour profile is not applied" if unmanaged <= POINTS + floor < points else "other pixels"
    return [("differs", f"{why} ({points:.1f} points, rounding {floor:.1f}, {reference.name})")]


def allowance(rules, kind, form, name, reason):
    """The first rule for a finding. A rule has kind, format, and patterns of file names and of reasons."""
    for rule in rules:
        if rule["kind"] == kind and rule["format"] in ("any", form) and fnmatch.fnmatch(name, rule["file"]) and (
            re.search(rule["reason"], reason)
        ):
            return rule
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    parser.add_argument("--models", default="skin,imagenet")
    parser.add_argument("--chromium", action="store_true", help="let Chromium settle what differs or is refused")
    parser.add_argument("--json", type=pathlib.Path)
    asked = parser.parse_args()
    paths = sorted(p for folder in asked.folders for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
    paths = [path for path in paths if 0 < path.stat().st_size <= LARGEST_FILE]
    rules = json.loads(ALLOWED.read_text())
    references = [Reference(name) for name in asked.models.split(",")]
    left, allowed, skipped = collections.defaultdict(list), collections.Counter(), 0
    with Service("--quiet") as service:
        for path in paths:
            found = findings(service, path, references, asked.chromium)
            skipped += found is None
            for kind, reason in found or []:
                form = format_of(path.read_bytes()[:16])
                rule = allowance(rules, kind, form, path.name, reason)
                if kind == "settled":
                    allowed[reason] += 1
                elif rule:
                    allowed[rule["why"]] += 1
                else:
                    left[kind, form, re.sub(r"[\d.]+", "N", reason)].append(f"{path}: {reason}")
    where = machine()
    print(f"{where['cpu']}, {where['cores']} cores, {where['date']}: {len(paths)} files, "
          f"{len(paths) - skipped} of them photos to Pillow, models {asked.models}")
    for (kind, form, reason), files in sorted(left.items(), key=lambda item: (item[0][0], -len(item[1]))):
        print(f"{kind:8} {form:5} {len(files):4} × {reason}")
        for line in files[:5]:
            print(f"               {line}")
    for why, count in allowed.most_common():
        print(f"allowed        {count:4} × {why}")
    if asked.json:
        rows = [{"kind": k, "format": f, "reason": r, "files": files} for (k, f, r), files in left.items()]
        record = {"machine": where, "files": len(paths), "photos": len(paths) - skipped, "left": rows, "allowed": allowed}
        asked.json.write_text(json.dumps(record, indent=1) + "\n")
    print("nothing is left" if not left else f"{sum(map(len, left.values()))} findings are left")
    return bool(left)


if __name__ == "__main__":
    raise SystemExit(main())
