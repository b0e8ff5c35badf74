//! Measures a composed component, one command per line; used by `bench/portable.py`.
//!
//! ```text
//! instances COMPONENT.wasm FOLDER
//! ask PATH [PHOTO]        one request to a fresh instance: milliseconds, status, answer
//! hold N PATH [PHOTO]     N instances, each kept after its answer: bytes of the process before and after
//! ```
//!
//! The first line of output is about compiling. Each line on standard input is answered by a line of JSON.

use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use serde_json::{Value, json};
use skincell_portable_host::proxy::Proxy;
use wasmtime::{Result, format_err};

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [component, folder] = &arguments[..] else {
        return Err(format_err!("usage: instances COMPONENT.wasm FOLDER"));
    };
    let (folder, wasm) = (Path::new(folder), std::fs::read(component)?);
    let begin = Instant::now();
    let proxy = Proxy::new(&wasm)?;
    let compiled = milliseconds(begin);
    println!("{}", json!({"bytes": wasm.len(), "compile_ms": compiled, "memory": memory()?}));
    drop(wasm);
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words.as_slice() {
            ["ask", path, photo @ ..] => ask(&proxy, folder, path, photo.first().copied()).await?,
            ["hold", count, path, photo @ ..] => {
                hold(&proxy, folder, count.parse()?, path, photo.first().copied()).await?
            }
            _ => return Err(format_err!("{line:?} is neither `ask` nor `hold`")),
        };
        println!("{answer}");
    }
    Ok(())
}

fn milliseconds(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}

fn request(path: &str, photo: Option<&str>) -> Result<http::Request<Bytes>> {
    let request =
        http::Request::builder().uri(format!("http://bench{path}")).header("host", "bench");
    Ok(match photo {
        Some(photo) => request
            .method("POST")
            .header("content-type", "application/octet-stream")
            .body(Bytes::from(std::fs::read(photo)?))?,
        None => request.body(Bytes::new())?,
    })
}

async fn ask(proxy: &Proxy, folder: &Path, path: &str, photo: Option<&str>) -> Result<Value> {
    let request = request(path, photo)?;
    let begin = Instant::now();
    let answer = proxy.ask(folder, request).await?;
    let took = milliseconds(begin);
    let body = String::from_utf8_lossy(answer.body()).into_owned();
    Ok(json!({"ms": took, "status": answer.status().as_u16(), "body": body}))
}

async fn hold(
    proxy: &Proxy,
    folder: &Path,
    count: usize,
    path: &str,
    photo: Option<&str>,
) -> Result<Value> {
    let before = memory()?;
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        held.push(proxy.open(folder)?.ask(request(path, photo)?).await?);
    }
    let after = memory()?;
    let status: Vec<u16> = held.iter().map(|(answer, _)| answer.status().as_u16()).collect();
    Ok(json!({"before": before, "after": after, "status": status}))
}

/// Bytes of this process, as the kernel counts them.
fn memory() -> Result<Value> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let kib = line.trim_start_matches(':').trim().trim_end_matches("kB").trim();
        kib.parse::<u64>().unwrap_or_default() << 10
    };
    let (private, mapped, shared) = (bytes("RssAnon"), bytes("RssFile"), bytes("RssShmem"));
    Ok(json!({"private": private, "mapped": mapped, "shared": shared}))
}
