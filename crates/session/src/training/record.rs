//! `run.json`: what a run is. Base, data, template and its time, recipe, machine, what `auto` chose, what changed since.
//!
//! A run that is resumed must be the one that began: what differs and would change its result is refused by name
//! ([`differences`]); what was let through stands in the history.

mod differences;
mod inputs;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use chrono::{Local, NaiveDateTime};
use data::Tokenizer;
use events::Events;
use methods::recipe::{ModelConfig, Recipe};
use models::Source;
use models::machine::{Dtype, Machine, facts};
use models::provenance::{self, Base, hexadecimal};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use train::{Checkpoint, RunDir};

use self::differences::{Progress, differences};
pub use self::differences::{is_allowable, listing};
use self::inputs::Input;

const FILE: &str = "run.json";
const VERSION: u32 = 1;

/// What a run is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    program: String,
    /// When it began, in UTC.
    begun: String,
    base: Base,
    /// Of what makes tokens of texts.
    tokenizer_sha256: String,
    template: Template,
    /// Every file and model that the recipe names, by its key.
    inputs: BTreeMap<String, Input>,
    /// The resolved recipe.
    recipe: Value,
    machine: Value,
    /// What stood for `auto`, by its key.
    chosen: Map<String, Value>,
    /// Each time it was resumed, and what was changed then.
    #[serde(default)]
    history: Vec<Value>,
}

/// How conversations become texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Template {
    /// Of all templates; none if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    /// The local time that `strftime_now` tells in all of the run; none if no template asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rendered_at: Option<String>,
}

const TIME: &str = "%Y-%m-%dT%H:%M:%S";

/// What a recipe left open.
#[derive(Clone, Debug)]
pub struct Open {
    dtype: Value,
    device: Value,
}

impl Open {
    /// Before anything is chosen.
    pub fn of(recipe: &Recipe) -> Result<Self> {
        Ok(Self {
            dtype: serde_json::to_value(recipe.model.dtype)?,
            device: json!(recipe.model.device),
        })
    }
}

