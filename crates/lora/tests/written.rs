//! The two files of an adapter agree: ranks and scales in the configuration are those of the tensors, however they began.

use std::collections::BTreeMap;

use lora::{
    Init, LoraConfig, Placement, TargetModules, Wrapping, adapter_tensors, as_written, of_saved, to_peft_config,
};
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};
use tensor_core::{Dense, Documents, Embedding, ModulePath, Param, Parameters, Pass, Projection, Role, Table};

const Q: &str = "model.layers.0.self_attn.q_proj";
const UP: &str = "model.layers.1.mlp.up_proj";
const TABLE: &str = "model.embed_tokens";

/// A model of two projections and a token table: enough for what is written.
#[derive(Debug)]
struct Tiny {
    projections: Vec<(ModulePath, Box<dyn Projection>)>,
    table: Box<dyn Embedding>,
}

impl Parameters for Tiny {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        for (path, projection) in &self.projections {
            projection.visit(&at.join(path.as_str()), visitor);
        }
        self.table.visit(&at.join(TABLE), visitor);
    }
}

fn random(seed: i64, shape: [i64; 2]) -> Tensor {
    let numbers: Vec<f32> = (0..shape[0] * shape[1])
        .map(|n| ((n * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0)
        .collect();
    Tensor::from_slice(&numbers).view(shape)
}

fn base(path: &str) -> Box<dyn Projection> {
    let shape = if path == Q { [12, 9] } else { [7, 9] };
    let seed = path.len() as i64;
    Box::new(Dense::new(Param::frozen(random(seed, shape), Role::Base)))
}

fn table() -> Box<dyn Embedding> {
    Box::new(Table::new(Param::frozen(random(3, [11, 9]), Role::Embedding)))
}

fn trained(config: &LoraConfig) -> (Tiny, Wrapping<'static>) {
    let paths = [Q, UP].map(|path| (ModulePath::from(path), false));
    let wrapping = Wrapping::choose(config.clone(), &paths, &[TABLE.into()]).expect("modules match");
    let projections = paths.map(|(path, _)| {
        let made = wrapping.projection(&path, base(path.as_str())).expect("wrapped");
        (path, made)
    });
    let model = Tiny {
        projections: projections.into(),
        table: wrapping.table(&TABLE.into(), table()).expect("wrapped"),
    };
    // Away from where they began.
    model.visit(&ModulePath::root(), &mut |at, param| {
        if param.is_trainable() {
            let step = random(at.as_str().len() as i64, [1, 1]).double_value(&[0, 0]) * 0.2 + 0.1;
            tch::no_grad(|| drop(param.value().shallow_clone().g_add_scalar_(step)));
        }
    });
    (model, wrapping)
}

fn outputs(model: &Tiny) -> Vec<Tensor> {
    let documents = Documents::new(&[3]);
    let pass = Pass::evaluate(&documents);
    let x = random(5, [3, 9]);
    let mut all: Vec<Tensor> = model
        .projections
        .iter()
        .map(|(_, one)| one.forward(&x, &pass))
        .collect();
    all.push(
        model
            .table
            .forward(&Tensor::from_slice(&[1i64, 4, 10]), Kind::Float, &pass),
    );
    all
}

/// The configuration that is written beside the model's tensors, and the model read from both.
fn saved_and_read(config: &LoraConfig) -> (Map<String, Value>, Tiny, Tiny) {
    let (model, wrapping) = trained(config);
    let tensors = adapter_tensors(&model);
    let written = as_written(config, &tensors).expect("patterns compile");
    let file = to_peft_config(&written, None, "CAUSAL_LM", wrapping.chosen());
    let read = checkpoint::PeftConfig::from_object("c.json".as_ref(), file.clone()).expect("read");
    let modules: Vec<ModulePath> = wrapping.chosen().cloned().collect();
    let (read, idle) = of_saved(&read, modules.iter().map(|at| (at, at.clone()))).expect("patterns compile");
    assert!(idle.is_empty(), "{idle:?}");
    let placement = Placement::new(read, tensors).expect("ranks agree");
    let again = Tiny {
        projections: [Q, UP]
            .map(|path| {
                (
                    path.into(),
                    placement.projection(&path.into(), base(path)).expect("fits"),
                )
            })
            .into(),
        table: placement.table(&TABLE.into(), table()).expect("fits"),
    };
    placement.finish().expect("all placed");
    (file, model, again)
}

fn config(init: Init, more: LoraConfig) -> LoraConfig {
    LoraConfig {
        r: 3,
        lora_alpha: 7.0,
        init_lora_weights: init,
        ..more
    }
}

#[test]
fn what_was_saved_is_read_again_however_it_began_and_whatever_differs_by_module() {
    let named = |names: &[&str]| TargetModules::Many(names.iter().map(ToString::to_string).collect());
    for init in [
        Init::Default,
        Init::Gaussian,
        Init::Random,
        Init::Pissa,
        Init::PissaIterations(4),
        Init::Olora,
    ] {
        for (what, more) in [
            ("plain", LoraConfig::default()),
            (
                "rslora",
                LoraConfig {
                    use_rslora: true,
                    ..LoraConfig::default()
                },
            ),
            (
                "patterns",
                LoraConfig {
                    rank_pattern: BTreeMap::from([("up_proj".into(), 2)]),
                    alpha_pattern: BTreeMap::from([(r"layers\.0\..*".into(), 5.0)]),
                    ..LoraConfig::default()
                },
            ),
            (
                "a table",
                LoraConfig {
                    target_modules: named(&["q_proj", "up_proj", "embed_tokens"]),
                    rank_pattern: BTreeMap::from([("up_proj".into(), 2)]),
                    use_rslora: true,
                    ..LoraConfig::default()
                },
            ),
            (
                "a module whole",
                LoraConfig {
                    target_modules: named(&["q_proj"]),
                    modules_to_save: vec!["up_proj".into()],
                    ..LoraConfig::default()
                },
            ),
        ] {
            let (file, model, again) = saved_and_read(&config(init, more));
            for (ours, wanted) in outputs(&again).iter().zip(outputs(&model)) {
                let apart = (ours - &wanted).abs().max().double_value(&[]);
                let largest = wanted.abs().max().double_value(&[]);
                // Exact but for the order of sums where a first update is folded in.
                let allowed = if init.takes_from_base() { 1e-5 * largest } else { 0.0 };
                assert!(apart <= allowed, "{init:?}, {what}: {apart}");
            }
            assert!(file["init_lora_weights"] != json!("pissa") && file["init_lora_weights"] != json!("olora"));
        }
    }
}

#[test]
fn ranks_that_are_doubled_stand_in_the_file_as_peft_converts_them() {
    let (file, ..) = saved_and_read(&config(
        Init::Pissa,
        LoraConfig {
            rank_pattern: BTreeMap::from([("up_proj".into(), 2)]),
            alpha_pattern: BTreeMap::from([("up_proj".into(), 5.0)]),
            ..LoraConfig::default()
        },
    ));
    assert_eq!((&file["r"], &file["lora_alpha"]), (&json!(6), &json!(14)));
    assert_eq!(
        (&file["rank_pattern"], &file["alpha_pattern"]),
        (&json!({"up_proj": 4}), &json!({"up_proj": 10}))
    );
    // A token table keeps its rank beside projections whose rank is doubled.
    let names = ["q_proj", "embed_tokens"].map(str::to_owned).to_vec();
    let (file, ..) = saved_and_read(&config(
        Init::Olora,
        LoraConfig {
            target_modules: TargetModules::Many(names),
            ..LoraConfig::default()
        },
    ));
    assert_eq!(
        (&file["r"], &file["rank_pattern"]),
        (&json!(6), &json!({"model.embed_tokens": 3}))
    );
    assert_eq!(file["alpha_pattern"], json!({"model.embed_tokens": 7}));
}

#[test]
fn a_rank_that_the_tensors_do_not_have_is_an_error_that_says_both() {
    let (model, _) = trained(&config(Init::Gaussian, LoraConfig::default()));
    let read = LoraConfig {
        r: 16,
        ..LoraConfig::default()
    };
    let error = Placement::new(read, adapter_tensors(&model)).unwrap_err().to_string();
    for part in [Q, "rank 3", "says 16", "hint: "] {
        assert!(error.contains(part), "`{part}` in: {error}");
    }
}

#[test]
fn the_first_key_of_the_file_decides_as_in_peft() {
    let mut file = checkpoint::PeftConfig::default();
    file.r = 3;
    file.rank_pattern = Map::from_iter([
        ("q_proj".to_owned(), json!(2)),
        (r"layers.0.self_attn.q_proj".to_owned(), json!(8)),
    ]);
    let at = ModulePath::from(Q);
    let (config, idle) = of_saved(&file, [(&at, at.clone())]).expect("patterns compile");
    assert_eq!(config.rank_and_scale(&at).expect("compiles").0, 2);
    assert_eq!(idle, ["`layers.0.self_attn.q_proj` in `rank_pattern`"]);
}

#[test]
fn factors_of_a_module_that_the_configuration_does_not_choose_are_an_error() {
    let mut file = checkpoint::PeftConfig::default();
    let (q, up) = (ModulePath::from(Q), ModulePath::from(UP));
    let both = || [(&q, q.clone()), (&up, up.clone())];
    for (targets, refused) in [
        (checkpoint::NamesOrPattern::Names(vec!["q_proj".into()]), true),
        (checkpoint::NamesOrPattern::Pattern(r".*\.0\..*".into()), true),
        (
            checkpoint::NamesOrPattern::Names(vec!["q_proj".into(), "mlp.up_proj".into()]),
            false,
        ),
        (checkpoint::NamesOrPattern::Pattern("all-linear".into()), false),
    ] {
        file.target_modules = Some(targets);
        match of_saved(&file, both()) {
            Ok(_) => assert!(!refused, "{:?}", file.target_modules),
            Err(error) => {
                let error = error.to_string();
                assert!(refused && error.contains(UP) && error.contains("hint: "), "{error}");
            }
        }
    }
}
