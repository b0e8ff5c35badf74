//! The functions that JavaScript calls, a C interface without pointers from outside: JavaScript asks for room
//! for each input, writes it there, and calls `load` or `predict`, which take the inputs away. Any call may
//! grow the memory; views of it must be made again after each.
//!
//! | function | |
//! |---|---|
//! | `room(input, length)` | address of `length` bytes for an input, by its number in [`Input`] |
//! | `load()` | loads the model from card, settings and model; 0, or 1 with the reason as the answer |
//! | `predict()` | answers a photo with a query; the status as in HTTP |
//! | `answer()`, `answer_length()` | its address and length, valid until the next `load` or `predict` |

#![allow(unsafe_code, reason = "exported names are unsafe attributes; nothing else here is unsafe")]

use std::cell::RefCell;

use crate::local::{LocalModel, Parts};

/// Alignment of every input: that of a packed model.
const ALIGNMENT: usize = 64;

/// The inputs, by the number in `room`.
#[derive(Debug, Clone, Copy)]
enum Input {
    Card = 0,
    Settings = 1,
    Model = 2,
    Query = 3,
    Photo = 4,
}

/// Bytes that JavaScript writes, from an aligned address on.
#[derive(Debug, Default)]
struct Room {
    bytes: Vec<u8>,
    start: usize,
}

impl Room {
    fn new(length: usize) -> Option<Self> {
        let mut bytes: Vec<u8> = Vec::new();
        bytes.try_reserve_exact(length.checked_add(ALIGNMENT)?).ok()?;
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        bytes.resize(start.checked_add(length)?, 0);
        Some(Self { bytes, start })
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

/// The whole state of an instance.
#[derive(Default)]
struct State {
    rooms: [Room; 5],
    model: Option<LocalModel>,
    answer: Vec<u8>,
}

impl State {
    fn take(&mut self, input: Input) -> Room {
        self.rooms.get_mut(input as usize).map(std::mem::take).unwrap_or_default()
    }

    fn load(&mut self) -> Result<(), String> {
        let [card, settings, model] =
            [Input::Card, Input::Settings, Input::Model].map(|input| self.take(input));
        let Room { bytes, start } = model;
        // The model lives as long as the instance.
        let cell = bytes.leak().get(start..).unwrap_or_default();
        let settings = String::from_utf8_lossy(settings.as_bytes()).into_owned();
        let parts = Parts { card: card.as_bytes(), settings: &settings, cell };
        self.model = Some(LocalModel::load(parts)?);
        Ok(())
    }

    fn predict(&mut self) -> (u16, Vec<u8>) {
        let [query, photo] = [Input::Query, Input::Photo].map(|input| self.take(input));
        let query = String::from_utf8_lossy(query.as_bytes()).into_owned();
        let Room { mut bytes, start } = photo;
        bytes.drain(..start);
        match &self.model {
            Some(model) => model.predict(&query, bytes),
            None => (
                500,
                b"no model is loaded; call load() first, and read answer() if it returns 1"
                    .to_vec(),
            ),
        }
    }
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

fn with<T>(act: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(act)
}

/// Makes room for an input; 0 if there is no such input or too little memory.
#[unsafe(no_mangle)]
extern "C" fn room(input: u32, length: usize) -> usize {
    let Some(room) = Room::new(length) else { return 0 };
    let address = room.bytes.as_ptr().addr() + room.start;
    with(|state| match state.rooms.get_mut(input as usize) {
        Some(place) => {
            *place = room;
            address
        }
        None => 0,
    })
}

/// Loads the model; 0, or 1 if it is refused: the answer is the reason.
#[unsafe(no_mangle)]
extern "C" fn load() -> u32 {
    with(|state| match state.load() {
        Ok(()) => 0,
        Err(reason) => {
            state.answer = reason.into_bytes();
            1
        }
    })
}

/// Answers the photo, and returns the answer's status.
#[unsafe(no_mangle)]
extern "C" fn predict() -> u32 {
    with(|state| {
        let (status, body) = state.predict();
        state.answer = body;
        u32::from(status)
    })
}

/// Address of the answer.
#[unsafe(no_mangle)]
extern "C" fn answer() -> usize {
    with(|state| state.answer.as_ptr().addr())
}

/// Length of the answer in bytes.
#[unsafe(no_mangle)]
extern "C" fn answer_length() -> usize {
    with(|state| state.answer.len())
}
