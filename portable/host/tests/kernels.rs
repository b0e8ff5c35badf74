//! Runs the tests of cellnet that compare kernels with their definition in Wasm (simd128): the back end on
//! stock Spin.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod build;

use std::process::{Command, Stdio};

#[test]
fn the_kernels_pass_their_tests_in_wasm() {
    let arguments = ["test", "--package", "cellnet", "--test", "kernels", "--no-run", "--release"];
    let program =
        build::built(&[&arguments[..], &["--target", "wasm32-wasip2"]].concat(), "kernels-");
    let output = Command::new(env!("CARGO_BIN_EXE_wasi-run"))
        .arg(program)
        .arg("--test-threads=1")
        .stdin(Stdio::null())
        .output()
        .expect("the host starts");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}", output.status);
    // The tests in question did run.
    for test in ["dense_convolutions", "winograd_convolutions", "depthwise_convolutions"] {
        assert!(text.contains(&format!("{test} ... ok")), "{test} did not run");
    }
}
