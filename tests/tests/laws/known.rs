//! Laws that are known not to hold yet. An entry whose law holds fails the test, so that it is taken out.

use super::bases::Precision;

/// A law that does not hold of a method over some bases.
pub(crate) struct KnownFailure {
    pub(crate) method: &'static str,
    pub(crate) precisions: &'static [Precision],
    /// What the failure says.
    pub(crate) says: &'static str,
}

/// None is the goal.
pub(crate) const KNOWN: &[KnownFailure] = &[];
