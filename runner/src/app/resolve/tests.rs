//! What a manifest is resolved to, and what is refused.

use super::{Additions, Target, resolve};
use std::path::Path;

const HEAD: &str = "spin_manifest_version = 2\n[application]\nname = \"a\"\n";

fn app(rest: &str) -> anyhow::Result<super::App> {
    resolve(
        crate::manifest::parse(&format!("{HEAD}{rest}"))?,
        Path::new("/app"),
        &Additions::default(),
    )
}

#[test]
fn a_component_is_resolved_with_its_grants() {
    let app = app(r#"
        [[trigger.http]]
        route = "/..."
        component = "skincell"
        [[trigger.http]]
        route = "/static"
        static_response = { status_code = 204 }
        [component.skincell]
        source = "skincell.wasm"
        environment = { ENABLE_GRADCAM = "true" }
        ai_models = ["skin"]
        [component.skincell.tool.skincell]
        models = "weights"
        [component.skincell.tool.other]
        anything = 1
        "#)
    .unwrap();
    let component = &app.components[0];
    assert_eq!(component.source, Path::new("/app/skincell.wasm"));
    assert_eq!(component.models_folder, Path::new("/app/weights"));
    assert_eq!(component.models, ["skin"]);
    assert!(matches!(&app.triggers[1].target, Target::Static(s) if s.status_code == 204));
}

/// The expected ids are those of Spin's `normalize_manifest`.
#[test]
fn inline_components_are_named_as_in_spin() {
    let named = |triggers: &str| {
        let app = app(&format!("{triggers}[component.a]\nsource = \"a.wasm\"\n")).unwrap();
        app.components.into_iter().map(|component| component.id).collect::<Vec<_>>()
    };
    let trigger = |id: &str, route: &str, component: &str| {
        format!("[[trigger.http]]\n{id}\nroute = \"/{route}\"\ncomponent = {component}\n")
    };
    let (a, inline) = ("\"a\"", "{ source = \"b.wasm\" }");
    let first = [trigger("", "a", a), trigger("", "b", inline)].concat();
    assert_eq!(named(&first), ["a", "http-trigger1-component"]);
    let twice = [trigger("", "a", a), trigger("", "b", a), trigger("", "c", inline)].concat();
    assert_eq!(named(&twice), ["a", "http-trigger2-component"]);
    let taken = [trigger("id = \"http-trigger1\"", "a", inline), trigger("", "b", inline)].concat();
    assert_eq!(named(&taken), ["http-trigger1-component", "http-trigger2-component"]);
    let odd = [trigger("id = \"a b\"", "a", inline), trigger("id = \"\"", "b", inline)].concat();
    assert_eq!(named(&odd), ["inline-component1", "http-trigger1-component"]);
}

#[test]
fn components_that_no_trigger_names_are_built_too() {
    let app = app(r#"
        [[trigger.http]]
        route = "/..."
        component = "a"
        [component.a]
        source = "a.wasm"
        dependencies = { "my:dep/x@1.0.0" = { component = "dep" } }
        [component.dep]
        source = "dep.wasm"
        build = { command = "make dep" }
        "#)
    .unwrap();
    let builds = app.builds().map(|(id, build)| (id, build.command.as_slice().join("")));
    assert_eq!(builds.collect::<Vec<_>>(), [("dep", "make dep".to_owned())]);
}

#[test]
fn what_is_no_manifest_is_named() {
    for (path, expected) in [
        ("app.wasm", "is a component and not a manifest"),
        ("ghcr.io/owner/app:v1", "not fetched from there"),
        ("localhost:5000/app", "not fetched from there"),
        ("../nowhere", "cannot read"),
    ] {
        let error = super::load(Path::new(path), &Additions::default()).unwrap_err();
        assert!(error.to_string().contains(expected), "{path}: {error:#}");
    }
}

#[test]
fn env_on_the_command_line_replaces_the_manifests() {
    let text = format!(
        "{HEAD}[[trigger.http]]\nroute = \"/\"\ncomponent = \"c\"\n[component.c]\n\
         source = \"c.wasm\"\nenvironment = {{ A = \"1\", B = \"1\" }}\n"
    );
    let environment = vec![("B".to_owned(), "2".to_owned())];
    let additions = Additions { environment, ..Additions::default() };
    let manifest = crate::manifest::parse(&text).unwrap();
    let app = resolve(manifest, Path::new("/app"), &additions).unwrap();
    let expected = [("A", "1"), ("B", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(app.components[0].environment, expected);
}

#[test]
fn capabilities_that_are_not_offered_are_refused_by_name() {
    let cases = [
        ("key_value_stores = [\"other\"]", "unknown key_value_stores label \"other\""),
        ("allowed_outbound_hosts = [\"a.test\"]", "\"a.test\": an entry has the form scheme://"),
        ("allowed_http_hosts = [\"a.test\"]", "`allowed_http_hosts` is not"),
        ("dependencies = { \"a:b@1.0.0\" = \"1\" }", "a:b@1.0.0 (version 1) would have to be"),
        ("surprise = 1", "surprise"),
        ("tool = { skincell = { model = \"x\" } }", "unknown field `model`"),
    ];
    for (line, expected) in cases {
        let rest = format!(
            "[[trigger.http]]\nroute = \"/\"\ncomponent = \"c\"\n\
             [component.c]\nsource = \"c.wasm\"\n{line}\n"
        );
        let error = format!("{:#}", app(&rest).unwrap_err());
        assert!(error.contains(expected), "{line}: {error}");
    }
    let error = format!("{:#}", app("[[trigger.redis]]\nchannel = \"x\"\n").unwrap_err());
    assert!(error.contains("\"redis\" is not offered"), "{error}");
    for (response, expected) in [
        ("{ status_code = 9999 }", "status_code 9999 is not between 200 and 999"),
        ("{ headers = { \"a b\" = \"x\" } }", "the header \"a b\""),
    ] {
        let trigger = format!("[[trigger.http]]\nroute = \"/x\"\nstatic_response = {response}\n");
        let error = format!("{:#}", app(&trigger).unwrap_err());
        assert!(error.contains("\"/x\"") && error.contains(expected), "{error}");
    }
    let error = crate::manifest::parse("spin_manifest_version = 1\nname = \"x\"").unwrap_err();
    assert!(error.to_string().contains("only version 2"), "{error}");
    for (text, expected) in [
        ("spin_version = \"1\"\nname = \"x\"", "only version 2"),
        ("spin_manifest_version = \"2\"", "must be the number"),
    ] {
        let error = crate::manifest::parse(text).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}
