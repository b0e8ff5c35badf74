"""Checks the files from render.py against schemas: Kubernetes' own, and those in schemas/ for Render, SpinKube and
KServe; and the compose file, GitHub's files and the alert rules by the checkers of others.

    pip install -r deploy/requirements.txt
    python3 deploy/validate.py

Also checks what schemas cannot express: that image, port and paths agree between files, that limits are not
below requests, that the files a Containerfile copies exist, and that the archive's README names what is in it.
Exits with 1 on a problem.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib

import jsonschema
import kubernetes_validate
import yaml

import make_wheel as wheels

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent


def documents(name):
    return [document for document in yaml.safe_load_all((HERE / name).read_text()) if document]


def against_ours(document, schema):
    """The problems of a document by a schema in schemas/."""
    schema = json.loads((HERE / "schemas" / schema).read_text())
    for error in jsonschema.Draft202012Validator(schema).iter_errors(document):
        yield f"{schema['title']}: {'/'.join(map(str, error.absolute_path))}: {error.message}"


def against_kubernetes(document, version):
    """The problems of a document by Kubernetes' schemas of this version, including unknown members."""
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{document['kind']}: {'/'.join(map(str, error.path))}: {error.message}"


def against_schemas(version):
    """Checks every file against its schema, and that the schemas find deliberate errors."""
    checks = (
        ("kubernetes.yaml", lambda document: against_kubernetes(document, version)),
        ("render.yaml", lambda document: against_ours(document, "render.json")),
        ("spinkube.yaml", lambda document: against_ours(document, "spinapp.json")),
        ("kserve.yaml", lambda document: against_ours(document, f"{document['kind'].lower()}.json")),
    )
    for name, check in checks:
        for document in documents(name):
            yield from (f"{name}: {problem}" for problem in check(document))
            main = document["spec"] if "spec" in document else document["services"][0]
            for member, value in (("surprise", 1), (next(iter(main)), ["of another type"])):
                before = main.get(member)
                main[member] = value
                if not list(check(document)):
                    yield f"{name}: its schema takes {member} = {value!r}, so it checks nothing"
                main[member] = before
                if before is None:
                    del main[member]


def mib(quantity):
    number, unit = re.fullmatch(r"([0-9.]+)(Mi|Gi)", quantity).groups()
    return float(number) * (1024 if unit == "Gi" else 1)


def against_each_other(figures):
    """Problems that schemas cannot express."""
    kinds = {document["kind"]: document for document in documents("kubernetes.yaml")}
    pod = kinds["Deployment"]["spec"]["template"]
    container = pod["spec"]["containers"][0]
    spin = documents("spinkube.yaml")[0]["spec"]
    for where, resources in (("kubernetes.yaml", container["resources"]), ("spinkube.yaml", spin["resources"])):
        if mib(resources["requests"]["memory"]) > mib(resources["limits"]["memory"]):
            yield f"{where}: the memory request exceeds the limit"
    if mib(container["resources"]["requests"]["memory"]) < figures["measured"]["peak_mib"]:
        yield "kubernetes.yaml: the memory request is below the measured peak"
    labels = pod["metadata"]["labels"]
    for kind in ("Deployment", "Service", "PodDisruptionBudget"):
        selector = kinds[kind]["spec"]["selector"]
        if selector.get("matchLabels", selector) != labels:
            yield f"kubernetes.yaml: {kind} selects other pods"
    if pod["spec"]["terminationGracePeriodSeconds"] <= figures["service"]["drain_seconds"]:
        yield "kubernetes.yaml: a pod is killed before its accepted requests are finished"
    source = (ROOT / "runner/src/admin.rs").read_text() + (ROOT / "runner/src/service.rs").read_text()
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        path = container[probe]["httpGet"]["path"]
        if f'"{path}"' not in source:
            yield f"kubernetes.yaml: {probe} uses {path}, which the runner does not serve"
    runtime, service = (document["spec"] for document in documents("kserve.yaml"))
    model, formats = service["predictor"]["model"], runtime["supportedModelFormats"]
    if model["modelFormat"]["name"] not in [known["name"] for known in formats]:
        yield "kserve.yaml: the runtime does not take the service's format"
    listens = [f"0.0.0.0:{port['containerPort']}" for port in runtime["containers"][0]["ports"]]
    if not set(listens) & set(runtime["containers"][0]["args"]):
        yield f"kserve.yaml: the program does not listen on {listens}"
    render = documents("render.yaml")[0]["services"][0]
    if f'"{render["healthCheckPath"]}"' not in source:
        yield f"render.yaml: the health check uses {render['healthCheckPath']}, which the runner does not serve"
    if not (ROOT / render["dockerfilePath"]).exists():
        yield f"render.yaml: there is no {render['dockerfilePath']}"


def metrics_named():
    """Metrics that docs/deploy.md or an alert names and the runner does not have."""
    source = "".join((ROOT / "runner/src" / file).read_text() for file in ("metrics.rs", "metrics/answers.rs"))
    for path in ("docs/deploy.md", "deploy/prometheus/rules.yaml"):
        for name in re.findall(r"\b((?:skincell|http)_[a-z_]+)", (ROOT / path).read_text()):
            bare = re.sub(r"_(total|seconds|bytes)$", "", name)
            if f'"{bare}"' not in source:
                yield f"{path}: the runner has no metric {name}"


def archive_described():
    """The archive's README installs completions by the names and to the places that they have in the wheel."""
    lines = (HERE / "archive.md").read_text().splitlines()
    places = wheels.COMPLETIONS.values()
    wanted = [f"install -Dm644 completions/{file} ~/.local/share/{place}" for file, place in places]
    return [f"archive.md: missing: {line}" for line in wanted if line not in lines]


def with_tools():
    """The problems that other projects' checkers find: compose files, workflows, issue forms, alert rules. Each checker
    must find a deliberate error."""
    schema = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    checks = [([*schema, "vendor.compose-spec"], "deploy/compose.yaml")]
    for path in sorted((ROOT / ".github" / "workflows").iterdir()):
        checks.append(([*schema, "vendor.github-workflows"], path.relative_to(ROOT)))
    for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")):
        if path.name != "config.yml":
            checks.append(([*schema, "vendor.github-issue-forms"], path.relative_to(ROOT)))
    if shutil.which("promtool"):
        checks.append((["promtool", "check", "rules"], "deploy/prometheus/rules.yaml"))
        checks.append((["promtool", "test", "rules"], "deploy/prometheus/rules_test.yaml"))
    else:
        print("skipped: the alert rules, because there is no promtool (Debian: prometheus)")
    for command, path in checks:
        run = subprocess.run([*command, str(path)], cwd=ROOT, capture_output=True, text=True)
        if run.returncode:
            yield f"{path}: {' '.join(command[-2:])}: {run.stdout}{run.stderr}"
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=(ROOT / path).parent) as wrong:
            # Of a known member, another type; of an alert test, other rules.
            wrong.write(re.sub(r"(?m)^(services|jobs|body|groups|tests):.*$", r"\1: 7\nignored:", (ROOT / path).read_text()))
            wrong.flush()
            if not subprocess.run([*command, wrong.name], cwd=ROOT, capture_output=True).returncode:
                yield f"{path}: {' '.join(command[-2:])} takes anything, so it checks nothing"


def main():
    figures = tomllib.loads((HERE / "figures.toml").read_text())
    problems = [
        *against_schemas(figures["kubernetes"]["version"]),
        *against_each_other(figures),
        *metrics_named(),
        *archive_described(),
        *with_tools(),
    ]
    print(*problems, sep="\n", end="\n" if problems else "")
    print(f"deploy: {len(problems)} problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
