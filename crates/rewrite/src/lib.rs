//! Models and adapters rewritten without training.
//!
//! What is pruned, quantised, upcycled to a mixture of experts, reduced to fewer experts, combined with other adapters or
//! reset to its base is read tensor by tensor, and appears whole under its new name, with tokenizer and provenance.
//! [`analyse`] measures how far training moved a model's matrices. Progress and warnings are told to the events of the
//! [`models::Source`]; nothing is printed, and each function returns what it did for the caller to show.

pub mod analyse;
pub mod combine;
pub mod experts;
pub mod prune;
pub mod quantize;
pub mod reset;
pub mod upcycle;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
