//! Damaged ONNX files, each with one defect, made from the model [`crate::colours`]. No engine may load
//! them, and every engine must return.

use std::path::Path;

use crate::colours::exported;

/// A varint with more bytes than any number has; a reader that waits for its end never returns.
const ENDLESS: [u8; 12] = [0xff; 12];
/// Number of randomly damaged files, besides the hand-made ones.
const RANDOM: u64 = 24;
/// Depth of nested graphs.
const DEEP: usize = 500;

/// A damaged file.
#[derive(Debug)]
pub struct Damaged {
    /// Its defect, used as a folder's name.
    pub name: String,
    /// The content of `model.onnx`.
    pub bytes: Vec<u8>,
    /// Whether it must be refused; otherwise any answer will do.
    pub is_refused: bool,
}

/// All damaged files, the same at every call.
#[must_use]
pub fn all() -> Vec<Damaged> {
    let named =
        |(name, bytes): (&str, Vec<u8>)| Damaged { name: name.to_owned(), bytes, is_refused: true };
    let cut = exported().len() / 2;
    let mut all: Vec<Damaged> = numbers().into_iter().chain(data_files()).map(named).collect();
    all.push(named(("cut-short", exported()[..cut].to_vec())));
    all.push(named(("nested-deep", nested())));
    all.extend((0..RANDOM).map(by_chance));
    all
}

/// Writes each file into a folder of its name in `models`.
///
/// # Panics
/// If the folder cannot be written.
pub fn write(models: &Path, all: &[Damaged]) {
    std::fs::write(models.join("outside.data"), [0; 36]).expect("a file outside is written");
    for damaged in all {
        let folder = models.join(&damaged.name);
        std::fs::create_dir_all(&folder).expect("the folder is made");
        std::fs::write(folder.join("model.onnx"), &damaged.bytes).expect("the file is written");
        std::os::unix::fs::symlink("../outside.data", folder.join("link.data"))
            .expect("the link is made");
    }
}

/// Endless numbers, and lengths past the end, in every kind of field.
fn numbers() -> Vec<(&'static str, Vec<u8>)> {
    let model = |addition: &[u8]| [&exported(), addition].concat();
    let tensor = |inside: &[u8]| model(&field(7, &field(5, inside)));
    let node = |attribute: &[u8]| model(&field(7, &field(1, &field(5, attribute))));
    let long = [&[0x4a_u8][..], &varint(1 << 31), &[0; 4]].concat();
    let shape = field(1, &[&[0x08][..], &ENDLESS].concat());
    vec![
        ("packed-int64", tensor(&field(7, &ENDLESS))),
        ("packed-int32", tensor(&field(5, &ENDLESS))),
        ("packed-int64-of-an-attribute", node(&field(5, &field(7, &ENDLESS)))),
        ("packed-int64-of-a-branch", node(&field(6, &field(5, &field(7, &ENDLESS))))),
        ("dimension-of-a-tensor", tensor(&[&[0x08][..], &ENDLESS].concat())),
        (
            "dimension-of-an-input",
            model(&field(7, &field(11, &field(2, &field(1, &field(2, &shape)))))),
        ),
        ("tag", tensor(&ENDLESS)),
        ("length", tensor(&[&[0x4a][..], &ENDLESS].concat())),
        ("length-beyond-the-end", tensor(&long)),
        ("version-of-operators", model(&field(8, &[&[0x10][..], &ENDLESS].concat()))),
        ("version-of-the-format", model(&[&[0x08][..], &ENDLESS].concat())),
        ("name-of-an-attribute", node(&[&[0x0a][..], &ENDLESS].concat())),
    ]
}

/// Weights in files outside the model's folder.
fn data_files() -> Vec<(&'static str, Vec<u8>)> {
    let at = |location: &[u8]| {
        let entry = |key: &str, value: &[u8]| {
            field(13, &[field(1, key.as_bytes()), field(2, value)].concat())
        };
        let tensor = [
            &[0x08, 3, 0x08, 3, 0x10, 1][..],
            &field(8, b"dense"),
            &entry("location", location),
            &entry("offset", b"0"),
            &entry("length", b"36"),
            &[0x70, 1],
        ];
        [exported(), field(7, &field(5, &tensor.concat()))].concat()
    };
    vec![
        ("data-above-the-folder", at(b"../outside.data")),
        ("data-at-an-absolute-path", at(b"/etc/hostname.data")),
        ("data-behind-a-link", at(b"link.data")),
        ("data-that-is-missing", at(b"nowhere.data")),
        ("data-without-a-name", at(b"")),
        ("data-of-a-name-that-is-no-text", at(&[0xff, 0xfe])),
    ]
}

/// Nested graphs, in attributes of nodes.
fn nested() -> Vec<u8> {
    let graph = (0..DEEP).fold(Vec::new(), |graph, _| field(1, &field(5, &field(6, &graph))));
    [exported(), field(7, &graph)].concat()
}

/// An endless number written over the file at an offset derived from `seed`.
fn by_chance(seed: u64) -> Damaged {
    let mut bytes = exported();
    // Knuth's multiplier (The Art of Computer Programming, 3.3.4): neighbouring seeds give distant offsets.
    let at = seed.wrapping_add(1).wrapping_mul(6_364_136_223_846_793_005) >> 33;
    let at = usize::try_from(at).unwrap_or(0) % (bytes.len() - ENDLESS.len());
    bytes[at..at + ENDLESS.len()].copy_from_slice(&ENDLESS);
    Damaged { name: format!("by-chance-{seed}"), bytes, is_refused: false }
}

/// A field with bytes or a message.
fn field(number: u64, inside: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(inside.len() as u64), inside.to_vec()].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}
