//! Draws as functions of a seed, a round and a path: no state, so that neither order nor machine changes them.

use tensor_core::{DropoutKey, ModulePath};

/// The draws of one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw(DropoutKey);

impl Draw {
    pub(crate) fn new(seed: u64, round: usize) -> Self {
        // A stream of its own: dropout of the same seed draws other numbers.
        let stream = DropoutKey(seed).at(ModulePath::from("half fine-tuning").site());
        Self(stream.at(round as u64))
    }

    /// The draws of `purpose` (0, 1, …) apart from those of others.
    pub(crate) fn apart(self, purpose: u64) -> Self {
        Self(self.0.at(purpose))
    }

    /// Which `count` of the places with these numbers are drawn: every choice is as likely as any other.
    pub(crate) fn choose(self, count: usize, sites: impl Iterator<Item = u64>) -> Vec<usize> {
        let mut order: Vec<(u64, usize)> = sites.enumerate().map(|(idx, site)| (self.0.at(site).0, idx)).collect();
        order.sort_unstable();
        let mut chosen: Vec<usize> = order.into_iter().take(count).map(|(_, idx)| idx).collect();
        chosen.sort_unstable();
        chosen
    }

    /// Heads or tails.
    pub(crate) fn coin(self, site: u64) -> bool {
        self.0.at(site).0 >> 63 == 1
    }
}

/// How many of each row's members are drawn at a ratio: so many of every row, and one more of so many rows.
///
/// `members · ratio · rows` is met as near as whole numbers allow; where two are as near, the coin decides.
pub(crate) fn quota(members: usize, ratio: f64, rows: usize, coin: bool) -> (usize, usize) {
    // Shares such as 0.3 · 10 are not exact in binary.
    const ROUNDING: f64 = 1e-9;
    let each = members as f64 * ratio;
    let whole = (each + ROUNDING).floor();
    let more = (each - whole).max(0.0) * rows as f64;
    let more_whole = (more + ROUNDING).floor();
    let rest = (more - more_whole).max(0.0);
    let up = if (rest - 0.5).abs() <= ROUNDING {
        coin
    } else {
        rest > 0.5
    };
    (whole as usize, more_whole as usize + usize::from(up))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_comes_as_near_as_whole_numbers_allow() {
        // Members, ratio, rows, coin: of each row, rows with one more.
        for (members, ratio, rows, coin, wanted) in [
            (4, 0.5, 30, false, (2, 0)),
            (3, 0.5, 30, true, (1, 15)),
            (3, 0.5, 7, false, (1, 3)),
            (3, 0.5, 7, true, (1, 4)),
            (2, 0.5, 7, true, (1, 0)),
            (1, 0.5, 6, true, (0, 3)),
            (10, 0.3, 2, true, (3, 0)),
            (4, 0.4, 10, true, (1, 6)),
            (30, 0.5, 1, true, (15, 0)),
            (4, 0.0, 9, true, (0, 0)),
            (4, 1.0, 9, false, (4, 0)),
        ] {
            assert_eq!(quota(members, ratio, rows, coin), wanted, "{members} {ratio} {rows}");
        }
    }

    #[test]
    fn every_choice_is_as_likely_as_any_other() {
        let mut counts = std::collections::BTreeMap::new();
        for seed in 0..6000 {
            let chosen = Draw::new(seed, 0).choose(2, [11, 12, 13, 14].into_iter());
            *counts.entry(chosen).or_insert(0) += 1;
        }
        // Six pairs, 1000 expected each; 5 standard deviations are 144.
        assert!(
            counts.len() == 6 && counts.values().all(|count: &i32| (count - 1000).abs() < 144),
            "{counts:?}"
        );
    }

    #[test]
    fn purposes_rounds_and_seeds_draw_apart() {
        let order = |draw: Draw| draw.choose(8, 0..64);
        let first = order(Draw::new(1, 0));
        assert_eq!(order(Draw::new(1, 0)), first);
        for other in [Draw::new(2, 0), Draw::new(1, 1), Draw::new(1, 0).apart(1)] {
            assert_ne!(order(other), first);
        }
        let heads = (0..1000).filter(|&seed| Draw::new(seed, 0).coin(5)).count();
        assert!((420..580).contains(&heads), "{heads}");
    }
}
