//! What can go wrong when numbers are quantised.

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The crate's error.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A block size that the format does not have.
    #[error("`block_size`: wanted 32, 64, 128, 256, 512, 1024, 2048 or 4096, found {found}")]
    BlockSize {
        /// What was asked for.
        found: usize,
    },
    /// A number that no code stands for.
    #[error(
        "the block of numbers that begins at {begin}: wanted finite numbers, found NaN or infinity\nhint: the weights are damaged"
    )]
    NotFinite {
        /// The index of the block's first number.
        begin: usize,
    },
}
