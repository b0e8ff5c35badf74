//! Sums up what the answers to many photos say of their own worth.

use skincell_runner::certainty::{Certainty, DRIFTED, FEWEST, drift};

/// The drift that one folder of unchanged photos in fifty exceeds: the 98 % quantile of the normal
/// distribution. `models/drift.py` measures how many do, and how many of changed ones.
const RARE: f64 = 2.05;

/// What the answers so far say.
#[derive(Debug, Default)]
pub(super) struct Certainties {
    /// Deviations of the photos whose familiarity is known.
    deviations: Vec<f64>,
    unfamiliar: usize,
    reference: u32,
    /// Answers that say whether they are certain, and those that are not though their photo is familiar.
    judged: usize,
    uncertain: usize,
}

impl Certainties {
    /// Adds an answer.
    pub(super) fn add(&mut self, answer: Option<&Certainty>) {
        let Some(answer) = answer else { return };
        if let Some(familiarity) = answer.familiarity {
            self.deviations.push(familiarity.deviation);
            self.unfamiliar += usize::from(!familiarity.is_familiar);
            self.reference = familiarity.reference;
        }
        self.judged += usize::from(answer.is_certain.is_some());
        self.uncertain += usize::from(answer.verdict() == "uncertain");
    }

    /// Lines for people: how many photos are unfamiliar and uncertain, and whether all together have drifted.
    pub(super) fn summary(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let judged @ 1.. = self.deviations.len() {
            lines.push(format!("{} are unfamiliar to the model", of(self.unfamiliar, judged)));
        }
        if self.uncertain > 0 {
            lines.push(format!(
                "{} are familiar, but no class is certain",
                of(self.uncertain, self.judged)
            ));
        }
        match drift(&self.deviations, self.reference) {
            Some(drift) => lines.push(format!("drift {drift:+.1}{}", meaning(drift))),
            None if !self.deviations.is_empty() => {
                lines.push(format!("whether the photos have drifted from those the model knows takes {FEWEST} of them to say"));
            }
            None => {}
        }
        lines
    }
}

/// What a drift says about a folder.
fn meaning(drift: f64) -> &'static str {
    if drift.abs() >= DRIFTED {
        ": as a whole these photos differ from those the model was fitted to; it is not chance: look at the \
         camera, the light and what the photos show"
    } else if drift >= RARE {
        ": as a whole these photos are stranger than those the model was fitted to; by chance one \
         folder in fifty is"
    } else {
        ", which may be chance"
    }
}

/// `count` of `all`, with the share.
fn of(count: usize, all: usize) -> String {
    format!("{count} of {all} ({:.1} %)", count as f64 / all as f64 * 100.0)
}

#[cfg(test)]
mod tests {
    use super::Certainties;
    use skincell_runner::certainty::{Certainty, Familiarity};

    fn summary_of(photos: impl Iterator<Item = (f64, bool)>) -> Vec<String> {
        let mut certainties = Certainties::default();
        certainties.add(None);
        for (deviation, is_familiar) in photos {
            let familiarity = Familiarity { score: 1.0, deviation, reference: 840, is_familiar };
            let (model, familiarity) = ("skin".to_owned(), Some(familiarity));
            certainties.add(Some(&Certainty { model, familiarity, is_certain: Some(false) }));
        }
        certainties.summary()
    }

    #[test]
    fn the_summary_counts_and_names_drift() {
        assert!(summary_of(std::iter::empty()).is_empty());
        let few = summary_of([(0.3, true), (9.0, false)].into_iter());
        assert_eq!(few[0], "1 of 2 (50.0 %) are unfamiliar to the model");
        assert_eq!(few[1], "1 of 2 (50.0 %) are familiar, but no class is certain");
        assert!(few[2].ends_with("takes 50 of them to say"), "{few:?}");
        let even = |mean: f64| (0..60).map(move |i| (mean + f64::from(i % 2 * 2 - 1), true));
        assert!(summary_of(even(0.0))[2].contains("may be chance"), "{:?}", summary_of(even(0.0)));
        assert!(
            summary_of(even(0.4))[2].contains("folder in fifty"),
            "{:?}",
            summary_of(even(0.4))
        );
        assert!(summary_of(even(-1.0))[2].starts_with("drift -7"), "{:?}", summary_of(even(-1.0)));
    }
}
