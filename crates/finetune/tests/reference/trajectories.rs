//! Ten steps that PEFT and Transformers took from the same start over the same rows, taken by a recipe.
//!
//! `trajectory/*` of the golden vectors holds the losses, gradient norms and rates of every step and what was trained at
//! the end. Each run here goes from a recipe's text over surgery and the loop to the files that it leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use data::{Arrange, Mixture, Part, Sample, TokenSet, Tokenized};
use decoder::Decoder;
use decoder::loss::SupervisedLoss;
use events::Events;
use golden::Vectors;
use methods::apply;
use methods::peft::Adapter;
use methods::recipe::Recipe;
use models::Source;
use models::machine::Machine;
use serde_json::Value;
use session::training::saving;
use session::training::sets::Sets;
use session::training::steps::Steps;
use tch::{Device, Kind, Tensor};
use tensor_core::{Documents, ModulePath, named_params};
use train::{Hooks, RunDir, Start};

/// Losses, norms and rates: relative. The recorded f32 runs lie 3e-7 from the same steps in f64.
const OF_A_LOSS: f64 = 1e-5;
/// What was trained: relative to each tensor's largest element. The recorded f32 runs lie 2e-6 from f64.
const OF_A_TENSOR: f64 = 1e-4;

const MACHINE: Machine = Machine {
    device: Device::Cpu,
    kind: Kind::Float,
};

/// What the recipe says beyond the recorded options.
const RUNS: [(&str, &str); 5] = [
    (
        "lora",
        "kind = \"lora\"\nr = 4\nlora_alpha = 10\ntarget_modules = \"all-linear\"\n",
    ),
    (
        "loraplus",
        "kind = \"lora\"\nr = 4\nlora_alpha = 10\ntarget_modules = \"all-linear\"\n",
    ),
    (
        "lora-untied-patterns",
        "kind = \"lora\"\nr = 4\nlora_alpha = 10\ntarget_modules = \"all-linear\"\nuse_rslora = true\n\
         rank_pattern = { down_proj = 2, \"layers.1.self_attn.q_proj\" = 7 }\n\
         alpha_pattern = { gate_proj = 3, 'layers\\.0\\..*\\.v_proj' = 5 }\nmodules_to_save = [\"lm_head\"]\n",
    ),
    ("full", "kind = \"full\"\n"),
    ("full-decay-groups", "kind = \"full\"\n"),
];

/// A recorded run.
struct Recorded {
    name: &'static str,
    surgery: &'static str,
    golden: Vectors,
    steps: Value,
}

/// What a run of ours was.
struct Ours {
    losses: Vec<f64>,
    grad_norms: Vec<f64>,
    learning_rates: Vec<f64>,
    /// The tensors of the file that it left, by their names there.
    saved: BTreeMap<String, Tensor>,
}

impl Recorded {
    fn of(name: &'static str) -> Self {
        let (_, surgery) = RUNS.into_iter().find(|(run, _)| *run == name).expect("a run");
        Self {
            name,
            surgery,
            golden: Vectors::open(&format!("trajectory/{name}")),
            steps: golden::json(&format!("trajectory/{name}/trajectory")),
        }
    }

    fn base(&self) -> String {
        let folder = golden::vectors_dir().join("trajectory").join(self.name).join("base");
        folder.display().to_string()
    }

    fn is_adapter(&self) -> bool {
        self.golden.names().any(|name| name.contains("lora_"))
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        let list = self.steps[name].as_array().expect("a list");
        list.iter().map(|number| number.as_f64().expect("a number")).collect()
    }

    /// The recorded options as a recipe, changed by `settings`, that writes into `folder`.
    fn recipe(&self, folder: &Path, settings: &[&str]) -> Recipe {
        let options = &self.steps["options"];
        let ratio = options["loraplus_lr_ratio"].as_f64();
        let text = format!(
            "[model]\nname_or_path = {:?}\ndtype = \"f32\"\ndevice = \"cpu\"\n\n[[surgery]]\n{}\n[objective]\nkind = \"sft\"\n\n\
             [data]\ntrain = [{{ path = \"rows.jsonl\" }}]\n\n\
             [train]\noutput_dir = {:?}\nmax_steps = {}\nper_device_train_batch_size = 2\nlearning_rate = {}\n\
             lr_scheduler_type = {}\nwarmup_steps = {}\nweight_decay = {}\nadam_beta1 = {}\nadam_beta2 = {}\n\
             adam_epsilon = {}\nmax_grad_norm = {}\n{}logging_steps = 1\nsave_strategy = \"no\"\nreport_to = []\n",
            self.base(),
            self.surgery,
            folder.join("run").display().to_string(),
            options["steps"],
            options["learning_rate"],
            options["schedule"],
            options["warmup_steps"],
            options["weight_decay"],
            options["betas"][0],
            options["betas"][1],
            options["epsilon"],
            options["max_grad_norm"],
            ratio.map_or_else(String::new, |ratio| format!("loraplus_lr_ratio = {ratio}\n")),
        );
        // The rows are tokens already; the recipe wants to see a file.
        std::fs::write(folder.join("rows.jsonl"), "").expect("a file");
        std::fs::write(folder.join("recipe.toml"), text).expect("a file");
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        Recipe::read(&folder.join("recipe.toml"), &settings).expect("a recipe")
    }

