//! Parsing any bytes as a model's card gives an error, or a card that is unchanged after writing and
//! reading it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skincell_vision::card::Card;

fuzz_target!(|data: &[u8]| {
    let Ok(card) = Card::parse(data) else { return };
    assert!(card.check().is_ok(), "what was parsed was checked");
    let Ok(text) = card.to_json() else { panic!("it cannot be written") };
    let again = Card::parse(text.as_bytes());
    assert_eq!(again.ok().and_then(|card| card.to_json().ok()), Some(text));
});
