//! Classes: their names, and the numbers that a classification head gives them.

use std::collections::BTreeSet;

use crate::{Dataset, Error, Label, Problem, Row};

impl Label {
    /// The label's number in a list of names; a number without names is itself.
    pub fn number(&self, names: &[String]) -> Result<i64, Problem> {
        let unknown = |found: String| Problem::UnknownLabel {
            found,
            known: names.to_vec(),
        };
        match self {
            Self::Id(id) if names.is_empty() || (*id as usize) < names.len() => Ok(i64::from(*id)),
            Self::Id(id) => Err(unknown(id.to_string())),
            Self::Name(name) => names
                .iter()
                .position(|known| known == name)
                .map(|at| at as i64)
                .ok_or_else(|| unknown(name.clone())),
        }
    }
}

/// The classes of several data sets together, in the order of their numbers.
///
/// Numbers become the names `"0"`, `"1"`, … up to the largest; names are sorted, as numbers if all of them are.
pub fn label_names<'d>(datasets: impl IntoIterator<Item = &'d Dataset>) -> Result<Vec<String>, Error> {
    let mut names = BTreeSet::new();
    let mut largest: Option<u32> = None;
    for dataset in datasets {
        for row in dataset.rows() {
            match row {
                Row::Labelled {
                    label: Label::Name(name),
                    ..
                } => {
                    names.insert(name.clone());
                }
                Row::Labelled {
                    label: Label::Id(id), ..
                } => largest = largest.max(Some(*id)),
                _ => {}
            }
        }
    }
    match (names.is_empty(), largest) {
        (false, Some(id)) => Err(Error::Setting {
            key: "label",
            wanted: "names throughout or numbers throughout",
            found: format!("names and the number {id}"),
        }),
        (true, Some(largest)) => Ok((0..=largest).map(|id| id.to_string()).collect()),
        (_, None) => {
            let mut names: Vec<String> = names.into_iter().collect();
            if names.iter().all(|name| name.parse::<u64>().is_ok()) {
                names.sort_by_key(|name| name.parse::<u64>().unwrap_or(0));
            }
            Ok(names)
        }
    }
}
