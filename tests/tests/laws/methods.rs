//! The list of methods with their initialisations and variants, as data. What enters here is held to every law.
//!
//! A method of the registry without a variant here is held to them with its options of a small run.

mod low_rank;
mod others;

use std::sync::OnceLock;

use methods::{METHODS, Trains};

use super::bases::Precision;
use super::bases::Stock::{self, Dense};

/// What a run leaves, which says what can be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// PEFT's adapter: it can be merged.
    Peft,
    /// Bottleneck adapters or a memory: functions that no matrix is.
    Beside,
    /// The whole model.
    Whole,
}

/// A method in one variant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Method {
    pub(crate) name: &'static str,
    /// The recipe's surgeries, each without its header.
    pub(crate) surgery: &'static [&'static str],
    pub(crate) form: Form,
    pub(crate) stock: Stock,
    pub(crate) objective: &'static str,
}

const fn method(name: &'static str, form: Form, stock: Stock, surgery: &'static [&'static str]) -> Method {
    let objective = "sft";
    Method {
        name,
        surgery,
        form,
        stock,
        objective,
    }
}

const fn lora(name: &'static str, surgery: &'static [&'static str]) -> Method {
    method(name, Form::Peft, Dense, surgery)
}

const fn beside(name: &'static str, surgery: &'static [&'static str]) -> Method {
    method(name, Form::Beside, Dense, surgery)
}

const fn whole(name: &'static str, surgery: &'static [&'static str]) -> Method {
    method(name, Form::Whole, Dense, surgery)
}

const fn learning(method: Method, objective: &'static str) -> Method {
    Method { objective, ..method }
}

const fn over(stock: Stock, method: Method) -> Method {
    Method { stock, ..method }
}

/// A surgery of the registry's method, with its options of a small run.
pub(crate) fn example(method: &methods::Method) -> String {
    format!("kind = '{}'\n{}", method.kind, method.example)
}

/// The methods of the registry that have no variant below: each with its options of a small run.
fn others_of_registry() -> &'static [Method] {
    static OTHERS: OnceLock<Vec<Method>> = OnceLock::new();
    OTHERS.get_or_init(|| {
        let listed: Vec<&Method> = low_rank::METHODS.iter().chain(others::METHODS).collect();
        let is_listed = |kind: &str| {
            let header = format!("kind = '{kind}'");
            let mut surgery = listed.iter().flat_map(|method| method.surgery);
            surgery.any(|table| table.lines().next() == Some(header.as_str()))
        };
        let missing = METHODS
            .iter()
            .filter(|one| one.trains != Trains::Nothing && !is_listed(one.kind));
        missing
            .map(|one| {
                let form = match one.trains {
                    Trains::Weights => Form::Whole,
                    _ if one.merges() => Form::Peft,
                    _ => Form::Beside,
                };
                let table: &'static str = example(one).leak();
                method(one.kind, form, Dense, vec![table].leak())
            })
            .collect()
    })
}

/// Every method in every variant.
pub(crate) fn methods() -> impl Iterator<Item = &'static Method> {
    low_rank::METHODS
        .iter()
        .chain(others::METHODS)
        .chain(others_of_registry())
}

#[test]
fn every_method_of_the_registry_is_held_to_the_laws() {
    let is_listed = |kind: &str| {
        let header = format!("kind = '{kind}'");
        let mut surgery = methods().flat_map(|method| method.surgery);
        surgery.any(|table| table.lines().next() == Some(header.as_str()))
    };
    let packs = |kind: &str| {
        let header = format!("kind = \"{kind}\"");
        let mut surgery = Precision::ALL.into_iter().filter_map(Precision::surgery);
        surgery.any(|table| table.lines().next() == Some(header.as_str()))
    };
    let missing: Vec<&str> = methods::kinds()
        .into_iter()
        .filter(|kind| !is_listed(kind) && !packs(kind))
        .collect();
    assert!(missing.is_empty(), "no entry in the law matrix: {missing:?}");
}
