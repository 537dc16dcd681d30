//! What can go wrong with a decoder.

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The crate's error. A variant is a situation; its message says place, wanted and found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The seams refused: a shape, a target, libtorch.
    #[error(transparent)]
    Core(#[from] tensor_core::Error),
    /// The files refused.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// A configuration option that this decoder does not compute.
    #[error("`{option}`: wanted {wanted}, found {found}")]
    Unsupported {
        /// The key of `config.json`.
        option: &'static str,
        /// What could be computed.
        wanted: String,
        /// What the file says.
        found: String,
    },
    /// A model of experts where only dense ones are made.
    #[error(
        "a {family} of {count} experts a layer: wanted a dense model here\nhint: `Decoder::load_mixture` takes what makes experts"
    )]
    NoExperts {
        /// The family.
        family: &'static str,
        /// Experts a layer.
        count: i64,
    },
    /// Other feed-forwards in blocks of another kind.
    #[error(
        "`{option}`: the new feed-forwards are for {wanted}, this model has {found}\nhint: only feed-forwards may differ"
    )]
    OtherBlocks {
        /// What differs.
        option: &'static str,
        /// What the configuration says.
        wanted: String,
        /// What the model is.
        found: String,
    },
    /// A parameter that was asked to train and cannot.
    #[error("`{at}`: wanted a floating-point parameter to train, found {found}\nhint: {hint}")]
    NotTrainable {
        /// The parameter.
        at: tensor_core::ModulePath,
        /// Its dtype.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// No parameter matched a wish to train some.
    #[error("no parameter was chosen to train out of {found}\nhint: names are the checkpoint's, such as `{example}`")]
    NothingTrains {
        /// How many there are.
        found: usize,
        /// One of them.
        example: String,
    },
    /// A model that is not plain enough to be written as a checkpoint.
    #[error("`{at}`: wanted a plain matrix to save, found an adapter or a packed weight\nhint: merge the model first")]
    NotMerged {
        /// The parameter that no checkpoint of this family has.
        at: tensor_core::ModulePath,
    },
    /// The model has another head than the one that a call needs.
    #[error(
        "{what} needs a head for {wanted}, found one for {found}\nhint: take a model that was trained for {wanted}"
    )]
    Head {
        /// The call.
        what: &'static str,
        /// The head that it needs.
        wanted: &'static str,
        /// The head that there is.
        found: &'static str,
    },
    /// A classification head without labels.
    #[error("a classification head: wanted at least one label, found none")]
    NoLabels,
    /// A sampling option outside its range.
    #[error("`{option}`: wanted {wanted}, found {found}")]
    Sampler {
        /// The option.
        option: &'static str,
        /// Its range.
        wanted: &'static str,
        /// Its value.
        found: f64,
    },
    /// A prompt that cannot be continued.
    #[error(
        "prompt {index}: wanted 1 to {most} tokens (the model sees {context} positions), found {found}\nhint: shorten the prompt, or take a model that sees more"
    )]
    Prompt {
        /// Which prompt, counted from 0.
        index: usize,
        /// The longest that leaves room for a token.
        most: usize,
        /// The model's positions.
        context: usize,
        /// The prompt's tokens.
        found: usize,
    },
    /// A token id that the model has no vector for.
    #[error(
        "{place}: wanted token ids below {vocab_size}, found {found}\nhint: the tokenizer belongs to another model"
    )]
    Token {
        /// The prompt or row.
        place: String,
        /// The model's vocabulary.
        vocab_size: usize,
        /// The id.
        found: u32,
    },
    /// The head gave numbers that are none.
    #[error(
        "generation: wanted finite logits, found NaN or infinity\nhint: the weights are damaged, or overflow in this dtype"
    )]
    NotFinite,
}
