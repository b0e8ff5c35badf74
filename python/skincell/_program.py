"""Finds and runs the program `skincell`."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import weakref
from collections.abc import Iterator, Sequence

from ._client import Client

# What `skincell` calls the Python that exports models.
_PYTHON = "SKINCELL_PYTHON"


class PrepareError(Exception):
    """A model cannot be prepared; the text says why and what to do."""


class ServeError(Exception):
    """The service did not start; the text says why and what to do."""


def program() -> str:
    """The path of the program: of this package's installation, or else the one in PATH."""
    name = "skincell.exe" if os.name == "nt" else "skincell"
    schemes = [None, sysconfig.get_preferred_scheme("user")] if sys.version_info >= (3, 10) else [None]
    folders = [sysconfig.get_path("scripts", scheme) if scheme else sysconfig.get_path("scripts") for scheme in schemes]
    # The last is where `pip install --target` puts it.
    for folder in [*folders, pathlib.Path(__file__).resolve().parent.parent / "bin"]:
        path = pathlib.Path(folder, name)
        if path.is_file():
            return str(path)
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"there is no program {name} beside this Python or in PATH; install skincell again")
    return found


def prepare(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    force: bool = False,
    flags: Sequence[str] = (),
) -> pathlib.Path:
    """Prepares a trained classifier (.keras, .h5, .onnx, .pt2 ...) as the folder `output`, and returns it.

    `labels` are the classes in the order of the scores, or a file with them; without it they are read from the
    model or a file beside it. `force` replaces an existing folder. `flags` are further flags of `skincell model
    prepare`, such as ["--preprocess", "torch"]. What was assumed is printed. Raises PrepareError if the model
    cannot be prepared, or if its answers differ from the original's.
    """
    command = [program(), "model", "prepare", os.fspath(model), "--output", os.fspath(output)]
    with _labels(labels) as given:
        command += [*given, *(["--force"] if force else []), *flags]
        run = subprocess.run(command, env=_environment(), stderr=subprocess.PIPE, text=True)
    if run.returncode:
        raise PrepareError(_reason(run.stderr))
    sys.stderr.write(run.stderr)
    return pathlib.Path(output)


class Service:
    """A running service: ended by `close`, by the end of its `with` block, or with this Python."""

    client: Client
    """A client of it."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.client = Client(url)
        self._end = weakref.finalize(self, _stop, process)
        # Whoever keeps only the client keeps the service.
        self.client._service = self

    def close(self) -> None:
        """Lets requests finish, and ends the service."""
        self._end()

    def __enter__(self) -> Client:
        return self.client

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(
    model: str | os.PathLike[str] | None = None,
    *,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    flags: Sequence[str] = (),
) -> Service:
    """Serves a model on a free port of this machine: `with serve() as client:`, or `service = serve()` and
    `service.client` until `service.close()`, as in the cells of a notebook.

    `model` is a prepared folder or a classifier, which is prepared first; None is the included model. `flags` are
    further flags of `skincell serve`. Raises ServeError if the service does not start.
    """
    command = [program(), "serve", *([os.fspath(model)] if model is not None else [])]
    with _labels(labels) as given, tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        # Its input ends with this process, even if that is killed.
        command += ["--listen", "127.0.0.1:0", "--until-input-ends", *given, *flags]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        process = subprocess.Popen(command, env=_environment(), text=True, **pipes)
        assert process.stdout
        try:
            for line in process.stdout:
                found = re.match(r"Serving (https?://\S+)", line)
                if found:
                    return Service(process, found.group(1))
            process.wait()
            errors.seek(0)
            raise ServeError(_reason(errors.read()))
        except BaseException:
            _stop(process)
            raise


def _stop(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    process.communicate()


def run(arguments: Sequence[str]) -> int:
    """Runs the program in place of this process where the system can; returns its exit code otherwise."""
    command = [program(), *arguments]
    if os.name == "posix":
        os.execve(command[0], command, _environment())
    return subprocess.run(command, env=_environment()).returncode


def _environment() -> dict[str, str]:
    return {_PYTHON: sys.executable} | os.environ


@contextlib.contextmanager
def _labels(labels: str | os.PathLike[str] | Sequence[str] | None) -> Iterator[list[str]]:
    """The flag for labels; a list becomes a file, because labels may contain commas."""
    if labels is None:
        yield []
    elif isinstance(labels, (str, os.PathLike)):
        yield ["--labels", os.fspath(labels)]
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "labels.txt")
            path.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
            yield ["--labels", str(path)]


def _reason(errors: str) -> str:
    """The message of the program, without the progress before it."""
    return errors.rpartition("error: ")[2].strip() or "the program gave no reason"
