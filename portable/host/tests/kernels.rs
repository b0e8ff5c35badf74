//! cellnet's own tests, the kernels against the definition among them, compiled to Wasm (simd128) and run
//! there: the back end that stock Spin uses.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod build;

use std::process::{Command, Stdio};

#[test]
fn the_kernels_hold_in_wasm() {
    let arguments = ["test", "--package", "cellnet", "--lib", "--no-run", "--release"];
    let program =
        build::built(&[&arguments[..], &["--target", "wasm32-wasip2"]].concat(), "cellnet-");
    let output = Command::new(env!("CARGO_BIN_EXE_wasi-run"))
        .arg(program)
        .arg("--test-threads=1")
        .stdin(Stdio::null())
        .output()
        .expect("the host starts");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}", output.status);
    // Not a run of nothing.
    for test in ["dense_convolutions", "winograd_convolutions", "depthwise_convolutions"] {
        assert!(text.contains(&format!("{test} ... ok")), "{test} did not run");
    }
}
