//! The equation's numbers, and what adapters promise of any sublayer.

use adapters::{Activation, Adapted, AdapterConfig, Bottleneck, Insertion};
use golden::{Vectors, assert_close};
use tch::{Device, Kind, Tensor};
use tensor_core::{
    Dense, Documents, DropoutKey, Linear, ModulePath, Param, Parameters, Pass, ProjectionSurgeon, Result, Role,
    Sublayer, autograd,
};

/// One frozen matrix as a sublayer.
#[derive(Debug)]
struct Plain(Linear);

impl Plain {
    fn boxed(weight: &Tensor) -> Box<dyn Sublayer> {
        Box::new(Self(Linear::new(
            Dense::new(Param::frozen(weight.shallow_clone(), Role::Base)),
            None,
        )))
    }
}

impl Parameters for Plain {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.0.visit(&at.join("proj"), visitor);
    }
}

impl Sublayer for Plain {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        self.0.forward(x, pass)
    }
    fn map_projections(self: Box<Self>, at: &ModulePath, surgeon: &mut ProjectionSurgeon) -> Result<Box<dyn Sublayer>> {
        Ok(Box::new(Self(self.0.map(&at.join("proj"), surgeon)?)))
    }
}

const CASES: [([&str; 2], Activation); 3] = [
    (["relu-behind", "relu-beside"], Activation::Relu),
    (["gelu-behind", "gelu-beside"], Activation::Gelu),
    (["swish-behind", "swish-beside"], Activation::Swish),
];

/// The adapter of a golden case in its place; a learned scale or the same as a number.
fn adapted(vectors: &Vectors, activation: Activation, place: &str, learned: bool) -> Adapted {
    let f32 = |name: &str| vectors.get(name).to_kind(Kind::Float);
    let bottleneck =
        Bottleneck::new(&f32("down"), &f32("up"), activation).with_biases(&f32("down_bias"), &f32("up_bias"));
    let bottleneck = match learned {
        true => bottleneck.with_learned_scale(&f32("scaling")),
        false => bottleneck.with_scale(vectors.get("scaling").double_value(&[0])),
    };
    match place {
        "behind" => Adapted::behind(Plain::boxed(&f32("inner")), bottleneck),
        _ => Adapted::beside(Plain::boxed(&f32("inner")), bottleneck),
    }
}

#[test]
fn the_forward_and_every_gradient_are_the_equation_s() {
    // f32 sums over some twenty products of numbers of size one.
    const NEAR: f64 = 2e-5;
    for (cases, activation) in CASES {
        for (case, place) in cases.into_iter().zip(["behind", "beside"]) {
            for learned in [true, false] {
                let vectors = Vectors::open(&format!("bottleneck/{case}"));
                let sublayer = adapted(&vectors, activation, place, learned);
                let x = vectors.get("x").to_kind(Kind::Float).set_requires_grad(true);
                let documents = Documents::new(&[x.size()[0] as usize]);
                let y = sublayer.forward(&x, &Pass::train(&documents, DropoutKey(0)));
                autograd::backward(&[&y], &[&vectors.get("dy").to_kind(Kind::Float)]).unwrap();
                assert_close(&format!("{case}: y"), &y, &vectors.get("y"), NEAR, NEAR);
                assert_close(&format!("{case}: d_x"), &x.grad(), &vectors.get("d_x"), NEAR, NEAR);
                let mut met = 0;
                sublayer.visit(&ModulePath::root(), &mut |at, param| {
                    let wanted = match at.as_str() {
                        "adapters.default.adapter_down.0.weight" => "d_down",
                        "adapters.default.adapter_down.0.bias" => "d_down_bias",
                        "adapters.default.adapter_up.weight" => "d_up",
                        "adapters.default.adapter_up.bias" => "d_up_bias",
                        "adapters.default.scaling" => "d_scaling",
                        other => return assert!(!param.value().grad().defined(), "{other} is frozen"),
                    };
                    let name = format!("{case}: {wanted}");
                    assert_close(&name, &param.value().grad(), &vectors.get(wanted), NEAR, NEAR);
                    met += 1;
                });
                assert_eq!(met, if learned { 5 } else { 4 });
            }
        }
    }
}

#[test]
fn in_bf16_it_stays_near() {
    for ([_, name], activation) in CASES {
        let vectors = Vectors::open(&format!("bottleneck/{name}"));
        let f32 = |name: &str| vectors.get(name).to_kind(Kind::Float);
        let inner = Plain::boxed(&f32("inner").to_kind(Kind::BFloat16));
        let bottleneck = Bottleneck::new(&f32("down"), &f32("up"), activation)
            .with_biases(&f32("down_bias"), &f32("up_bias"))
            .with_learned_scale(&f32("scaling"));
        let sublayer = Adapted::beside(inner, bottleneck);
        let x = vectors.get("x").to_kind(Kind::BFloat16).set_requires_grad(true);
        let documents = Documents::new(&[x.size()[0] as usize]);
        let y = sublayer.forward(&x, &Pass::train(&documents, DropoutKey(0)));
        autograd::backward(&[&y], &[&vectors.get("dy").to_kind(Kind::BFloat16)]).unwrap();
        // Eight bits, of sums of size five.
        assert_close(name, &y, &vectors.get("y"), 0.05, 0.1);
        assert_close(name, &x.grad(), &vectors.get("d_x"), 0.05, 0.15);
    }
}