    /// The recorded documents, laid so that the recipe's shuffled epoch takes two of them a step in the recorded order.
    fn documents(&self, recipe: &Recipe) -> TokenSet {
        let steps = self.numbers("losses").len();
        let recorded: Vec<Sample> = (0..2 * steps)
            .map(|place| self.document(place / 2, place % 2))
            .collect();
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

    fn document(&self, step: usize, document: usize) -> Sample {
        let list = |name: &str| self.golden.integers(&format!("{name}.{step}.{document}"));
        Sample {
            documents: vec![Tokenized {
                tokens: list("tokens").into_iter().map(|token| token as u32).collect(),
                trained: list("labels").into_iter().map(|label| label >= 0).collect(),
            }],
            label: None,
            truncated: false,
        }
    }

    /// Gives the parameters that train the values that the recorded ones began with, each exactly one.
    fn begin(&self, model: &Decoder) {
        let mut initial = self.golden.under("initial.");
        for (at, param) in named_params(model) {
            if param.is_trainable() {
                let name = self.name_in_file(at.as_str());
                let value = initial
                    .remove(&name)
                    .unwrap_or_else(|| panic!("`{name}` did not train"));
                tch::no_grad(|| param.value().shallow_clone().copy_(&value));
            }
        }
        assert!(initial.is_empty(), "{:?} do not train here", initial.keys());
    }

    fn name_in_file(&self, path: &str) -> String {
        let path = path.replace(".modules_to_save.", ".");
        if self.is_adapter() {
            format!("base_model.model.{path}")
        } else {
            path
        }
    }

    /// Runs the recipe, changed by `settings`.
    fn run(&self, settings: &[&str]) -> Ours {
        let folder = tempfile::tempdir().expect("a folder");
        self.run_in(folder.path(), settings).1
    }

    fn run_in(&self, folder: &Path, settings: &[&str]) -> (Decoder, Ours) {
        let recipe = self.recipe(folder, settings);
        let source = recipe.model.open(&Events::none()).expect("the recorded base");
        let adapted = apply(source.decoder(MACHINE).expect("weights"), &recipe, &source).expect("surgery");
        self.begin(&adapted.model);
        let sets = Sets {
            train: vec![self.documents(&recipe)],
            eval: Vec::new(),
            labels: None,
            margins: Vec::new(),
        };
        let steps = Steps::training(&sets, &recipe, MACHINE.device).expect("steps");
        let toml = recipe.to_toml().expect("a recipe");
        let dir = RunDir::open(recipe.output_dir(), &toml, Start::New).expect("a folder");
        let save = |folder: &Path| saving::save(folder, &adapted, &source, &sets).map_err(Into::into);
        let hooks = Hooks::new(&dir, &save);
        let report = train::fit(&adapted.model, &SupervisedLoss, &steps, &recipe.train, hooks).expect("a run");
        let logged = |name: &str| report.history.iter().filter_map(|entry| entry.number(name)).collect();
        let file = if self.is_adapter() {
            "adapter_model.safetensors"
        } else {
            "model.safetensors"
        };
        let ours = Ours {
            losses: logged("loss"),
            grad_norms: logged("grad_norm"),
            learning_rates: logged("learning_rate"),
            saved: Vectors::open_file(&dir.path().join(file)).under(""),
        };
        (adapted.model, ours)
    }

    /// What of `ours` lies too far from the recorded run, in words.
    fn differences(&self, ours: &Ours) -> Vec<String> {
        let mut found = Vec::new();
        for (name, ours) in [
            ("losses", &ours.losses),
            ("grad_norms", &ours.grad_norms),
            ("learning_rates", &ours.learning_rates),
        ] {
            let theirs = self.numbers(name);
            assert_eq!(ours.len(), theirs.len(), "{}: {name}", self.name);
            for (step, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                if (ours - theirs).abs() > OF_A_LOSS * theirs.abs() {
                    found.push(format!("{name} of step {}: {ours}, recorded {theirs}", step + 1));
                }
            }
        }
        let theirs = self.golden.under("final.");
        assert!(
            theirs.keys().eq(ours.saved.keys()),
            "{}: {:?}",
            self.name,
            ours.saved.keys()
        );
        for (name, theirs) in theirs {
            let far = (&ours.saved[&name] - &theirs).abs().max().double_value(&[]);
            let far = far / theirs.abs().max().double_value(&[]);
            if far > OF_A_TENSOR {
                found.push(format!("`{name}` is {far:.1e} of its largest element off"));
            }
        }
        found
    }
}

#[test]
fn a_recipe_takes_the_steps_that_peft_and_transformers_take() {
    for (name, _) in RUNS {
        let recorded = Recorded::of(name);
        let differences = recorded.differences(&recorded.run(&[]));
        assert!(differences.is_empty(), "{name}: {}", differences.join("\n"));
    }
}

#[test]
fn packing_accumulating_and_recomputing_take_the_same_steps() {
    for setting in [
        &["data.max_tokens=1"][..],
        &[
            "train.per_device_train_batch_size=1",
            "train.gradient_accumulation_steps=2",
        ],
        &["train.gradient_checkpointing=true"],
        &["train.gradient_checkpointing=false"],
    ] {
        for name in ["lora-untied-patterns", "full-decay-groups"] {
            let recorded = Recorded::of(name);
            let differences = recorded.differences(&recorded.run(setting));
            assert!(
                differences.is_empty(),
                "{name} with {setting:?}: {}",
                differences.join("\n")
            );
        }
    }
}

#[test]
fn each_option_of_the_recorded_runs_shows_in_their_steps() {
    for (name, setting) in [
        ("lora", "train.max_grad_norm=0"),
        ("lora", "train.lr_scheduler_type=constant_with_warmup"),
        ("lora", "train.warmup_steps=1"),
        ("lora", "train.weight_decay=0"),
        ("lora", "train.adam_beta1=0.91"),
        ("lora", "train.adam_beta2=0.99"),
        ("lora", "train.adam_epsilon=1e-4"),
        ("lora", "surgery.0.lora_alpha=9.9"),
        ("loraplus", "train.loraplus_lr_ratio=15"),
        ("lora-untied-patterns", "surgery.0.use_rslora=false"),
        ("lora-untied-patterns", "surgery.0.alpha_pattern={gate_proj=3}"),
        ("full", "train.weight_decay=0"),
        ("full-decay-groups", "train.weight_decay=0.29"),
    ] {
        let recorded = Recorded::of(name);
        let differences = recorded.differences(&recorded.run(&[setting]));
        assert!(!differences.is_empty(), "{name} with {setting} is not told apart");
    }
    // Clipping acts at every step of every run; a norm or a bias that were decayed would show.
    for (name, _) in RUNS {
        let recorded = Recorded::of(name);
        assert!(recorded.numbers("grad_norms").iter().all(|norm| *norm > 1.0), "{name}");
        let rates: f64 = recorded.numbers("learning_rates").iter().sum();
        let decay = recorded.steps["options"]["weight_decay"].as_f64().expect("a number");
        assert!(
            rates * decay > OF_A_TENSOR || name == "loraplus",
            "{name}: {rates} {decay}"
        );
    }
}

#[test]
fn an_adapter_is_saved_as_peft_saves_it_and_loads_as_what_was_trained() {
    let documents = Documents::new(&[6]);
    let tokens = Tensor::from_slice(&[5i64, 40, 33, 21, 90, 7]);
    for name in ["lora", "lora-untied-patterns"] {
        let recorded = Recorded::of(name);
        let folder = tempfile::tempdir().expect("a folder");
        let (trained, _) = recorded.run_in(folder.path(), &[]);
        let saved = folder.path().join("run");
        let config = |folder: &Path| -> Value {
            let text = std::fs::read(folder.join("adapter_config.json")).expect("a file");
            let mut config: Value = serde_json::from_slice(&text).expect("JSON");
            config["base_model_name_or_path"] = Value::Null;
            // PEFT lists whole paths for `all-linear`; the ends that they have in common name the same modules.
            let targets = config["target_modules"].as_array().expect("a list");
            let path = |target: &Value| ModulePath::from(target.as_str().expect("a name"));
            let ends: BTreeSet<String> = targets.iter().map(|target| path(target).name().to_owned()).collect();
            config["target_modules"] = serde_json::json!(ends);
            config
        };
        let theirs = golden::vectors_dir().join("trajectory").join(name).join("adapter");
        assert_eq!(config(&saved), config(&theirs), "{name}");
        let base = Source::open(&recorded.base(), &Events::none()).expect("the base");
        let adapter = Adapter::open(&saved).expect("an adapter");
        let loaded = adapter.place(base.decoder(MACHINE).expect("weights")).expect("placed");
        let logits = trained.logits(&tokens, &documents);
        assert!(loaded.logits(&tokens, &documents).equal(&logits), "{name}");
    }
}
