//! Ten steps that TRL's trainers took over the same pairs and single replies, from the same adapter, taken by a recipe.
//!
//! `preference_steps` of the golden vectors holds TRL's losses, gradient norms, metrics and the adapters at the end.

use std::path::Path;
use std::rc::Rc;

use align_dpo_ppo::preference::PreferenceConfig;
use align_dpo_ppo::{Likelihood, Preference, Reference, ReplyRow, SingleReplies, SingleRow};
use data::{Arrange, Mixture, Part, Sample, TokenSet, Tokenized};
use events::Events;
use golden::{Vectors, assert_close};
use methods::recipe::{ObjectiveConfig, Recipe};
use methods::{Adapted, apply};
use models::Source;
use models::machine::Machine;
use serde_json::Value;
use session::training::rows::ToRow;
use session::training::sets::Sets;
use session::training::steps::Steps;
use session::training::{reference, saving};
use tch::{Device, Kind};
use tensor_core::{Objective, named_params};
use train::{Hooks, Report, RunDir, Start};

/// Losses, norms and metrics, relative to their size plus one: f32 sums in another order, over ten steps.
const OF_A_NUMBER: f64 = 2e-4;
/// What was trained, relative to each tensor's largest element.
const OF_A_TENSOR: f64 = 2e-3;

const SIZE: usize = 3;

const MACHINE: Machine = Machine {
    device: Device::Cpu,
    kind: Kind::Float,
};

/// A recorded run.
struct Recorded {
    name: &'static str,
    golden: Rc<Vectors>,
    steps: Value,
    objective: String,
}

impl Recorded {
    fn all() -> Vec<Self> {
        let golden = Rc::new(Vectors::open("preference_steps"));
        let steps = golden::json("preference_steps/steps");
        ["dpo", "mixed", "kto"]
            .map(|name| {
                let options = steps[name]["options"].as_object().expect("options").iter();
                let options = options.fold(String::new(), |text, (key, value)| text + &format!("{key} = {value}\n"));
                let kind = if name == "kto" { "kto" } else { "dpo" };
                Self {
                    name,
                    golden: golden.clone(),
                    steps: steps[name].clone(),
                    objective: format!("kind = \"{kind}\"\n{options}"),
                }
            })
            .into()
    }

    fn recipe(&self, folder: &Path, settings: &[&str]) -> Recipe {
        let base = golden::vectors_dir().join("trajectory/lora/base");
        let text = format!(
            "[model]\nname_or_path = {:?}\ndtype = \"f32\"\ndevice = \"cpu\"\n\n\
             [[surgery]]\nkind = \"lora\"\nr = 4\nlora_alpha = 10\ntarget_modules = \"all-linear\"\n\n\
             [objective]\n{}\n[data]\ntrain = [{{ path = \"rows.jsonl\" }}]\n\n\
             [train]\noutput_dir = {:?}\nmax_steps = 10\nper_device_train_batch_size = {SIZE}\nlearning_rate = 1e-2\n\
             lr_scheduler_type = \"constant\"\nmax_grad_norm = 0.5\nlogging_steps = 1\nsave_strategy = \"no\"\nreport_to = []\n",
            base.display().to_string(),
            self.objective,
            folder.join("run").display().to_string(),
        );
        // The rows are tokens already; the recipe wants to see a file.
        std::fs::write(folder.join("rows.jsonl"), "").expect("a file");
        std::fs::write(folder.join("recipe.toml"), text).expect("a file");
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        Recipe::read(&folder.join("recipe.toml"), &settings).expect("a recipe")
    }

    /// The recorded samples, laid so that the recipe's shuffled epoch takes them in the recorded order.
    fn samples(&self, recipe: &Recipe) -> TokenSet {
        let recorded: Vec<Sample> = (0..10 * SIZE).map(|place| self.sample(place)).collect();
        let part = Part {
            len: recorded.len(),
            weight: 1.0,
            max_samples: None,
        };
        let mixture = Mixture::new(&[part], recipe.data.mix_strategy, Arrange::Shuffled, recipe.train.seed);
        let order = mixture.expect("a mixture").order(0);
        let mut laid = recorded.clone();
        for (pick, sample) in order.iter().zip(recorded) {
            laid[pick.sample as usize] = sample;
        }
        TokenSet::from_samples(laid)
    }

    fn sample(&self, place: usize) -> Sample {
        let (step, of_step) = (place / SIZE, place % SIZE);
        let list = |name: &str, part: usize| self.golden.integers(&format!("{}.{name}.{step}.{part}", self.name));
        let document = |part: usize| Tokenized {
            tokens: list("tokens", part).into_iter().map(|token| token as u32).collect(),
            trained: list("labels", part).into_iter().map(|label| label >= 0).collect(),
        };
        let verdict = self.steps["desirable"].get(place).and_then(Value::as_i64);
        Sample {
            documents: match verdict {
                Some(_) => vec![document(of_step)],
                None => vec![document(2 * of_step), document(2 * of_step + 1)],
            },
            label: verdict,
            truncated: false,
        }
    }

