//! The verbs of the command line, one a file.

pub mod analyse;
pub mod chat;
pub mod classify;
pub mod combine;
pub mod completions;
pub mod doctor;
pub mod estimate;
pub mod evaluate;
pub mod experts;
pub mod export;
pub mod fetch;
pub mod forget;
pub mod generate;
pub mod import;
pub mod inspect;
pub mod man;
pub mod merge;
pub mod moa;
pub mod pipeline;
pub mod prune;
pub mod quantize;
pub mod reset;
pub mod schema;
pub mod score;
pub mod train;
pub mod upcycle;
