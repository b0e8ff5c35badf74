//! Checks that the runner serves an application written for Spin: routes and their headers, variables,
//! environment, files, static answers and well-known paths, from `spin.toml` and from Spin's locked app.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use skincell_runner::compose::{Dependency, compose};
use skincell_tests::client::{connect, get};
use skincell_tests::{App, Runner, artifacts, core_module, portable};

const MANIFEST: &str = r#"
spin_manifest_version = 2

[application]
name = "all-of-spin"
version = "1.2.3"

[variables]
region = { required = true }
token = { default = "none", secret = true }

[[trigger.http]]
route = "/static"
static_response = { status_code = 418, headers = { x-from = "manifest", x-request-id = "mine" }, body = "short" }

[[trigger.http]]
route = "/users/:id/..."
component = "guest"

[[trigger.http]]
route = "/exact/headers"
component = "guest"

[[trigger.http]]
route = { private = true }
component = { source = "GUEST" }

[component.guest]
source = "GUEST"
variables = { url = "https://{{ region }}.test/{{ token }}" }
environment = { LEVEL = "info" }
files = ["data/*.txt", { source = "data/b.md", destination = "/docs/b.md" }]
exclude_files = ["data/secret.txt"]
"#;

fn app() -> App {
    let app = App::with_manifest(MANIFEST);
    let data = app.path().join("data");
    std::fs::create_dir(&data).unwrap();
    for name in ["a.txt", "b.md", "secret.txt"] {
        std::fs::write(data.join(name), format!("this is {name}")).unwrap();
    }
    app
}

fn text(runner: &Runner, path: &str) -> String {
    let answer = get(runner, path);
    assert_eq!(answer.status, 200, "{path}");
    String::from_utf8(answer.body).unwrap()
}

/// Checks the resources of the component; they are the same for the manifest and the locked app.
fn assert_given(runner: &Runner) {
    let cases = [
        ("variable?url", "https://eu.test/none"),
        ("variable?region", "Error::Undefined"),
        ("environment?LEVEL", "info"),
        ("file?/data/a.txt", "this is a.txt"),
        ("file?/docs/b.md", "this is b.md"),
        ("file?/data/b.md", ""),
        ("file?/data/secret.txt", ""),
    ];
    for (path, expected) in cases {
        let found = text(runner, &format!("/users/7/{path}"));
        assert!(
            found.starts_with(expected) && found.is_empty() == expected.is_empty(),
            "{path}: {found}"
        );
    }
    let fixed = get(runner, "/static");
    assert_eq!(fixed.header("x-request-id"), "mine");
    let added = ["x-content-type-options", "referrer-policy"].map(|name| fixed.header(name));
    assert_eq!(added, ["nosniff", "no-referrer"]);
    let fixed = (fixed.status, fixed.header("x-from").to_owned(), fixed.body.clone());
    assert_eq!(fixed, (418, "manifest".to_owned(), b"short".to_vec()));
    let info = get(runner, "/.well-known/spin/info").json();
    assert_eq!((&info["name"], &info["version"]), (&"all-of-spin".into(), &"1.2.3".into()));
    assert_eq!(text(runner, "/.well-known/spin/health"), "OK");
    assert_eq!(info.get("oci_image_digest"), None);
    assert_eq!(get(runner, "/elsewhere").status, 404);
}

#[test]
fn a_spin_application_gets_the_same_resources_as_in_spin() {
    let app = app();
    let runner = Runner::start(&app, &["--variable", "region=eu"]);
    assert_given(&runner);
    let headers = text(&runner, "/users/7/x/headers?y=1");
    let address = runner.address();
    for line in [
        format!("spin-full-url: http://{address}/users/7/x/headers?y=1\n"),
        "spin-path-info: /x/headers\n".to_owned(),
        "spin-matched-route: /users/:id/...\n".to_owned(),
        "spin-raw-component-route: /users/:id/...\n".to_owned(),
        "spin-component-route: /users/:id\n".to_owned(),
        "spin-base-path: /\n".to_owned(),
        "spin-path-match-id: 7\n".to_owned(),
        "spin-client-addr: 127.0.0.1:".to_owned(),
    ] {
        assert!(headers.contains(&line), "{line} is not in\n{headers}");
    }
    assert!(text(&runner, "/exact/headers").contains("spin-path-info: \n"));
}

