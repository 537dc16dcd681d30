//! The adapters of a command line in a model: one alone, several with weights, or several by name.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use checkpoint::TokenizerFiles;
use data::Dataset;
use decoder::{Decoder, HeadKind};
use events::Events;
use lora::{AdapterNames, AdapterSet, Member};
use methods::peft::Adapter;
use methods::{self, Attached};
use models::PromptFormat;
use serde_json::Value;
use tensor_core::{AdapterRouting, ModulePath};

use super::{AdapterArg, Templates};

/// The column of a data file whose value chooses a row's adapters.
pub const COLUMN: &str = "adapter";

/// Adapters, opened and checked in themselves.
#[derive(Debug)]
pub enum Adapters {
    /// None.
    None,
    /// One as it is.
    Alone(Box<dyn Attached>),
    /// Several, each with its name and its weight in the default mix.
    Set(Vec<(String, f64, Adapter)>),
}

impl Adapters {
    /// `DIR` alone, or all `NAME=DIR` (rows choose; a single prompt, which cannot, is answered by the first), or all
    /// `DIR=WEIGHT` (mixed).
    pub fn open(args: &[AdapterArg]) -> Result<Self> {
        let named = args.iter().filter(|arg| arg.name.is_some()).count();
        let weighted = args.iter().filter(|arg| arg.weight.is_some()).count();
        match args {
            [] => return Ok(Self::None),
            [arg] if named + weighted == 0 => return Ok(Self::Alone(methods::open(&arg.path)?)),
            _ => {}
        }
        let each = || args.iter().map(ToString::to_string).collect::<Vec<_>>().join("`, `");
        ensure!(
            named == args.len() || weighted == args.len(),
            "`--adapter`: wanted a name or a weight for each of several, found `{}`\nhint: NAME=DIR for adapters that rows choose by their key `{COLUMN}`, DIR=WEIGHT for adapters that are mixed",
            each()
        );
        let open = |(idx, arg): (usize, &AdapterArg)| {
            let (name, weight) = match (&arg.name, arg.weight) {
                (Some(name), _) => (name.clone(), if idx == 0 { 1.0 } else { 0.0 }),
                (None, weight) => (arg.path.display().to_string(), weight.unwrap_or(1.0)),
            };
            ensure!(
                weight.is_finite(),
                "`--adapter {arg}`: wanted a number as weight, found {weight}"
            );
            Ok((name, weight, Adapter::open(&arg.path)?))
        };
        Ok(Self::Set(args.iter().enumerate().map(open).collect::<Result<_>>()?))
    }

    /// The folders that they lie in.
    pub fn folders(&self) -> Vec<&Path> {
        match self {
            Self::None => Vec::new(),
            Self::Alone(adapter) => vec![adapter.path()],
            Self::Set(members) => members.iter().map(|(_, _, adapter)| adapter.path()).collect(),
        }
    }

    /// The folder of the adapter whose chat templates are to be used: the first that brings any.
    ///
    /// Rows of one model are rendered in one way, so adapters that bring different templates are refused.
    pub fn with_templates(&self) -> Result<Option<&Path>> {
        match Templates::of(self.folders())? {
            Templates::None => Ok(None),
            Templates::Same(folder) => Ok(Some(folder)),
            Templates::Different(one, other) => bail!(
                "`{}`: wanted the chat template of `{}`, found another\nhint: load adapters that were trained with different templates one at a time",
                other.display(),
                one.display()
            ),
        }
    }

    /// How prompts were given to them in training: `both` where they differ, nothing where none says.
    pub fn prompt_format(&self) -> Result<Option<PromptFormat>> {
        let mut found: Option<PromptFormat> = None;
        for folder in self.folders() {
            if let Some(format) = PromptFormat::in_files(&TokenizerFiles::in_folder(folder)?)? {
                found = Some(format.after(found));
            }
        }
        Ok(found)
    }

    /// Puts them into `model`, which the user calls `on`; the names, if rows may choose.
    pub fn place(self, model: Decoder, on: &str, events: &Events) -> Result<(Decoder, Option<AdapterNames>)> {
        let members = match self {
            Self::None => return Ok((model, None)),
            Self::Alone(adapter) => {
                adapter.tell(events);
                let place = || format!("adapter `{}` on model `{on}`", adapter.path().display());
                return Ok((adapter.place(model).with_context(place)?, None));
            }
            Self::Set(members) => members,
        };
        let member = |(name, weight, adapter): (String, f64, Adapter)| {
            let place = || format!("adapter `{name}`, one of several on model `{on}`");
            if *model.head_kind() == HeadKind::LanguageModel && adapter.labels()?.is_some() {
                bail!(
                    "{}: it brings a classification head\nhint: load this adapter alone",
                    place()
                );
            }
            adapter.tell(events);
            let placement = adapter.member().with_context(place)?;
            Ok(Member {
                name,
                placement,
                weight,
            })
        };
        let set = AdapterSet::new(members.into_iter().map(member).collect::<Result<_>>()?)?;
        let model = model
            .map_projections(&mut |at: &ModulePath, base| set.projection(at, base))?
            .map_embedding(&mut |at: &ModulePath, base| set.table(at, base))?;
        Ok((model, Some(set.finish()?)))
    }
}

/// What a row's value in [`COLUMN`] means: a name, or an object of names with weights; the base alone for a row that
/// chooses nothing (no value, null, or an empty object).
pub fn mix(names: &AdapterNames, chosen: Option<&Value>) -> Result<AdapterRouting> {
    let wanted = || format!("`{COLUMN}`: wanted a name, or an object of names and weights");
    match chosen {
        None | Some(Value::Null) => Ok(AdapterRouting::base()),
        Some(Value::String(name)) => names.mix([(name.as_str(), 1.0)]).with_context(|| format!("`{COLUMN}`")),
        Some(Value::Object(shares)) => {
            let share = |(name, weight): (&String, &Value)| {
                let weight = weight
                    .as_f64()
                    .with_context(|| format!("{}, found weight {weight}", wanted()))?;
                Ok((name.clone(), weight))
            };
            let shares = shares.iter().map(share).collect::<Result<Vec<_>>>()?;
            let shares = shares.iter().map(|(name, weight)| (name.as_str(), *weight));
            names.mix(shares).with_context(|| format!("`{COLUMN}`"))
        }
        Some(other) => bail!("{}, found {other}", wanted()),
    }
}

/// Tells how many rows chose no adapter, and so were read by the base alone.
pub fn tell_base(names: Option<&AdapterNames>, rows: &Dataset, events: &Events) {
    let chooses = |idx: &usize| !matches!(rows.kept(*idx, COLUMN), None | Some(Value::Null));
    let without = (0..rows.len()).filter(|idx| !chooses(idx)).count();
    if names.is_some() && without > 0 {
        let all = rows.len();
        events.note(|| {
            format!("{without} of {all} rows have no `{COLUMN}`: the base alone reads them, without an adapter")
        });
    }
}

/// Tells which of several named adapters answers `what`, which cannot choose.
pub fn tell_first(names: Option<&AdapterNames>, args: &[AdapterArg], what: &str, events: &Events) {
    if let (Some(_), Some(name)) = (names, args.first().and_then(|arg| arg.name.as_ref())) {
        events.note(|| format!("{what} chooses no adapter: `{name}`, the first, takes part"));
    }
}
