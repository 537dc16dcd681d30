//! Recipes of any options read back as themselves, and an override means what the same value in the file means.

use std::path::Path;

use methods::recipe::Recipe;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use tempfile::TempDir;
use toml::{Table, Value};

/// Keys with the values that each may have.
type Keys = Vec<(&'static str, BoxedStrategy<Value>)>;

/// A table with some of `keys`, each there or not.
fn table(kind: Option<&'static str>, keys: Keys) -> BoxedStrategy<Value> {
    let maybe = |(key, value): (&'static str, BoxedStrategy<Value>)| {
        proptest::option::of(value).prop_map(move |value| value.map(|value| (key.to_owned(), value)))
    };
    let keys: Vec<_> = keys.into_iter().map(maybe).collect();
    let made = keys.prop_map(move |pairs| {
        let kind = kind.map(|kind| ("kind".to_owned(), Value::from(kind)));
        Value::Table(kind.into_iter().chain(pairs.into_iter().flatten()).collect())
    });
    made.boxed()
}

fn int(range: std::ops::Range<i64>) -> BoxedStrategy<Value> {
    range.prop_map(Value::Integer).boxed()
}

fn float(range: std::ops::Range<f64>) -> BoxedStrategy<Value> {
    range.prop_map(Value::Float).boxed()
}

fn switch() -> BoxedStrategy<Value> {
    any::<bool>().prop_map(Value::Boolean).boxed()
}

fn one_of(words: &'static [&'static str]) -> BoxedStrategy<Value> {
    proptest::sample::select(words).prop_map(Value::from).boxed()
}

fn some_of(words: &'static [&'static str]) -> BoxedStrategy<Value> {
    let few = proptest::sample::subsequence(words, 1..words.len());
    few.prop_map(|words| words.into_iter().map(Value::from).collect::<Vec<_>>().into())
        .boxed()
}

/// Any text that TOML can hold: quotes, line ends, backslashes, letters of every script.
fn text() -> BoxedStrategy<Value> {
    "[ -~äß→漢\n\t\"'\\\\]{0,12}".prop_map(Value::from).boxed()
}

fn by_name(values: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    let keys = proptest::sample::select(&["q_proj", r"layers\.0\..*k_proj", "down_proj"][..]).prop_map(str::to_owned);
    btree_map(keys, values, 0..3)
        .prop_map(|map| Value::Table(map.into_iter().collect()))
        .boxed()
}

const MODULES: &[&str] = &["q_proj", "v_proj", "mlp.down_proj", "lm_head"];

fn seed() -> BoxedStrategy<Value> {
    int(0..i64::MAX)
}

fn low_rank() -> Keys {
    vec![
        ("r", int(1..64)),
        ("lora_alpha", float(0.5..64.0)),
        ("lora_dropout", float(0.0..0.9)),
        (
            "target_modules",
            prop_oneof![Just("all-linear".into()), some_of(MODULES)].boxed(),
        ),
        ("exclude_modules", some_of(MODULES)),
        ("use_rslora", switch()),
        (
            "init_lora_weights",
            prop_oneof![switch(), one_of(&["gaussian", "pissa", "pissa_niter_7", "olora"])].boxed(),
        ),
        ("rank_pattern", by_name(int(1..9))),
        ("alpha_pattern", by_name(float(0.1..9.0))),
        ("modules_to_save", some_of(&["embed_tokens", "lm_head", "o_proj"])),
        ("seed", seed()),
    ]
}

/// Surgeries that can stand alone.
fn surgery() -> BoxedStrategy<Value> {
    let adapter = vec![
        ("config", one_of(&["seq_bn", "double_seq_bn", "par_bn"])),
        (
            "reduction_factor",
            prop_oneof![
                float(0.5..32.0),
                Just(Value::Table(Table::from_iter([(
                    "default".to_owned(),
                    Value::Float(4.0)
                )])))
            ]
            .boxed(),
        ),
        ("init_weights", one_of(&["zero", "bert", "mam_adapter", "houlsby"])),
        ("scaling", prop_oneof![float(0.5..4.0), one_of(&["learned"])].boxed()),
        ("dropout", float(0.0..0.9)),
        ("train_norms", switch()),
        ("seed", seed()),
    ];
    let full = vec![
        ("unfrozen_parameters", some_of(&["norm", "q_proj", ".*"])),
        ("freeze_embeddings", switch()),
    ];
    let hft = vec![
        ("granularity", one_of(&["category", "stratified", "layer", "model"])),
        ("freeze_ratio", float(0.0..0.9)),
        ("resample", prop_oneof![one_of(&["epoch", "run"]), int(1..9)].boxed()),
        ("hft_seed", seed()),
    ];
    let mut dora = low_rank();
    dora.extend([
        ("exact_norm", switch()),
        ("magnitude_only_modules", some_of(&["up_proj", "gate_proj", "k_proj"])),
    ]);
    prop_oneof![
        table(Some("lora"), low_rank()),
        table(Some("dora"), dora),
        table(Some("adapter"), adapter),
        table(Some("full"), full),
        table(Some("hft"), hft),
    ]
    .boxed()
}

