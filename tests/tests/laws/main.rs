//! The law matrix: every method over every base, trained, saved, loaded, merged, exported and resumed.
//!
//! `methods` is the list, `bases` what they are trained over, `laws` what must hold of each combination, `refused` what
//! must be refused by name, `spoilt` shows that a wrong save is noticed, `document` is the page that lists all. A new method enters by its entry in `methods`.

mod bases;
mod document;
mod known;
mod laws;
mod matrix;
mod methods;
mod refused;
mod run;
mod spoilt;