impl Record {
    /// Of the run in `folder`, as it stood when its newest checkpoint was made; none if it left none.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let newest = Checkpoint::all_in(folder)?
            .pop()
            .map(|checkpoint| checkpoint.path.join(FILE));
        let places = newest.into_iter().chain([folder.join(FILE)]);
        let Some(path) = places.into_iter().find(|path| path.is_file()) else {
            return Ok(None);
        };
        let place = || format!("`{}`", path.display());
        let found: Value = serde_json::from_slice(&std::fs::read(&path).with_context(place)?).with_context(place)?;
        if found["version"] != json!(VERSION) {
            bail!(
                "{}: wanted version {VERSION}, found {}\nhint: resume with the program that wrote it",
                place(),
                found["version"]
            );
        }
        serde_json::from_value(found).map(Some).with_context(place)
    }

    /// Of the run that `recipe` describes.
    pub fn of(
        recipe: &Recipe,
        (source, tokenizer): (&Source, &Tokenizer),
        machine: Machine,
        open: &Open,
        time: NaiveDateTime,
    ) -> Result<Self> {
        let text = serde_json::to_string(recipe)?;
        let recipe: Value = serde_json::from_str(&text)?;
        let mut chosen = Map::new();
        for (key, asked) in [("dtype", &open.dtype), ("device", &open.device)] {
            if *asked == json!("auto") {
                chosen.insert(format!("model.{key}"), recipe["model"][key].clone());
            }
        }
        let mut templates = Sha256::new();
        for (name, template) in tokenizer.templates().iter() {
            templates.update(format!("{name}\n{}\n", template.source()));
        }
        let any = tokenizer.templates().iter().next().is_some();
        let tells_time = tokenizer.templates().iter().any(|(_, template)| template.tells_time());
        Ok(Self {
            version: VERSION,
            program: provenance::program(),
            begun: provenance::now(),
            base: source.base()?.clone(),
            tokenizer_sha256: hexadecimal(&tokenizer.digest()),
            template: Template {
                sha256: any.then(|| hexadecimal(&templates.finalize())),
                rendered_at: tells_time.then(|| time.format(TIME).to_string()),
            },
            inputs: inputs::of(&recipe)?,
            recipe,
            machine: facts(machine),
            chosen,
            history: Vec::new(),
        })
    }

    /// The record of this run as it goes on from what lies in `dir`, which began as `earlier`; an error if that is another
    /// run. `allow` names the keys that may differ.
    pub fn after(self, earlier: Option<Self>, dir: &RunDir, allow: &[String], events: &Events) -> Result<Self> {
        let earlier = match earlier {
            Some(earlier) => Some(earlier),
            None => self.clone().of_recipe_alone(dir.path(), events)?,
        };
        match earlier {
            Some(earlier) => earlier.continued(self, dir, allow, events),
            None => Ok(self),
        }
    }

    fn continued(self, now: Self, dir: &RunDir, allow: &[String], events: &Events) -> Result<Self> {
        let progress = Progress::of(dir)?;
        let found = differences(&self, &now, progress)?;
        let is_allowed = |key: &str| {
            allow.iter().any(|allowed| {
                key == allowed
                    || key
                        .strip_prefix(allowed.as_str())
                        .is_some_and(|rest| rest.starts_with('.'))
            })
        };
        let (refused, passed): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|one| !(one.is_exact || one.is_allowable && is_allowed(&one.key)));
        if !refused.is_empty() {
            bail!(differences::refusal(dir.path(), &refused, progress));
        }
        for one in &passed {
            events.note(|| {
                format!(
                    "`{}`: {} as the run began, {} from step {} on",
                    one.key, one.wanted, one.found, progress.done
                )
            });
        }
        for key in allow
            .iter()
            .filter(|key| !passed.iter().any(|one| one.key.starts_with(key.as_str())))
        {
            events.note(|| format!("`--allow {key}` changes nothing: it is what the run began with"));
        }
        if self.machine["threads"] != now.machine["threads"] || self.machine["cpu"] != now.machine["cpu"] {
            events.note(|| format!(
                "the run began on {} with {} threads and goes on on {} with {}: sums may be rounded in another order",
                self.machine["cpu"], self.machine["threads"], now.machine["cpu"], now.machine["threads"]
            ));
        }
        let changed: Vec<Value> = passed
            .iter()
            .map(|one| json!({"key": one.key, "from": one.wanted, "to": one.found, "exact": one.is_exact}))
            .collect();
        let mut history = self.history;
        history.push(json!({
            "resumed": now.begun, "step": progress.done, "program": now.program, "machine": now.machine, "changed": changed,
        }));
        Ok(Self {
            begun: self.begun,
            history,
            ..now
        })
    }

    /// What an earlier version of this program left of a run: its recipe alone.
    fn of_recipe_alone(self, folder: &Path, events: &Events) -> Result<Option<Self>> {
        let path = folder.join("recipe.toml");
        let Ok(text) = std::fs::read_to_string(&path) else {
            return Ok(None);
        };
        let recipe: toml::Table = text.parse().with_context(|| format!("`{}`", path.display()))?;
        events.note(|| {
            format!(
                "`{}` has no `{FILE}`: whether its base and its data are the same cannot be told",
                folder.display()
            )
        });
        Ok(Some(Self {
            recipe: serde_json::to_value(recipe)?,
            ..self
        }))
    }

    /// The text of `run.json`.
    pub fn text(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// What stands beside every model or adapter that the run leaves.
    pub fn provenance(&self) -> Map<String, Value> {
        let mut made = provenance::made_of(&self.base, "train");
        made.insert(
            "run".into(),
            json!({
                "begun": self.begun, "inputs": self.inputs, "template": self.template,
                "tokenizer_sha256": self.tokenizer_sha256, "recipe": self.recipe, "machine": self.machine,
                "changed": self.history,
            }),
        );
        made
    }
}

/// What stood for `auto` when the run in `folder` began, if it left a record: a run that is resumed computes as before,
/// whatever the machine would choose now.
pub fn dtype_of(folder: &Path) -> Result<Option<Dtype>> {
    let Some(record) = Record::read(folder)? else {
        return Ok(None);
    };
    let dtype = record.recipe["model"]["dtype"].clone();
    serde_json::from_value(dtype).map(Some).context("`model.dtype`")
}

/// The base of a recipe; that of the run that is resumed, at the commit that it began with.
pub fn open_base(model: &ModelConfig, earlier: Option<&Record>, events: &Events) -> Result<Source> {
    let began = earlier.map(|earlier| &earlier.base);
    let pinned = began.filter(|base| base.name_or_path == model.name_or_path && model.revision.is_none());
    let mut model = model.clone();
    if let Some(commit) = pinned.and_then(|base| base.revision.clone()) {
        model.revision = Some(commit);
    }
    model.open(events)
}

/// The time that the run's templates tell: that of the run that is resumed, else now.
pub fn time(earlier: Option<&Record>) -> Result<NaiveDateTime> {
    match earlier.and_then(|earlier| earlier.template.rendered_at.as_deref()) {
        Some(time) => NaiveDateTime::parse_from_str(time, TIME).with_context(|| format!("`{FILE}`: `rendered_at`")),
        None => Ok(Local::now().naive_local()),
    }
}
