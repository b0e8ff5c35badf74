//! Parsing any text as a `spin.toml` gives an error with a message, or a manifest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skincell_runner::manifest;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(error) = manifest::parse(text) {
        assert!(!error.to_string().is_empty());
    }
});
