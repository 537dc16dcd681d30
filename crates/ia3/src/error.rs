//! What can go wrong when layers are scaled, or an adapter is read and placed.

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
        hint: &'static str,
    },
    /// An adapter's configuration has a value that is not supported.
    #[error("`adapter_config.json`: `{key}` is {found}, which IA3 does not support here\nhint: {hint}")]
    Unsupported {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// A tensor of an adapter's file is none that IA3 has.
    #[error(
        "the adapter's tensor `{key}` is no `ia3_l` and no head\nhint: merge the adapter with the library that made it"
    )]
    Tensor {
        /// Its name in the file.
        key: String,
    },
    /// A tensor belongs to a module that the configuration does not name.
    #[error(
        "`{at}`: the adapter holds a vector for it, and the `target_modules` of its `adapter_config.json` do not name it\n\
         hint: put the configuration beside the weights that it was written with"
    )]
    Untargeted {
        /// The module.
        at: ModulePath,
    },
    /// A tensor does not fit the module that it names.
    #[error(
        "`{at}`: the adapter's {tensor} has shape {found:?}, this model needs {wanted:?}\nhint: the adapter was made for another model, or with other `feedforward_modules`"
    )]
    Shape {
        /// The module.
        at: ModulePath,
        /// Which tensor.
        tensor: &'static str,
        /// What the module needs.
        wanted: Vec<i64>,
        /// What the adapter holds.
        found: Vec<i64>,
    },
    /// An adapter names modules that the model does not have.
    #[error(
        "the adapter names {count} tensors for which this model has no place, such as that of `{first}`\nhint: the adapter was made for another model"
    )]
    Unplaced {
        /// One of them.
        first: ModulePath,
        /// How many.
        count: usize,
    },
    /// What the seams say.
    #[error(transparent)]
    Core(#[from] tensor_core::Error),
}

impl Error {
    /// As the error of a surgery at `at`.
    pub fn at(self, at: &ModulePath) -> tensor_core::Error {
        match self {
            Self::Core(error) => error,
            other => tensor_core::Error::Surgery {
                at: at.clone(),
                source: Box::new(other),
            },
        }
    }
}
