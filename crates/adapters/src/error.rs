//! What can go wrong when adapters are put in, read or merged.

use tensor_core::ModulePath;

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The crate's error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option has a value that cannot work.
    #[error("`{option}`: {found}\nhint: {hint}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// What was given.
        found: String,
        /// What to do.
        hint: String,
    },
    /// An adapter file with an option that is not done here.
    #[error("`adapter_config.json`: `{key}` is {found}, which adapters here do not support\nhint: {hint}")]
    Unsupported {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// A tensor is missing.
    #[error("`{at}`: the adapter holds no {missing}")]
    Missing {
        /// The sublayer.
        at: ModulePath,
        /// Which tensor.
        missing: &'static str,
    },
    /// A tensor does not fit the sublayer that it names.
    #[error(
        "`{at}`: the adapter's {tensor} has shape {found:?}, this model needs {wanted:?}\nhint: the adapter was made for another model"
    )]
    Shape {
        /// The sublayer.
        at: ModulePath,
        /// Which tensor.
        tensor: &'static str,
        /// What the sublayer needs.
        wanted: Vec<i64>,
        /// What the adapter holds.
        found: Vec<i64>,
    },
    /// An adapter names sublayers that the model does not have.
    #[error(
        "the adapter names {count} tensors for which this model has no place, such as `{first}`\nhint: the adapter was made for another model"
    )]
    Unplaced {
        /// How many.
        count: usize,
        /// One of them.
        first: String,
    },
    /// A merge that no weight could hold.
    #[error(
        "a bottleneck adapter cannot be merged: it is not linear, so no weight matrix computes the same\n\
         hint: give it beside the model (`--model M --adapter DIR`) to every verb, or train `kind = \"lora\"`, which merges"
    )]
    NotLinear,
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