    fn begin(&self, adapted: &Adapted) {
        let mut initial = self.golden.under("initial.");
        for (at, param) in named_params(&adapted.model) {
            if param.is_trainable() {
                let value = initial.remove(&format!("base_model.model.{at}")).expect("it trained");
                tch::no_grad(|| param.value().shallow_clone().copy_(&value));
            }
        }
        assert!(initial.is_empty(), "{:?} do not train here", initial.keys());
    }

    /// Runs the recipe, changed by `settings`, and compares every step.
    fn check(&self, settings: &[&str]) {
        let folder = tempfile::tempdir().expect("a folder");
        let recipe = self.recipe(folder.path(), settings);
        let source = recipe.model.open(&Events::none()).expect("the recorded base");
        let adapted = apply(source.decoder(MACHINE).expect("weights"), &recipe, &source).expect("surgery");
        self.begin(&adapted);
        let reference = reference::choose(&recipe, &source, MACHINE, &adapted).expect("a reference");
        let run = Run {
            recorded: self,
            recipe: &recipe,
            source: &source,
            adapted: &adapted,
        };
        match &recipe.objective {
            ObjectiveConfig::Dpo(config) => run.check::<ReplyRow>(&pairs(config, reference)),
            ObjectiveConfig::Kto(config) => {
                run.check::<SingleRow>(&SingleReplies::new(config, reference).expect("options"));
            }
            other => panic!("{other:?}"),
        }
    }
}

fn pairs(config: &PreferenceConfig, reference: Reference) -> Preference {
    Preference::new(config, Likelihood::Reply, Some(reference)).expect("options")
}

struct Run<'a> {
    recorded: &'a Recorded,
    recipe: &'a Recipe,
    source: &'a Source,
    adapted: &'a Adapted,
}

impl Run<'_> {
    fn check<B: ToRow>(&self, objective: &dyn Objective<Batch = B>) {
        let recorded = self.recorded;
        let sets = Sets {
            train: vec![recorded.samples(self.recipe)],
            eval: Vec::new(),
            labels: None,
            margins: Vec::new(),
        };
        let steps = Steps::training(&sets, self.recipe, MACHINE.device).expect("steps");
        let toml = self.recipe.to_toml().expect("a recipe");
        let dir = RunDir::open(self.recipe.output_dir(), &toml, Start::New).expect("a folder");
        let save = |folder: &Path| saving::save(folder, self.adapted, self.source, &sets).map_err(Into::into);
        let hooks = Hooks::new(&dir, &save);
        let report = train::fit(&self.adapted.model, objective, &steps, &self.recipe.train, hooks).expect("a run");
        for (key, theirs) in recorded.steps.as_object().expect("metrics") {
            let name = match key.as_str() {
                "losses" => "loss",
                "grad_norms" => "grad_norm",
                // TRL's mean over tokens is ours over replies; KTO's margin is the difference of what is there.
                "options" | "desirable" | "logits/chosen" | "logits/rejected" => continue,
                "rewards/margins" if recorded.name == "kto" => continue,
                name => name,
            };
            compare(recorded.name, name, &report, theirs);
        }
        let saved = Vectors::open_file(&dir.path().join("adapter_model.safetensors"));
        for (name, theirs) in recorded.golden.under(&format!("{}.final.", recorded.name)) {
            let largest = theirs.abs().max().double_value(&[]);
            assert_close(&name, &saved.get(&name), &theirs, 0.0, OF_A_TENSOR * largest);
        }
    }
}

fn compare(run: &str, name: &str, report: &Report, theirs: &Value) {
    let ours: Vec<f64> = report.history.iter().filter_map(|entry| entry.number(name)).collect();
    let theirs: Vec<f64> = theirs
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_f64)
        .collect();
    assert_eq!(ours.len(), theirs.len(), "{run}: {name}");
    for (step, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert!(
            (ours - theirs).abs() <= OF_A_NUMBER * (1.0 + theirs.abs()),
            "{run}: {name} of step {}: {ours}, TRL {theirs}",
            step + 1
        );
    }
}

#[test]
fn a_recipe_takes_the_steps_that_trl_takes() {
    for recorded in Recorded::all() {
        recorded.check(&[]);
    }
}

#[test]
fn one_document_a_row_and_accumulated_steps_are_trls_too() {
    for recorded in Recorded::all() {
        recorded.check(&["data.max_tokens=1"]);
        recorded.check(&[
            "train.per_device_train_batch_size=1",
            "train.gradient_accumulation_steps=3",
            "train.gradient_checkpointing=true",
        ]);
    }
}

#[test]
#[should_panic(expected = "dpo: ")]
fn another_strength_is_told_apart() {
    Recorded::all()[0].check(&["objective.beta=0.21"]);
}
