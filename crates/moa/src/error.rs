//! What can go wrong with a mixture, and with one of its agents.

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What ends a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value that cannot be.
    #[error("`{key}`: wanted {wanted}, found {found}\nhint: {hint}")]
    Option {
        /// Its key.
        key: String,
        /// What can be.
        wanted: String,
        /// What was given.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// A layer or the aggregator names an agent that there is not.
    #[error(
        "`{key}`: wanted one of the agents {known}, found `{found}`\nhint: each agent has a section `[agents.NAME]`"
    )]
    NoAgent {
        /// Who names it.
        key: String,
        /// The name.
        found: String,
        /// Those there are.
        known: String,
    },
    /// The agent that has the last word failed.
    #[error(
        "aggregator `{agent}`: {failure}\nhint: the transcript holds what the others said; another `aggregator` can go on from there"
    )]
    Aggregator {
        /// Its name.
        agent: String,
        /// What happened.
        failure: Failure,
    },
}

/// Why an agent gave no answer: it is left out, and the run goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Nothing came in time.
    #[error("no answer within {seconds} s ({attempts} attempts)")]
    Timeout {
        /// The time that one attempt had.
        seconds: String,
        /// How often it was tried.
        attempts: usize,
    },
    /// The other side refused.
    #[error("status {status}: {message} ({attempts} attempts)")]
    Status {
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
        /// How often it was tried.
        attempts: usize,
    },
    /// The other side could not be reached.
    #[error("not reached: {message} ({attempts} attempts)")]
    Unreachable {
        /// What the network said.
        message: String,
        /// How often it was tried.
        attempts: usize,
    },
    /// An answer that is none.
    #[error("wanted a chat completion, found {found} ({attempts} attempts)")]
    Garbage {
        /// What came.
        found: String,
        /// How often it was tried.
        attempts: usize,
    },
    /// An answer without text.
    #[error("an empty answer")]
    Empty,
    /// Nothing of the budget was left.
    #[error("the budget of {budget} tokens is spent")]
    Budget {
        /// `token_budget`.
        budget: usize,
    },
    /// A local model refused.
    #[error("{0}")]
    Local(String),
}
