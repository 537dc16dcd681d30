//! What can go wrong when weights are quantised or read back.

use tensor_core::ModulePath;

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The crate's error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A block size that the format does not have, or numbers that no code stands for.
    #[error(transparent)]
    Codec(#[from] block_codecs::Error),
    /// A tensor that cannot be quantised, or whose parts do not fit together.
    #[error("{what}: wanted {wanted}, found {found}")]
    Parts {
        /// Which tensor.
        what: &'static str,
        /// What would fit.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// A name that matches nothing.
    #[error("`{name}` in `skip_modules` matches no module of this model\nhint: this model has {known}")]
    NoModule {
        /// The name.
        name: String,
        /// The names there are.
        known: String,
    },
    /// Nothing is left to quantise.
    #[error("`skip_modules` leaves nothing to quantise\nhint: take a name out of it, or remove the surgery")]
    NothingLeft,
}

impl Error {
    /// As the error of a surgery at `at`.
    pub fn at(self, at: &ModulePath) -> tensor_core::Error {
        tensor_core::Error::Surgery {
            at: at.clone(),
            source: Box::new(self),
        }
    }
}
