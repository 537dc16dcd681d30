//! Low-rank adaptation of any projection.