fn objective() -> BoxedStrategy<Value> {
    prop_oneof![
        table(
            Some("sft"),
            vec![("assistant_only_loss", switch()), ("completion_only_loss", switch())]
        ),
        table(
            Some("dpo"),
            vec![
                ("beta", float(0.01..1.0)),
                ("loss_type", one_of(&["sigmoid", "ipo", "hinge"])),
                ("precompute_ref_log_probs", switch()),
            ]
        ),
        table(
            Some("orpo"),
            vec![("beta", float(0.01..1.0)), ("prompt_in_nll", switch())]
        ),
        table(
            Some("kto"),
            vec![("beta", float(0.01..1.0)), ("desirable_weight", float(0.1..4.0))]
        ),
        table(Some("classify"), vec![]),
    ]
    .boxed()
}

fn train() -> BoxedStrategy<Value> {
    table(
        None,
        vec![
            (
                "output_dir",
                text()
                    .prop_map(|text| format!("runs/{}", text.as_str().unwrap_or_default()).into())
                    .boxed(),
            ),
            ("num_train_epochs", float(0.1..9.0)),
            ("max_steps", int(1..1000)),
            ("per_device_train_batch_size", int(2..64)),
            ("gradient_accumulation_steps", int(1..8)),
            ("learning_rate", float(1e-7..1e-1)),
            ("weight_decay", float(0.0..1.0)),
            ("optim", one_of(&["adamw", "adamw_8bit", "paged_adamw", "adamw_torch"])),
            ("adam_beta1", float(0.0..0.99)),
            ("adam_epsilon", float(1e-12..1e-3)),
            ("max_grad_norm", float(0.0..9.0)),
            (
                "lr_scheduler_type",
                one_of(&["linear", "cosine", "constant_with_warmup", "inverse_sqrt"]),
            ),
            ("warmup_steps", float(0.0..0.9)),
            (
                "gradient_checkpointing",
                prop_oneof![switch(), one_of(&["auto"])].boxed(),
            ),
            ("logging_steps", int(1..99)),
            ("report_to", some_of(&["tensorboard", "markdown"])),
            ("save_steps", int(1..99)),
            ("save_total_limit", int(1..9)),
            ("seed", seed()),
        ],
    )
}

fn data() -> BoxedStrategy<Value> {
    let source = (0.1..9.0f64, proptest::option::of(1..99i64), any::<bool>(), text()).prop_map(
        |(weight, limit, dedupe, column)| {
            let mut table = Table::from_iter([
                ("path".to_owned(), Value::from("rows.jsonl")),
                ("weight".to_owned(), weight.into()),
                ("dedupe".to_owned(), dedupe.into()),
                (
                    "columns".to_owned(),
                    Value::Table(Table::from_iter([("text".to_owned(), column)])),
                ),
            ]);
            table.extend(limit.map(|limit| ("max_samples".to_owned(), limit.into())));
            Value::Table(table)
        },
    );
    let keys = table(
        None,
        vec![
            ("max_length", int(2..4096)),
            ("max_tokens", int(2..4096)),
            (
                "mix_strategy",
                one_of(&["concat", "interleave_under", "interleave_over"]),
            ),
            ("overflow", one_of(&["truncate", "split"])),
            ("group_by_length", switch()),
            ("drop_last", switch()),
        ],
    );
    let joined = (vec(source, 1..4), keys).prop_map(|(sources, keys)| {
        let mut keys = keys.as_table().cloned().unwrap_or_default();
        keys.insert("train".into(), Value::Array(sources));
        Value::Table(keys)
    });
    joined.boxed()
}

