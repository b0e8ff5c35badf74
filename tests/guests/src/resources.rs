//! Creates host resources of every kind in any order, by a script of bytes, to find how much one instance
//! can make the host hold.
//!
//! A byte is a step, and the next two give number and size. Resources are kept until the script drops them.
//! At the end it pauses, so that a test can measure the host while everything is held.

use crate::nn::bindings::wasi::nn::tensor::{Tensor, TensorType};
use wasi::cli::{stdin::get_stdin, stdout::get_stdout};
use wasi::clocks::monotonic_clock::subscribe_duration;
use wasi::filesystem::preopens::get_directories;
use wasi::filesystem::types::{
    Descriptor, DescriptorFlags, DirectoryEntryStream, OpenFlags, PathFlags,
};
use wasi::http::types::{
    Fields, Method, OutgoingBody, OutgoingRequest, OutgoingResponse, RequestOptions, Scheme,
};
use wasi::io::poll::Pollable;
use wasi::io::streams::{InputStream, OutputStream};

/// Kinds of resource.
const KINDS: u8 = 12;
/// Nanoseconds of the last pause.
const PAUSE: u64 = 30_000_000;

/// The kept resources. Children come before their parents, so that they are dropped first.
#[derive(Default)]
struct Held {
    pollables: Vec<Pollable>,
    outputs: Vec<OutputStream>,
    inputs: Vec<InputStream>,
    listings: Vec<DirectoryEntryStream>,
    bodies: Vec<OutgoingBody>,
    responses: Vec<OutgoingResponse>,
    requests: Vec<OutgoingRequest>,
    fields: Vec<Fields>,
    options: Vec<RequestOptions>,
    descriptors: Vec<Descriptor>,
    tensors: Vec<Tensor>,
}

/// Runs the script; returns the number of failed steps.
pub(crate) fn run(script: &[u8]) -> String {
    let (mut held, mut refused) = (Held::default(), 0_u32);
    for step in script.as_chunks::<3>().0 {
        let [kind, count, size] = *step;
        for _ in 0..u32::from(count) * 4 {
            if held.make(kind % KINDS, size).is_none() {
                refused += 1;
                break;
            }
        }
    }
    subscribe_duration(PAUSE).block();
    format!("{refused} refused")
}

/// The mounted file or folder at this path.
fn open(path: &str) -> Option<Descriptor> {
    let (folder, _) = get_directories().into_iter().next()?;
    folder.open_at(PathFlags::empty(), path, OpenFlags::empty(), DescriptorFlags::READ).ok()
}

impl Held {
    /// Makes one resource of a kind, of about 2^`size` bytes if it has bytes; `None` if the host refuses.
    fn make(&mut self, kind: u8, size: u8) -> Option<()> {
        let bytes = 1_usize << (size % 17);
        match kind {
            0 => self.fields.push(Fields::new()),
            1 => {
                let fields = self.fields.last()?;
                let name = format!("x-{}", self.pollables.len() + bytes);
                fields.append(&name, &vec![b'x'; bytes]).ok()?;
            }
            2 => self.fields.push(self.fields.last()?.clone()),
            3 => {
                let list = (0..200).map(|number| (format!("x-{number}"), vec![b'y'; bytes / 200]));
                self.fields.push(Fields::from_list(&list.collect::<Vec<_>>()).ok()?);
            }
            4 => {
                let response = OutgoingResponse::new(Fields::new());
                self.keep_body(response.body().ok()?)?;
                self.responses.push(response);
            }
            5 => self.request(bytes)?,
            6 => self.descriptors.push(open("data/large")?),
            7 => {
                let stream = self.descriptors.last()?.read_via_stream(0).ok()?;
                // Started, and left with the data that was read ahead.
                let _ = stream.read(64 << 10);
                stream.subscribe().block();
                self.inputs.push(stream);
            }
            8 => self.listings.push(open("data")?.read_directory().ok()?),
            9 => {
                self.outputs.push(get_stdout());
                self.inputs.push(get_stdin());
                self.options.push(RequestOptions::new());
                self.pollables.push(subscribe_duration(u64::MAX));
            }
            10 => self.tensors.push(Tensor::new(&[1], TensorType::U8, &vec![7; bytes])),
            _ => self.let_go(size),
        }
        Some(())
    }

    /// Writes as much as a body accepts without being read.
    fn keep_body(&mut self, body: OutgoingBody) -> Option<()> {
        let stream = body.write().ok()?;
        while let Ok(room @ 1..) = stream.check_write() {
            let room = usize::try_from(room).unwrap_or(usize::MAX).min(64 << 10);
            stream.write(&vec![b'z'; room]).ok()?;
        }
        self.outputs.push(stream);
        self.bodies.push(body);
        Some(())
    }

    fn request(&mut self, bytes: usize) -> Option<()> {
        let request = OutgoingRequest::new(Fields::new());
        let text = "a".repeat(bytes * 8);
        let _ = request.set_authority(Some(&text));
        let _ = request.set_method(&Method::Other(text.clone()));
        let _ = request.set_scheme(Some(&Scheme::Other(text.clone())));
        let _ = request.set_path_with_query(Some(&format!("/{text}")));
        self.keep_body(request.body().ok()?)?;
        self.requests.push(request);
        Some(())
    }

    fn let_go(&mut self, which: u8) {
        match which % 8 {
            0 => self.pollables.clear(),
            1 => drop((self.outputs.pop(), self.bodies.pop(), self.responses.pop())),
            2 => drop(self.inputs.pop()),
            3 => drop(self.listings.pop()),
            4 => drop(self.fields.pop()),
            5 => drop(self.descriptors.pop()),
            6 => drop(self.tensors.pop()),
            // The body is left without its response.
            _ => drop(self.responses.pop()),
        }
    }
}
