//! Runs a packed file beside the graph it was made from, before the file is kept.
//!
//! cellnet runs the file and rten the graph, on the same photos. A layer that was packed wrongly shows here,
//! and the folder is then served by rten. The engines add in different orders, so small differences are
//! expected, and a sensitive network enlarges them. To learn by how much, the graph is also run on photos
//! changed by about a rounding error ([`changed`]), and as copies that round a little differently
//! ([`disturbed`]): the packed file may differ by [`MARGIN`] times the change seen there.

use std::num::NonZero;
use std::path::Path;

use skincell_engines::{Cellnet, Rten};
use skincell_vision::card::{Card, Dtype};
use skincell_vision::tensor::PhotoTensor;
use thiserror::Error;

use crate::compare::{MARGIN, changed};
use crate::photos;
use crate::tools::answer::{Answer, Difference, answer, difference};
use crate::tools::disturbed::{self, DisturbedError};
use crate::tools::served::{Served, ServedError};

/// Number of likeliest classes of which heatmaps are compared. The map of an unlikely class may be nearly
/// zero everywhere; scaled to 0 to 1 it shows what was rounded.
const CLASSES: usize = 1;

/// How a packed file compares with its graph.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Proof {
    /// Number of photos or drawings compared.
    pub photos: usize,
    /// The largest differences of the answers: of all probabilities, and of the heatmaps of the likeliest
    /// class.
    pub difference: Difference,
    /// Whether more than usual was allowed because the graph's own answers change so much if a photo, or what
    /// the graph rounds to integers, changes a little.
    pub sensitive: bool,
}

/// Why a packed file is not used.
#[derive(Debug, Error)]
pub enum ProofError {
    /// An engine cannot run the model.
    #[error(transparent)]
    Served(#[from] ServedError),
    /// It cannot be found out how much the graph's answers depend on rounding.
    #[error(transparent)]
    Disturbed(#[from] DisturbedError),
    /// The answers differ.
    #[error(
        "on {photo}, probabilities of the packed file differ by {:.1e} and heatmaps by {:.1e} from those of \
         the graph, and {:.1e} and {:.1e} are allowed; please report it with the model's source",
        found.probability, found.heatmap, allowed.probability, allowed.heatmap
    )]
    Differs {
        /// The photo's path or the drawing's name.
        photo: String,
        /// The largest differences of the photo's answers.
        found: Difference,
        /// The largest accepted differences.
        allowed: Difference,
    },
}

/// Compares `model.cell` in the folder `packed` with the graph in `folder`, on photos given by name and input
/// tensor in the card's layout.
///
/// # Errors
/// [`ProofError::Differs`] for a difference above `allowed` that is also more than four times the change of
/// the graph's own answer if the photo's elements change by a millionth of the largest one, or the values
/// that the graph rounds to integers by the part `rounding` of each.
pub fn prove(
    folder: &Path,
    packed: &Path,
    card: &Card,
    photos: &[(String, PhotoTensor)],
    allowed: Difference,
    rounding: f32,
) -> Result<Proof, ProofError> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let rten = Rten::new(threads);
    let graph = Served::with_card(card.clone(), folder, &rten)?;
    let cell = Served::with_card(card.clone(), packed, &Cellnet::new(threads))?;
    let mut proof =
        Proof { photos: photos.len(), difference: Difference::default(), sensitive: false };
    let mut copies = None;
    for (name, photo) in photos {
        let expected = run(&graph, name, photo, &[])?;
        let classes: Vec<usize> = expected.heatmaps.keys().copied().collect();
        let found = difference(&expected, &run(&cell, name, photo, &classes)?);
        if !found.within(&allowed) {
            if copies.is_none() {
                copies = Some(disturbed::copies(folder, card, &rten, rounding)?);
            }
            let copies = copies.as_deref().unwrap_or_default();
            let own = own_changes((&graph, copies), name, photo, (&expected, &classes))?;
            let allowed = allowed.or(own.times(MARGIN as f32));
            if !found.within(&allowed) {
                return Err(ProofError::Differs { photo: name.clone(), found, allowed });
            }
            proof.sensitive = true;
        }
        proof.difference = proof.difference.or(found);
    }
    Ok(proof)
}

/// An answer with heatmaps of the likeliest classes and of these.
fn run(
    served: &Served,
    name: &str,
    photo: &PhotoTensor,
    classes: &[usize],
) -> Result<Answer, ServedError> {
    answer(served.card(), served.engine(), name, &served.run(photo)?, (CLASSES, classes))
}

/// By how much the graph's answer differs from those to a changed photo, which one of bytes has none of, and
/// from those of its copies, in heatmaps of these classes.
fn own_changes(
    (graph, copies): (&Served, &[Served]),
    name: &str,
    photo: &PhotoTensor,
    (expected, classes): (&Answer, &[usize]),
) -> Result<Difference, ServedError> {
    let mut most = Difference::default();
    for copy in copies {
        most = most.or(difference(expected, &run(copy, name, photo, classes)?));
    }
    if photo.dtype == Dtype::U8 {
        return Ok(most);
    }
    for values in changed(&photos::elements(photo)) {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let changed = PhotoTensor { data, ..photo.clone() };
        most = most.or(difference(expected, &run(graph, name, &changed, classes)?));
    }
    Ok(most)
}