fn recipe() -> BoxedStrategy<Table> {
    let model = table(
        None,
        vec![
            ("dtype", one_of(&["auto", "f32", "float32", "bf16", "bfloat16"])),
            ("device", one_of(&["auto", "cpu"])),
        ],
    );
    let report = table(
        None,
        vec![
            ("samples", int(0..9)),
            ("prompts", vec(text(), 0..3).prop_map(Value::Array).boxed()),
            ("max_new_tokens", int(1..99)),
            ("recall", switch()),
        ],
    );
    let parts = (model, surgery(), objective(), data(), train(), report, text());
    let joined = parts.prop_map(|(model, surgery, objective, data, train, report, name)| {
        let mut model = model.as_table().cloned().unwrap_or_default();
        model.insert(
            "name_or_path".into(),
            format!("no-such/{}", name.as_str().unwrap_or_default()).into(),
        );
        Table::from_iter([
            ("model".to_owned(), Value::Table(model)),
            ("surgery".to_owned(), Value::Array(vec![surgery])),
            ("objective".to_owned(), objective),
            ("data".to_owned(), data),
            ("train".to_owned(), train),
            ("report".to_owned(), report),
        ])
    });
    joined.boxed()
}

/// A folder for recipes, with the rows that they name.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("rows.jsonl"), "{}").expect("rows");
    folder
}

fn read(folder: &Path, text: &str, overrides: &[String]) -> anyhow::Result<Recipe> {
    let path = folder.join("recipe.toml");
    std::fs::write(&path, text)?;
    Recipe::read(&path, overrides)
}

/// Tables whose keys are the user's own: an override sets them whole.
const OPEN: [&str; 4] = ["rank_pattern", "alpha_pattern", "columns", "reduction_factor"];

/// Every value of a recipe as an override, such as `data.train.0.path="rows.jsonl"`.
fn overrides(value: &Value, at: &str, found: &mut Vec<String>) {
    let below = |key: &str| {
        if at.is_empty() {
            key.to_owned()
        } else {
            format!("{at}.{key}")
        }
    };
    let is_open = OPEN.iter().any(|open| at.ends_with(open));
    match value {
        Value::Table(table) if !is_open => table
            .iter()
            .for_each(|(key, value)| overrides(value, &below(key), found)),
        Value::Array(items) if items.iter().any(Value::is_table) => {
            let each = items.iter().enumerate();
            each.for_each(|(idx, value)| overrides(value, &below(&idx.to_string()), found));
        }
        value => found.push(format!("{at}={value}")),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_recipe_resolves_to_reads_back_as_the_same_recipe(table in recipe()) {
        let folder = folder();
        let first = read(folder.path(), &toml::to_string(&table).unwrap(), &[]);
        let first = first.map_err(|error| TestCaseError::fail(format!("{error:#}\n{table}")))?;
        let text = first.to_toml().unwrap();
        let again = read(folder.path(), &text, &[]);
        let again = again.map_err(|error| TestCaseError::fail(format!("{error:#}\n{text}")))?;
        prop_assert_eq!(&again, &first);
        prop_assert_eq!(again.to_toml().unwrap(), text);
    }

    #[test]
    fn overrides_alone_make_the_recipe_that_the_file_makes(table in recipe()) {
        let folder = folder();
        let text = toml::to_string(&table).unwrap();
        let written = read(folder.path(), &text, &[]);
        let written = written.map_err(|error| TestCaseError::fail(format!("{error:#}\n{text}")))?;
        let mut all = Vec::new();
        overrides(&Value::Table(table), "", &mut all);
        let overridden = read(folder.path(), "", &all);
        let overridden = overridden.map_err(|error| TestCaseError::fail(format!("{error:#}\n{all:?}")))?;
        prop_assert_eq!(overridden, written);
    }

    #[test]
    fn the_last_override_of_a_key_counts(table in recipe(), first in 0..i64::MAX, last in 0..i64::MAX) {
        let folder = folder();
        let mut table = table;
        let set = |value| [format!("train.seed={first}"), format!("train.seed={value}")];
        let overridden = read(folder.path(), &toml::to_string(&table).unwrap(), &set(last)).unwrap();
        table["train"].as_table_mut().unwrap().insert("seed".into(), last.into());
        prop_assert_eq!(overridden, read(folder.path(), &toml::to_string(&table).unwrap(), &[]).unwrap());
    }
}
