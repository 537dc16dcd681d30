//! How much answers differ, and how much one takes over from another: by their words.

use std::collections::{BTreeMap, BTreeSet};

/// Distinct runs of `n` words over all of them, in several answers together: 1 if none stands twice, 0 without any.
///
/// Source: Li et al. 2016, arXiv:1510.03055, section 5.2.
pub fn distinct<T: AsRef<str>>(answers: &[T], n: usize) -> f64 {
    let mut all = 0;
    let mut seen = BTreeSet::new();
    for answer in answers {
        for run in runs(answer.as_ref(), n) {
            all += 1;
            seen.insert(run);
        }
    }
    seen.len() as f64 / f64::max(1.0, f64::from(all))
}

/// Which share of an answer's runs of `n` words stand in `source` too, each as often as it stands there: how much was
/// copied.
///
/// Source: the clipped precision of Papineni et al. 2002, doi:10.3115/1073083.1073135.
pub fn copied(answer: &str, source: &str, n: usize) -> f64 {
    let mut left: BTreeMap<String, usize> = BTreeMap::new();
    for run in runs(source, n) {
        *left.entry(run).or_default() += 1;
    }
    let (mut found, mut all) = (0, 0);
    for run in runs(answer, n) {
        all += 1;
        if let Some(count) = left.get_mut(&run).filter(|count| **count > 0) {
            *count -= 1;
            found += 1;
        }
    }
    f64::from(found) / f64::max(1.0, f64::from(all))
}

fn runs(text: &str, n: usize) -> Vec<String> {
    let words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    words.windows(n.max(1)).map(|run| run.join(" ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinct_runs_and_copies_are_counted_by_hand() {
        // Two-word runs: the cat, cat sat | the cat, cat ran: 3 of 4 distinct.
        assert_eq!(distinct(&["The cat sat.", "the cat ran"], 2), 0.75);
        assert_eq!(distinct(&["a a a"], 1), 1.0 / 3.0);
        assert_eq!(distinct::<&str>(&[], 2), 0.0);
        assert_eq!(copied("the cat sat", "the cat ran", 2), 0.5);
        // Each as often as it stands in the source.
        assert_eq!(copied("a a a a", "a a", 1), 0.5);
        assert_eq!(copied("", "a", 1), 0.0);
    }
}