/// Spin writes the locked app to a file and starts its trigger with the file's URL in the environment.
#[test]
fn a_locked_app_from_spin_is_served() {
    let app = app();
    let copies = app.path().join("assets of guest");
    std::fs::create_dir_all(copies.join("data")).unwrap();
    std::fs::create_dir(copies.join("docs")).unwrap();
    std::fs::copy(app.path().join("data/a.txt"), copies.join("data/a.txt")).unwrap();
    std::fs::copy(app.path().join("data/b.md"), copies.join("docs/b.md")).unwrap();
    let url =
        |path: &std::path::Path| format!("file://{}", path.to_str().unwrap().replace(' ', "%20"));
    let source = serde_json::json!(
        {"content_type": "application/wasm", "source": url(&artifacts().guests)});
    let trigger = |id: &str, config: serde_json::Value| serde_json::json!({"id": id, "trigger_type": "http", "trigger_config": config});
    let headers = serde_json::json!({"x-from": "manifest", "x-request-id": "mine"});
    let static_response =
        serde_json::json!({"status_code": 418, "headers": headers, "body": "short"});
    let locked = serde_json::json!({
        "spin_lock_version": 0,
        "metadata": {"name": "all-of-spin", "version": "1.2.3", "description": "", "trigger": {},
                     "origin": url(&app.path().join("spin.toml"))},
        "variables": {"region": {}, "token": {"default": "none", "secret": true}},
        "triggers": [
            trigger("a", serde_json::json!({"route": "/static", "static_response": static_response})),
            trigger("b", serde_json::json!({"route": "/users/:id/...", "component": "guest"})),
            {"id": "c", "trigger_type": "redis", "trigger_config": {"channel": "another process's"}},
        ],
        "components": [{
            "id": "guest",
            "metadata": {"description": "", "allowed_outbound_hosts": [], "ai_models": ["skin"]},
            "source": source,
            "env": {"LEVEL": "info"},
            "files": [{"source": url(&copies), "path": "/"}],
            "config": {"url": "https://{{ region }}.test/{{ token }}"},
        }],
    });
    let file = app.path().join("spin.lock");
    std::fs::write(&file, locked.to_string()).unwrap();
    let environment = [
        ("SPIN_LOCKED_URL", url(&file)),
        ("SPIN_WORKING_DIR", app.path().to_str().unwrap().to_owned()),
        ("SPIN_VARIABLE_REGION", "eu".to_owned()),
    ];
    let environment = environment.each_ref().map(|(name, value)| (*name, &value[..]));
    assert_given(&Runner::start_with(&app, &[], &environment));
}

