//! What can go wrong when a model is wrapped or an adapter is placed.

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
    /// The rank is larger than the matrix allows.
    #[error("`{at}`: rank {rank} exceeds the smaller side of its {out} × {input} weight")]
    Rank {
        /// The module.
        at: ModulePath,
        /// The rank asked for.
        rank: i64,
        /// Rows of the weight.
        out: i64,
        /// Columns of the weight.
        input: i64,
    },
    /// An update of what quantising lost, with nothing to tell what that is.
    #[error(
        "`init_lora_weights = \"loftq\"`: the weights from before quantising are not there\n\
         hint: put `kind = \"quantize\"` before it, over a model that is not in 4 bits yet"
    )]
    NoOriginal,
    /// An adapter's tensor does not fit the module it names.
    #[error(
        "`{at}`: the adapter's {tensor} has shape {found:?}, this model needs {wanted:?}\nhint: the adapter was made for another model"
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
    /// An adapter whose two files disagree.
    #[error(
        "`{at}`: the adapter's factors have rank {found}, its `adapter_config.json` says {wanted}\n\
         hint: `r` and `rank_pattern` belong to other weights: put the configuration beside the weights that it was written with"
    )]
    RankInFile {
        /// The module.
        at: ModulePath,
        /// What the configuration says.
        wanted: i64,
        /// What the tensors say.
        found: i64,
    },
    /// An adapter with factors of a module that its configuration does not choose: PEFT passes over them.
    #[error(
        "`{at}`: the adapter holds factors of it, and `target_modules` of its `adapter_config.json` does not choose it\n\
         hint: the configuration belongs to other weights: put the one beside them that they were written with"
    )]
    Untargeted {
        /// The module, as the file names it.
        at: ModulePath,
    },
    /// An adapter whose base was changed at initialisation, over a base that does not hold its own numbers.
    #[error(
        "`{at}`: `init_lora_weights = \"{init}\"` takes the first update out of the dense base weight, and this base is packed\n\
         hint: use the dense model; or convert the adapter in PEFT with `save_pretrained(folder, path_initial_model_for_weight_conversion=…)`"
    )]
    PackedBase {
        /// The module.
        at: ModulePath,
        /// The initialisation.
        init: String,
    },
    /// An option of a recipe that names what the model, or the choice of modules, does not have.
    #[error("`{name}` in `{option}` matches no module{of}\nhint: {hint}")]
    Idle {
        /// The option.
        option: &'static str,
        /// Its key or entry.
        name: String,
        /// Among which.
        of: &'static str,
        /// What is there.
        hint: String,
    },
    /// The adapter's configuration.
    #[error(transparent)]
    File(#[from] checkpoint::Error),
    /// An adapter names modules that the model does not have.
    #[error(
        "the adapter names {count} modules that this model does not have, such as `{first}`\nhint: the adapter was made for another model"
    )]
    Unplaced {
        /// How many.
        count: usize,
        /// One of them.
        first: ModulePath,
    },
    /// Half of a pair is missing.
    #[error("`{at}`: the adapter holds {found} without {missing}")]
    Pair {
        /// The module.
        at: ModulePath,
        /// What is there.
        found: &'static str,
        /// What is not.
        missing: &'static str,
    },
    /// A pattern key that is no regular expression.
    #[error("`{option}` key `{pattern}`: {source}")]
    Pattern {
        /// `rank_pattern` or `alpha_pattern`.
        option: &'static str,
        /// The key.
        pattern: String,
        /// What is wrong with it.
        source: Box<fancy_regex::Error>,
    },
    /// The seam's own error.
    #[error(transparent)]
    Core(#[from] tensor_core::Error),
    /// An adapter that uses what this crate does not do.
    #[error("`adapter_config.json`: `{key}` is {found}, which LoRA adapters here do not support\nhint: {hint}")]
    Unsupported {
        /// The key of the file.
        key: String,
        /// Its value.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// Two adapters that cannot be of one model.
    #[error(
        "`{at}`: wanted an update of {} × {} as in `{first}`, found {} × {} in `{second}`\nhint: adapters of one base can be combined",
        wanted[0], wanted[1], found[0], found[1]
    )]
    OtherModel {
        /// The module.
        at: ModulePath,
        /// The adapter that came first.
        first: String,
        /// The shape of its update: rows and columns of the weight.
        wanted: [i64; 2],
        /// The other adapter.
        second: String,
        /// The shape of its update.
        found: [i64; 2],
    },
    /// Ranks that differ where factors are combined one by one.
    #[error(
        "`{at}`: `{combination}` combines A and B apart, which needs equal ranks; found rank {found}\nhint: `sum`, `svd` and the types that end in `_svd` combine adapters of any ranks"
    )]
    Ranks {
        /// The module.
        at: ModulePath,
        /// The type of combination.
        combination: &'static str,
        /// Each adapter's rank.
        found: String,
    },
    /// An adapter with something that cannot be weighted and summed.
    #[error("adapter `{adapter}`: `{what}` is {is}\nhint: {hint}")]
    Uncombined {
        /// The adapter.
        adapter: String,
        /// The tensor or module.
        what: String,
        /// What it is.
        is: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// Two adapters of a set with one name.
    #[error("two adapters are called `{name}`\nhint: give each a name of its own")]
    SameName {
        /// The name.
        name: String,
    },
    /// A choice of an adapter that the set does not have.
    #[error("wanted one of the adapters {known}, found `{name}`")]
    NoAdapter {
        /// What was asked for.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// What is wrong with one adapter of a set.
    #[error("adapter `{name}`: {source}")]
    Member {
        /// The adapter.
        name: String,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// An adapter's tensor of a kind that is not known.
    #[error("the adapter holds `{key}`, which is no LoRA factor and no saved module")]
    Tensor {
        /// The tensor's name in the file.
        key: String,
    },
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
