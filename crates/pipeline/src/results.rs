//! What was measured: each measure of each arm, a value a seed.

use std::collections::BTreeMap;

/// Measures of one cell by name.
pub(crate) type Measures = BTreeMap<String, f64>;

/// All cells of a study.
#[derive(Debug, Default)]
pub(crate) struct Results {
    arms: BTreeMap<String, Vec<Measures>>,
}

impl Results {
    pub(crate) fn add(&mut self, arm: &str, measures: Measures) {
        self.arms.entry(arm.to_owned()).or_default().push(measures);
    }

    /// A measure of an arm, a value a seed; empty if it was not measured.
    pub(crate) fn values(&self, arm: &str, key: &str) -> Vec<f64> {
        let cells = self.arms.get(arm).map(Vec::as_slice).unwrap_or_default();
        cells.iter().filter_map(|cell| cell.get(key).copied()).collect()
    }

    /// The mean over the seeds; not a number if it was not measured, so that no comparison with it holds.
    pub(crate) fn mean(&self, arm: &str, key: &str) -> f64 {
        mean(&self.values(arm, key)).unwrap_or(f64::NAN)
    }

    /// Whether an arm's mean lies below another's by more than either one's spread over the seeds.
    pub(crate) fn is_clearly_below(&self, arm: &str, other: &str, key: &str) -> bool {
        let (low, high) = (self.values(arm, key), self.values(other, key));
        let spread = [&low, &high]
            .into_iter()
            .filter_map(|values| deviation(values))
            .fold(0.0, f64::max);
        self.mean(arm, key) + spread < self.mean(other, key)
    }
}

pub(crate) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard deviation over the seeds (`n - 1`); none of a single one.
pub(crate) fn deviation(values: &[f64]) -> Option<f64> {
    let middle = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_and_the_spread_are_over_the_seeds() {
        let mut results = Results::default();
        for value in [1.0, 2.0, 6.0] {
            results.add("a", Measures::from([("x".to_owned(), value)]));
        }
        assert_eq!(results.values("a", "x"), [1.0, 2.0, 6.0]);
        assert!((results.mean("a", "x") - 3.0).abs() < 1e-12);
        // √((4 + 1 + 9) / 2) = √7.
        assert!((deviation(&results.values("a", "x")).unwrap() - 7f64.sqrt()).abs() < 1e-12);
        assert!(results.mean("a", "y").is_nan() && results.mean("b", "x").is_nan());
        assert_eq!(deviation(&[1.0]), None);
        for value in [6.0, 6.5, 7.0] {
            results.add("b", Measures::from([("x".to_owned(), value)]));
        }
        // 3 and 6.5 are 3.5 apart, and a's spread is √7; 3 and 5.5 would not be.
        assert!(results.is_clearly_below("a", "b", "x") && !results.is_clearly_below("b", "a", "x"));
        results.add("c", Measures::from([("x".to_owned(), 5.5)]));
        assert!(!results.is_clearly_below("a", "c", "x") && !results.is_clearly_below("a", "d", "x"));
    }
}