fn ones(width: i64) -> Tensor {
    Tensor::ones([width, width], (Kind::Float, Device::Cpu))
}

fn input(tokens: i64, width: i64) -> Tensor {
    (Tensor::arange(tokens * width, (Kind::Float, Device::Cpu)) * 0.7)
        .sin()
        .view([tokens, width])
}

fn inserted(config: &str) -> Box<dyn Sublayer> {
    let config: AdapterConfig = serde_json::from_str(config).expect("options");
    let insertion = Insertion::new(config, 12, 2, Device::Cpu).expect("fits");
    let at = ModulePath::from("model.layers.1.mlp");
    insertion
        .sublayer(&at, Plain::boxed(&(ones(12) * 0.1)))
        .expect("inserted")
}

#[test]
fn at_step_0_it_is_nothing_and_only_its_way_up_learns() {
    let documents = Documents::new(&[5]);
    for config in [
        r#"{"reduction_factor": 3}"#,
        r#"{"config": "par_bn"}"#,
        r#"{"config": "double_seq_bn", "init_weights": "mam", "reduction_factor": 3, "scaling": "learned"}"#,
    ] {
        let (sublayer, x) = (inserted(config), input(5, 12));
        let base = Plain::boxed(&(ones(12) * 0.1)).forward(&x, &Pass::evaluate(&documents));
        assert_eq!(sublayer.forward(&x, &Pass::evaluate(&documents)), base, "{config}");
        let y = sublayer.forward(&x, &Pass::train(&documents, DropoutKey(0)));
        autograd::backward(&[&y], &[&input(5, 12)]).unwrap();
        sublayer.visit(&ModulePath::root(), &mut |at, param| {
            let gradient = param.value().grad();
            if !param.is_trainable() {
                return assert!(!gradient.defined(), "{at}");
            }
            let moves = gradient.abs().max().double_value(&[]) > 0.0;
            assert_eq!(moves, at.as_str().contains("adapter_up"), "{config}: {at}");
        });
    }
}

#[test]
fn with_adapters_off_it_is_its_sublayer_bit_for_bit() {
    let documents = Documents::new(&[5]);
    let (sublayer, x) = (
        inserted(r#"{"init_weights": "bert", "reduction_factor": 3}"#),
        input(5, 12),
    );
    let base = Plain::boxed(&(ones(12) * 0.1)).forward(&x, &Pass::evaluate(&documents));
    let off = Pass::evaluate(&documents).without_adapters();
    assert_eq!(sublayer.forward(&x, &off), base);
    assert_ne!(sublayer.forward(&x, &Pass::evaluate(&documents)), base);
}

#[test]
fn dropout_drops_the_adapter_s_output_alone_and_repeats_with_its_key() {
    let documents = Documents::new(&[64]);
    let (sublayer, x) = (
        inserted(r#"{"init_weights": "bert", "dropout": 0.5, "reduction_factor": 3}"#),
        input(64, 12),
    );
    let base = Plain::boxed(&(ones(12) * 0.1)).forward(&x, &Pass::evaluate(&documents));
    let added = sublayer.forward(&x, &Pass::evaluate(&documents)) - &base;
    let train = |key| sublayer.forward(&x, &Pass::train(&documents, DropoutKey(key))) - &base;
    assert!(train(1) == train(1) && train(1) != train(2));
    let dropped = train(1);
    // Half of the numbers are gone, the others are twice as large.
    let kept = dropped.ne(0.0);
    let share = kept.to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
    assert!((share - 0.5).abs() < 0.1, "{share}");
    assert_close("kept", &dropped, &(added * 2.0 * kept.to_kind(Kind::Float)), 1e-4, 1e-6);
}

#[test]
fn projections_inside_are_still_met_under_their_own_paths() {
    let mut met = Vec::new();
    let at = ModulePath::from("model.layers.1.mlp");
    let sublayer = inserted(r#"{"reduction_factor": 3}"#)
        .map_projections(&at, &mut |at, projection| {
            met.push(at.to_string());
            Ok(projection)
        })
        .expect("nothing refused");
    assert_eq!(met, ["model.layers.1.mlp.proj"]);
    let mut paths = Vec::new();
    sublayer.visit(&at, &mut |at, _| paths.push(at.to_string()));
    assert_eq!(paths.len(), 5);
    assert_eq!(paths[0], "model.layers.1.mlp.proj.weight");
}

#[test]
fn what_cannot_be_inserted_is_refused() {
    let config = |text: &str| serde_json::from_str::<AdapterConfig>(text).expect("options");
    let error = |text: &str| {
        Insertion::new(config(text), 12, 2, Device::Cpu)
            .unwrap_err()
            .to_string()
    };
    assert!(error(r#"{"leave_out": [2]}"#).contains("this model has layers 0 to 1"));
    assert!(error(r#"{"leave_out": [0, 1]}"#).contains("every layer"));
    assert!(error(r#"{"reduction_factor": {"0": 2}}"#).contains("no factor for layer 1"));
    let insertion = Insertion::new(config("{}"), 12, 2, Device::Cpu).expect("fits");
    let at = ModulePath::from("model.layers.1.mlp");
    let again = insertion.sublayer(&at, inserted("{}")).unwrap_err().to_string();
    assert!(
        again.contains("`model.layers.1.mlp`") && again.contains("there already"),
        "{again}"
    );
    let why = adapters::Error::NotLinear.to_string();
    assert!(why.contains("not linear") && why.contains("hint: "), "{why}");
}
