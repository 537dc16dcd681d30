//! The built command, as users call it: every verb, every recipe, every kind of bad input.

mod agents;
mod bad_files;
mod bad_recipes;
mod bad_runs;
mod cases_artefacts;
mod cases_learning;
mod cases_weights;
mod command;
mod cuda;
mod experts;
mod families;
mod hft;
mod interrupted;
mod large;
mod measuring;
mod memory;
mod methods;
mod optimisers;
mod preferences;
mod pruned;
mod quantised;
mod recipes;
mod rollouts;
mod runs;
mod smollm2;
mod verbs;