/// Components' output goes to the terminal or to files of each component, by Spin's flags.
#[test]
fn output_is_kept_and_followed() {
    let app = app();
    let logs = app.path().join("logs");
    let folder = logs.to_str().unwrap();
    let kept =
        |name: &str| std::fs::read_to_string(logs.join(format!("guest_{name}.txt"))).unwrap();
    let flags = ["--variable", "region=eu", "--log-dir", folder, "--follow", "guest"];
    let runner = Runner::start(&app, &flags);
    assert_eq!(text(&runner, "/users/7/print?spoken"), "printed");
    assert_eq!((kept("stdout"), kept("stderr")), ("spoken\n".to_owned(), "spoken\n".to_owned()));
    // Lines for the terminal are queued, so that an unread terminal blocks no request; wait for them.
    let shown = || std::fs::read_to_string(app.path().join("runner.log")).unwrap();
    let start = Instant::now();
    while !shown().contains("spoken\n") {
        assert!(start.elapsed() < Duration::from_secs(10), "{}", shown());
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(runner);
    let runner =
        Runner::start(&app, &["--variable", "region=eu", "-q", "-L", folder, "--truncate-logs"]);
    assert_eq!(text(&runner, "/users/7/print?quiet"), "printed");
    assert_eq!(kept("stderr"), "quiet\n");
    let log = runner.stop();
    assert!(!log.contains("quiet\n"), "{log}");
    let refused = Runner::refused(&app, &["--variable", "region=eu", "--follow", "nobody"]);
    assert!(refused.contains("no component \"nobody\""), "{refused}");
}

/// What comes after a body, once it was announced as chunked.
const WITH_A_TRAILER: &str = "3\r\nabc\r\n0\r\nX-T: v\r\n\r\n";

/// Fields that follow a body reach components of both versions of WASI.
#[test]
fn fields_after_a_body_reach_the_component() {
    let app = App::with_both_guests("");
    let runner = Runner::start(&app, &[]);
    for component in ["a", "b"] {
        let mut socket = connect(&runner);
        let head = format!(
            "POST /{component}/trailers-in HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
             Connection: close\r\n\r\n{WITH_A_TRAILER}"
        );
        socket.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{component}: {answer}");
        assert!(answer.contains("abc\nx-t: v\n"), "{component}: {answer}");
    }
}

/// The runner serves any application: this one is not a classifier, and its model has two inputs.
#[test]
fn an_application_unrelated_to_photos_has_wasi_nn() {
    let app = App::with_two_inputs();
    let runner = Runner::start(&app, &[]);
    let answer = text(&runner, "/alike/dot?left=1,2,3&right=4,5,6");
    assert_eq!(answer, "product [1, 3] [4.0, 10.0, 18.0]\ndot [1, 1] [32.0]\n");
    let missing = get(&runner, "/alike/other?left=1,2,3&right=4,5,6");
    assert_eq!(missing.status, 502);
    assert!(String::from_utf8_lossy(&missing.body).starts_with("ErrorCode::NotFound"));
    let short = get(&runner, "/alike/dot?left=1,2&right=4,5,6");
    assert_eq!(short.status, 502);
    let short = String::from_utf8_lossy(&short.body).into_owned();
    assert!(short.starts_with("ErrorCode::RuntimeError"), "{short}");
    for part in ["\"left\"", "[1, 2]"] {
        assert!(short.contains(part), "the input and its shape are named: {short}");
    }
}

/// A route written as a path of the runner's own never reaches the application, which is said at the start;
/// with a port for the runner's paths, it does.
#[test]
fn an_application_route_that_the_runner_shadows_is_warned_about() {
    let app = App::with_manifest(
        r#"
        spin_manifest_version = 2
        application = { name = "shadowed" }
        [[trigger.http]]
        route = "/healthz"
        static_response = { body = "the application's" }
        [[trigger.http]]
        route = "/..."
        static_response = { body = "all else" }
        "#,
    );
    let runner = Runner::start(&app, &[]);
    assert_eq!(text(&runner, "/healthz"), "ok");
    let log = runner.stop();
    let warned = log.lines().filter(|line| line.contains("answers this path itself")).count();
    assert_eq!(warned, 1, "for /healthz, and not for the wildcard: {log}");
    let runner = Runner::start(&app, &["--admin-listen", "127.0.0.1:0"]);
    assert_eq!(text(&runner, "/healthz"), "the application's");
    let log = runner.stop();
    assert!(!log.contains("answers this path itself"), "{log}");
}

/// It was answered before its Host was looked at.
#[test]
fn a_static_answer_wants_one_host_as_a_component_does() {
    let app = App::with_manifest(
        r#"
        spin_manifest_version = 2
        application = { name = "fixed" }
        [[trigger.http]]
        route = "/..."
        static_response = { body = "fixed" }
        "#,
    );
    let runner = Runner::start(&app, &[]);
    for (hosts, expected) in
        [("Host: a\r\n", 200), ("Host: a\r\nHost: b\r\n", 400), ("Host: a b\r\n", 400)]
    {
        let mut socket = connect(&runner);
        let head = format!("GET / HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{hosts:?}: {answer}");
    }
}

/// By Spin's rules a dependency sees its component's files and environment only if the manifest lets it
/// inherit them. Composition refuses a dependency that needs more. Here the dependency is wasi-nn in Wasm,
/// which reads models from files and their folder from a variable.
#[test]
fn a_dependency_sees_what_it_inherits_and_is_refused_otherwise() {
    let app = App::with_colours();
    let manifest = r#"
        spin_manifest_version = 2
        application = { name = "composed" }
        [[trigger.http]]
        route = "/..."
        component = "guest"
        [component.guest]
        source = "composed.wasm"
        files = [{ source = "models", destination = "/elsewhere" }]
        environment = { WASI_NN_MODELS = "/elsewhere" }
    "#;
    std::fs::write(app.path().join("spin.toml"), manifest).unwrap();
    let composed = |inherits: &[&str]| {
        let dependency = Dependency {
            import: "wasi:nn".to_owned().try_into().unwrap(),
            source: portable().to_owned(),
            export: None,
            inherits: inherits.iter().map(|key| (*key).to_owned()).collect(),
        };
        compose(&artifacts().guests, &[dependency])
    };
    let cases: [(&[&str], &str); 3] =
        [(&[], "component's"), (&["files"], "environment"), (&["environment"], "files")];
    for (inherits, missing) in cases {
        let refusal = composed(inherits).unwrap_err().to_string();
        assert!(refusal.contains(missing) && refusal.contains("inherit"), "{refusal}");
    }
    let composed = composed(&["environment", "files"]).unwrap();
    std::fs::write(app.path().join("composed.wasm"), composed).unwrap();
    let runner = Runner::start(&app, &[]);
    assert_eq!(text(&runner, "/load-name?colours"), "loaded");
    assert_eq!(text(&runner, "/environment?WASI_NN_MODELS"), "/elsewhere");
}

/// Fields that a component of either version of WASI sends after its body reach a client that takes them.
#[test]
fn fields_after_an_answers_body_reach_the_client() {
    let app = App::with_both_guests("");
    let runner = Runner::start(&app, &[]);
    for component in ["a", "b"] {
        let mut socket = connect(&runner);
        let head = format!(
            "GET /{component}/trailers-out HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{component}: {answer}");
        assert!(answer.ends_with("\r\nsummed\r\n0\r\nx-sum: 7\r\n\r\n"), "{component}: {answer}");
    }
}

/// Before it starts a trigger, Spin asks for the trigger's flags.
#[test]
fn the_trigger_lists_its_flags_for_spin() {
    let run = |flag: &str| Command::new(&artifacts().runner).args(["up", flag]).output().unwrap();
    let metadata = run("--launch-metadata-only");
    assert!(metadata.status.success());
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stderr).unwrap();
    let flags = metadata["all_flags"].as_array().unwrap();
    assert!(
        flags.iter().any(|flag| flag["long"] == "--quiet" && flag["short"] == "-q"),
        "{flags:?}"
    );
    let help = String::from_utf8(run("--help-args-only").stdout).unwrap();
    assert!(help.contains("--listen") && !help.contains("Usage"), "{help}");
}

