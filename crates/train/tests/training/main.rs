//! The loop on a tiny model of the tests' own: what is trained, saved, resumed, refused.

mod accumulation;
mod checkpoints;
mod optimizer;
mod outputs;
mod resume;
mod rounds;
mod stopping;
mod tiny;
