//! What can go wrong: options that cannot be, and models that are no reference.

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The crate's error. A variant is a situation; its message says place, wanted and found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option outside its range.
    #[error("`{option}`: wanted {wanted}, found {found}")]
    Option {
        /// The option.
        option: &'static str,
        /// What could be.
        wanted: &'static str,
        /// What it is.
        found: String,
    },
    /// A loss that compares with a reference, without one.
    #[error("`loss_type`: {losses}: wanted a reference to compare with, found none\nhint: {hint}")]
    NoReference {
        /// The losses.
        losses: String,
        /// What to do.
        hint: &'static str,
    },
    /// A model that is not its own reference with its adapters off.
    #[error("`{at}` trains and is no adapter's, so the model without adapters is no reference\nhint: {hint}")]
    NotRestorable {
        /// A parameter of the base that trains.
        at: tensor_core::ModulePath,
        /// What to do.
        hint: &'static str,
    },
    /// A model in which no adapter trains.
    #[error(
        "wanted adapters that train, found none: the model without adapters would be the policy itself\nhint: {hint}"
    )]
    NoAdapter {
        /// What to do.
        hint: &'static str,
    },
    /// A reward model could not be opened.
    #[error("`rewards`: {0}")]
    RewardModel(Box<dyn std::error::Error + Send + Sync>),
    /// A reward program that did not do as it is asked.
    #[error("reward program `{program}`: {found}\nhint: {hint}")]
    Program {
        /// The program with its arguments.
        program: String,
        /// What was wanted and what it did.
        found: String,
        /// What to do.
        hint: String,
    },
    /// The policy could not reply.
    #[error("a rollout: {0}")]
    Rollout(#[source] decoder::Error),
    /// Files refused.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// An option that nothing would ask for.
    #[error("`{option}`: it has no effect on {found}\nhint: {hint}")]
    NoEffect {
        /// The option.
        option: &'static str,
        /// What was asked for beside it.
        found: String,
        /// What to do.
        hint: &'static str,
    },
}