/// Staged files are deleted before the process ends.
#[test]
fn a_clean_stop_leaves_no_staged_files_behind() {
    let app = app();
    for number in 0..2_000 {
        std::fs::write(app.path().join(format!("data/{number}.txt")), "").unwrap();
    }
    let mut runner = Runner::start(&app, &["--variable", "region=eu"]);
    let staged = || {
        let entries = std::fs::read_dir(app.path()).unwrap().flatten();
        entries.filter(|e| e.file_name().to_string_lossy().starts_with("skincell-files-")).count()
    };
    assert_eq!(text(&runner, "/users/7/file?/data/a.txt"), "this is a.txt");
    assert!(staged() > 0);
    runner.terminate();
    assert_eq!((runner.wait(), staged()), (Some(0), 0));
}

/// Environment variables are bytes, not necessarily UTF-8.
#[test]
fn a_non_utf8_environment_variable_is_ignored() {
    let odd = OsStr::from_bytes(b"\xff\xfe");
    let app = app();
    let runner = Runner::start_with(&app, &["--variable", "region=eu"], &[("ODD", odd)]);
    assert_eq!(text(&runner, "/users/7/variable?url"), "https://eu.test/none");
}

/// Stock Spin accepts the repository's own manifest. Skipped if there is no `spin` on the PATH.
#[test]
fn spin_accepts_the_repositorys_manifest() {
    let spin = Command::new("spin").arg("--version").output();
    let Ok(version) = spin else {
        println!("skipped: there is no `spin` on the PATH");
        return;
    };
    println!("checked with {}", String::from_utf8_lossy(&version.stdout).trim());
    let manifest = skincell_tests::repository().join("spin.toml");
    // To print the help of the trigger, Spin reads the manifest.
    let output =
        Command::new("spin").args(["up", "--help", "--from"]).arg(manifest).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What cargo makes for `wasm32-wasip1`, as the templates of spin-sdk 5 and before had it, gets the same as a
/// component: resources, wasi-nn, an instance for each request.
#[test]
fn a_core_module_is_served_as_the_component_that_spin_makes_of_it() {
    let modular = |app: App| {
        let path = app.path().join("spin.toml");
        let manifest = std::fs::read_to_string(&path).unwrap();
        let component = artifacts().guests.to_str().unwrap();
        assert!(manifest.contains(component));
        let module = core_module().to_str().unwrap();
        std::fs::write(path, manifest.replace(component, module)).unwrap();
        app
    };
    assert!(std::fs::read(core_module()).unwrap().starts_with(b"\0asm\x01\0\0\0"));
    // The compile cache knows a component by its bytes.
    let component = compose(core_module(), &[]).unwrap();
    assert!(component == compose(core_module(), &[]).unwrap(), "the same bytes each time");
    let plain = modular(app());
    let runner = Runner::start(&plain, &["--variable", "region=eu"]);
    assert_given(&runner);
    for _ in 0..100 {
        assert_eq!(text(&runner, "/users/7/marker?left"), "nothing");
    }
    assert_eq!(get(&runner, "/users/7/trap").status, 500);
    let models = modular(App::with_colours());
    let runner = Runner::start(&models, &[]);
    assert_eq!(text(&runner, "/guest/load-name?colours"), "loaded");
}
