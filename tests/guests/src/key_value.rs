//! One call of a key-value store for each request: by Spin's interface, or by all of `wasi:keyvalue` in turn.

use bindings::wasi::keyvalue::atomics::{Cas, CasError, increment, swap};
use bindings::wasi::keyvalue::batch::{delete_many, get_many, set_many};
use bindings::wasi::keyvalue::store::{Error, open};
use spin_sdk::key_value::Store;

#[allow(warnings, unsafe_code, clippy::all, clippy::too_many_lines, reason = "generated")]
mod bindings {
    spin_sdk::wit_bindgen::generate!({
        path: "wit/keyvalue.wit",
        world: "imports",
        runtime_path: "::spin_sdk::wit_bindgen::rt",
    });
}

/// What a call gives; the query is `label,call,key,value`. `fill` sets as many bytes as the value says.
pub(crate) fn call(query: &str) -> String {
    let mut parts = query.splitn(4, ',');
    let [label, call, key, value] = [(); 4].map(|()| parts.next().unwrap_or_default());
    let store = match Store::open(label) {
        Ok(store) => store,
        Err(error) => return format!("{error:?}"),
    };
    let outcome = match call {
        "get" => store.get(key).map(|value| match value {
            Some(value) => String::from_utf8_lossy(&value).into_owned(),
            None => "none".to_owned(),
        }),
        "set" => store.set(key, value.as_bytes()).map(|()| "set".to_owned()),
        "fill" => {
            let value = vec![b'x'; value.parse().unwrap_or(0)];
            store.set(key, &value).map(|()| "set".to_owned())
        }
        "delete" => store.delete(key).map(|()| "deleted".to_owned()),
        "exists" => store.exists(key).map(|exists| exists.to_string()),
        "keys" => store.get_keys().map(|keys| keys.join(" ")),
        other => Ok(format!("there is no {other:?} here")),
    };
    outcome.unwrap_or_else(|error| format!("{error:?}"))
}

/// Calls everything of `wasi:keyvalue` on the store `label`, which is empty; a line for each outcome.
pub(crate) fn wasi(label: &str) -> String {
    fn lines(label: &str) -> Result<Vec<String>, Error> {
        let bucket = open(label)?;
        bucket.set("a", b"1")?;
        let single = [
            format!("{:?}", bucket.get("a")?),
            format!("{} {}", bucket.exists("a")?, bucket.exists("b")?),
        ];
        set_many(&bucket, &[("b".to_owned(), b"2".to_vec()), ("c".to_owned(), b"3".to_vec())])?;
        delete_many(&bucket, &["a".to_owned(), "none".to_owned()])?;
        let many = get_many(&bucket, &["c".to_owned(), "a".to_owned()])?;
        let batch = [
            format!("{many:?}"),
            bucket.list_keys(None)?.keys.join(" "),
            format!("{}", bucket.list_keys(Some("b")).is_err()),
        ];
        let cas = Cas::new(&bucket, "b")?;
        bucket.set("b", b"changed")?;
        let retried = match swap(cas, b"4") {
            Err(CasError::CasFailed(cas)) => {
                format!("{:?} {}", cas.current()?, swap(cas, b"4").is_ok())
            }
            other => format!("{}", other.is_ok()),
        };
        let atomics = [
            format!("{} {}", increment(&bucket, "n", 40)?, increment(&bucket, "n", 2)?),
            retried,
            format!("{:?}", bucket.get("b")?),
        ];
        bucket.delete("b")?;
        Ok(single.into_iter().chain(batch).chain(atomics).collect())
    }
    lines(label).map_or_else(|error| format!("{error:?}"), |lines| lines.join("\n"))
}
