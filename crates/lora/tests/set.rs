//! The laws of several adapters on one base: one alone is itself, none is the base, a mix is the sum, and each document
//! is read as if it were alone.

use std::collections::BTreeMap;

use golden::assert_close;
use golden::laws::projection_laws;
use lora::combine::{CombineConfig, Weighted, combine};
use lora::{AdapterNames, AdapterSet, LoraConfig, Member, Placement};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tch::{Kind, Tensor};
use tensor_core::{
    AdapterRouting, Dense, Documents, DropoutKey, Embedding, Linear, ModulePath, Param, Pass, Projection, Role, Table,
    autograd, project,
};

const OUT: i64 = 48;
const IN: i64 = 32;
const VOCABULARY: i64 = 19;
const Q: &str = "model.layers.0.self_attn.q_proj";
const K: &str = "model.layers.0.self_attn.k_proj";
const TABLE: &str = "model.embed_tokens";
const RANKS: [(&str, i64); 3] = [("a", 3), ("b", 5), ("c", 2)];

fn random(seed: u64, shape: [i64; 2]) -> Tensor {
    let mut rng = StdRng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_slice(&values).view(shape)
}

/// An adapter's name, options and tensors.
type Read = (&'static str, LoraConfig, Vec<(String, Tensor)>);

/// The adapters: alpha ≠ rank; the last has nothing for `k_proj`.
fn adapters() -> Vec<Read> {
    RANKS
        .iter()
        .zip([10, 20, 30])
        .map(|(&(name, rank), seed)| {
            let config = LoraConfig {
                r: rank,
                lora_alpha: 1.7,
                ..LoraConfig::default()
            };
            let mut tensors = vec![
                (format!("base_model.model.{Q}.lora_A.weight"), random(seed, [rank, IN])),
                (
                    format!("base_model.model.{Q}.lora_B.weight"),
                    random(seed + 1, [OUT, rank]),
                ),
                (
                    format!("base_model.model.{TABLE}.lora_embedding_A"),
                    random(seed + 2, [rank, VOCABULARY]),
                ),
                (
                    format!("base_model.model.{TABLE}.lora_embedding_B"),
                    random(seed + 3, [IN, rank]),
                ),
            ];
            if name != "c" {
                tensors.push((
                    format!("base_model.model.{K}.lora_A.weight"),
                    random(seed + 4, [rank, IN]),
                ));
                tensors.push((
                    format!("base_model.model.{K}.lora_B.weight"),
                    random(seed + 5, [OUT, rank]),
                ));
            }
            (name, config, tensors)
        })
        .collect()
}

fn placement(config: &LoraConfig, tensors: &[(String, Tensor)]) -> Placement {
    let copies = tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
    Placement::new(config.clone(), copies).unwrap()
}

fn set(weights: [f64; 3]) -> AdapterSet {
    let members = adapters()
        .into_iter()
        .zip(weights)
        .map(|((name, config, tensors), weight)| Member {
            name: name.to_owned(),
            placement: placement(&config, &tensors),
            weight,
        });
    AdapterSet::new(members.collect()).unwrap()
}

fn weight(at: &str, kind: Kind) -> Param {
    let seed = ModulePath::from(at).site() % 1000;
    Param::frozen((random(seed, [OUT, IN]) * 0.3).to_kind(kind), Role::Base)
}

fn base(at: &str, kind: Kind) -> Box<dyn Projection> {
    Box::new(Dense::new(weight(at, kind)))
}

fn table(kind: Kind) -> Box<dyn Embedding> {
    Box::new(Table::new(Param::frozen(
        random(5, [VOCABULARY, IN]).to_kind(kind),
        Role::Embedding,
    )))
}

/// Every slot with the set in it.
struct Slots {
    q: Box<dyn Projection>,
    k: Box<dyn Projection>,
    table: Box<dyn Embedding>,
    names: AdapterNames,
}

fn slots(weights: [f64; 3], kind: Kind) -> Slots {
    let set = set(weights);
    Slots {
        q: set.projection(&Q.into(), base(Q, kind)).unwrap(),
        k: set.projection(&K.into(), base(K, kind)).unwrap(),
        table: set.table(&TABLE.into(), table(kind)).unwrap(),
        names: set.finish().unwrap(),
    }
}

/// The same slots with one ordinary adapter.
fn alone(adapter: &Placement, kind: Kind) -> (Box<dyn Projection>, Box<dyn Projection>, Box<dyn Embedding>) {
    (
        adapter.projection(&Q.into(), base(Q, kind)).unwrap(),
        adapter.projection(&K.into(), base(K, kind)).unwrap(),
        adapter.table(&TABLE.into(), table(kind)).unwrap(),
    )
}

fn inputs(kind: Kind) -> Tensor {
    random(99, [9, IN]).to_kind(kind)
}

fn tokens() -> Tensor {
    Tensor::from_slice(&[3i64, 18, 0, 7, 7, 2, 11, 5, 1])
}

/// What all slots say, as one tensor: `[t, 2 out + in]` f32.
fn all(q: &dyn Projection, k: &dyn Projection, table: &dyn Embedding, kind: Kind, pass: &Pass) -> Tensor {
    let (x, tokens) = (inputs(kind), tokens());
    let parts = [
        q.forward(&x, pass),
        k.forward(&x, pass),
        table.forward(&tokens, kind, pass),
    ];
    Tensor::cat(&parts, 1).to_kind(Kind::Float)
}

fn of_slots(slots: &Slots, kind: Kind, pass: &Pass) -> Tensor {
    all(&*slots.q, &*slots.k, &*slots.table, kind, pass)
}

#[test]
fn one_adapter_of_weight_1_is_that_adapter_alone_bit_for_bit() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let slots = slots([1.0, 0.0, 0.0], kind);
        for (idx, (name, config, tensors)) in adapters().into_iter().enumerate() {
            let (q, k, table) = alone(&placement(&config, &tensors), kind);
            let documents = Documents::new(&[9]);
            let wanted = all(&*q, &*k, &*table, kind, &Pass::evaluate(&documents));
            let mix = slots.names.mix([(name, 1.0)]).unwrap();
            for lengths in [&[9][..], &[4, 2, 3]] {
                let documents = Documents::new(lengths).with_routings(&vec![mix.clone(); lengths.len()]);
                let found = of_slots(&slots, kind, &Pass::evaluate(&documents));
                assert!(found.equal(&wanted), "{kind:?} {name}");
            }
            if idx == 0 {
                // The default of this set.
                let found = of_slots(&slots, kind, &Pass::evaluate(&documents));
                assert!(found.equal(&wanted), "{kind:?} default");
            }
        }
    }
}

#[test]
fn no_adapter_is_the_base_bit_for_bit() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let slots = slots([0.5, 0.5, 1.0], kind);
        let documents = Documents::new(&[4, 5]);
        let wanted = all(
            &*base(Q, kind),
            &*base(K, kind),
            &*table(kind),
            kind,
            &Pass::evaluate(&documents),
        );
        let off = of_slots(&slots, kind, &Pass::evaluate(&documents).without_adapters());
        let mixed = documents
            .clone()
            .with_routings(&[AdapterRouting::base(), slots.names.mix([("a", 0.0)]).unwrap()]);
        let none = of_slots(&slots, kind, &Pass::evaluate(&mixed));
        assert!(off.equal(&wanted) && none.equal(&wanted), "{kind:?}");
        let on = of_slots(&slots, kind, &Pass::evaluate(&documents));
        assert!((on - wanted).abs().max().double_value(&[]) > 0.1);
    }
}

#[test]
fn a_mix_is_the_sum_of_its_adapters() {
    let weights = [0.7, -0.4, 1.3];
    let weighted: Vec<Weighted> = adapters()
        .into_iter()
        .zip(weights)
        .map(|((name, config, tensors), weight)| Weighted {
            name: name.to_owned(),
            config,
            tensors,
            weight,
        })
        .collect();
    let sum = combine(&weighted, &CombineConfig::default(), &mut |_, _| ()).unwrap();
    let (q, k, table) = alone(&placement(&sum.config, &sum.tensors), Kind::Float);
    let documents = Documents::new(&[4, 5]);
    let wanted = all(&*q, &*k, &*table, Kind::Float, &Pass::evaluate(&documents));
    // As the set's default, and as what both documents ask for.
    let default = of_slots(&slots(weights, Kind::Float), Kind::Float, &Pass::evaluate(&documents));
    assert_close("default", &default, &wanted, 1e-5, 1e-5);
    let slots = slots([1.0, 0.0, 0.0], Kind::Float);
    let mix = slots
        .names
        .mix(RANKS.map(|(name, _)| name).into_iter().zip(weights))
        .unwrap();
    let documents = documents.with_routings(&[mix.clone(), mix]);
    let asked = of_slots(&slots, Kind::Float, &Pass::evaluate(&documents));
    assert_close("asked", &asked, &wanted, 1e-5, 1e-5);
}

#[test]
fn each_document_is_read_as_if_it_were_alone() {
    let slots = slots([1.0, 0.0, 0.0], Kind::Float);
    let mix = |shares: &[(&str, f64)]| slots.names.mix(shares.iter().copied()).unwrap();
    let mixes = [
        mix(&[("b", 1.0)]),
        mix(&[]),
        mix(&[("a", 0.5), ("c", -2.0)]),
        mix(&[("b", 1.0)]),
    ];
    let lengths = [3, 1, 4, 1];
    let documents = Documents::new(&lengths).with_routings(&mixes);
    let together = of_slots(&slots, Kind::Float, &Pass::evaluate(&documents));
    for (range, mix) in documents.ranges().zip(&mixes) {
        // The others' rows stay, and are read in the same way.
        let same = Documents::new(&[9]).with_routings(std::slice::from_ref(mix));
        let apart = of_slots(&slots, Kind::Float, &Pass::evaluate(&same));
        let part = |x: &Tensor| x.narrow(0, range.start as i64, range.len() as i64);
        assert_close(&format!("{range:?}"), &part(&together), &part(&apart), 1e-5, 1e-5);
    }
    // The other way of asking for tokens: a head sees single positions.
    let picked = [1i64, 3, 4, 7, 8];
    let there = documents.at(&Tensor::from_slice(&picked));
    let rows = inputs(Kind::Float).index_select(0, &Tensor::from_slice(&picked));
    let y = slots.q.forward(&rows, &Pass::evaluate(&there));
    let wanted = together.narrow(1, 0, OUT).index_select(0, &Tensor::from_slice(&picked));
    assert_close("single positions", &y, &wanted, 1e-5, 1e-5);
}

#[test]
fn slots_computed_together_are_what_each_is_alone() {
    let made = || {
        let slots = slots([1.0, 0.0, 0.0], Kind::Float);
        let linear = |projection: Box<dyn Projection>| Linear::new(Boxed(projection), None);
        ([linear(slots.q), linear(slots.k)], slots.names)
    };
    let ([q, k], names) = made();
    let x = inputs(Kind::Float);
    let one = vec![names.mix([("b", 2.0)]).unwrap(); 2];
    for mixes in [one, vec![AdapterRouting::one(0), AdapterRouting::one(2)]] {
        let documents = Documents::new(&[4, 5]).with_routings(&mixes);
        let pass = Pass::evaluate(&documents);
        let [together_q, together_k] = project(&x, [&q, &k], &pass);
        assert_close("q", &together_q, &q.forward(&x, &pass), 1e-6, 1e-6);
        assert_close("k", &together_k, &k.forward(&x, &pass), 1e-6, 1e-6);
    }
}

#[test]
fn a_set_keeps_the_laws_of_a_projection() {
    for weights in [[1.0, 0.0, 0.0], [0.5, 0.0, 2.0], [0.0; 3]] {
        projection_laws(&format!("{weights:?}"), IN, &|| slots(weights, Kind::Float).q);
    }
    let over_trained = || {
        let trained = Dense::new(Param::trainable(weight(Q, Kind::Float).value(), Role::Base));
        set([0.0, 1.5, 0.0]).projection(&Q.into(), Box::new(trained)).unwrap()
    };
    projection_laws("over trained", IN, &over_trained);
    let merged = slots([0.5, 0.0, 2.0], Kind::Float).table.merge();
    let documents = Documents::new(&[9]);
    let pass = Pass::evaluate(&documents);
    let rows = slots([0.5, 0.0, 2.0], Kind::Float)
        .table
        .forward(&tokens(), Kind::Float, &pass);
    assert_close(
        "a merged table",
        &merged.forward(&tokens(), Kind::Float, &pass),
        &rows,
        1e-5,
        1e-5,
    );
}

#[test]
fn gradients_pass_through_each_document_by_its_own_adapters() {
    let slots = slots([1.0, 0.0, 0.0], Kind::Float);
    let mixes = [
        slots.names.mix([("b", 1.0)]).unwrap(),
        slots.names.mix([("a", 0.5), ("c", -2.0)]).unwrap(),
    ];
    let documents = Documents::new(&[4, 5]).with_routings(&mixes);
    let x = inputs(Kind::Float).set_requires_grad(true);
    let y = slots.q.forward(&x, &Pass::train(&documents, DropoutKey(1)));
    let dy = random(7, [9, OUT]);
    autograd::backward(&[&y], &[&dy]).unwrap();
    let updates: BTreeMap<&str, Tensor> = adapters()
        .into_iter()
        .map(|(name, config, tensors)| {
            let scale = config.lora_alpha / config.r as f64;
            (name, tensors[1].1.matmul(&tensors[0].1) * scale)
        })
        .collect();
    let weight = weight(Q, Kind::Float);
    let first = weight.value() + &updates["b"];
    let second = weight.value() + &updates["a"] * 0.5 + &updates["c"] * -2.0;
    let wanted = Tensor::cat(
        &[dy.narrow(0, 0, 4).matmul(&first), dy.narrow(0, 4, 5).matmul(&second)],
        0,
    );
    assert_close("dx", &x.grad(), &wanted, 1e-4, 1e-4);
}

#[test]
fn names_are_checked_and_members_that_do_not_fit_are_named() {
    let names = set([1.0, 0.0, 0.0]);
    let shares = |shares: &[(&str, f64)]| {
        let set = slots([1.0, 0.0, 0.0], Kind::Float);
        set.names.mix(shares.iter().copied()).unwrap_err().to_string()
    };
    assert!(shares(&[("d", 1.0)]).contains("a, b, c, found `d`"));
    assert!(shares(&[("a", f64::INFINITY)]).contains("`a`"));
    // Nothing was placed.
    let error = names.finish().unwrap_err().to_string();
    assert!(
        error.contains("adapter `a`") && error.contains("does not have"),
        "{error}"
    );
    let error = set([1.0; 3]).projection(
        &Q.into(),
        Box::new(Dense::new(Param::frozen(random(1, [OUT, IN + 1]), Role::Base))),
    );
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("adapter `a`") && error.contains("another model"),
        "{error}"
    );
    let (_, config, tensors) = adapters().remove(0);
    let member = |name: &str, tensors: &[(String, Tensor)]| Member {
        name: name.to_owned(),
        placement: placement(&config, tensors),
        weight: 1.0,
    };
    let error = AdapterSet::new(vec![member("x", &tensors), member("x", &tensors)])
        .unwrap_err()
        .to_string();
    assert!(error.contains("two adapters are called `x`"), "{error}");
    let whole = [("base_model.model.lm_head.weight".to_owned(), random(1, [4, 4]))];
    let error = AdapterSet::new(vec![member("x", &whole)]).unwrap_err().to_string();
    assert!(
        error.contains("`x`") && error.contains("lm_head.weight") && error.contains("hint"),
        "{error}"
    );
}

/// A boxed projection as one that a slot can be made of.
#[derive(Debug)]
struct Boxed(Box<dyn Projection>);

impl tensor_core::Parameters for Boxed {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.0.visit(at, visitor);
    }
}

impl Projection for Boxed {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        self.0.forward(x, pass)
    }

    fn weight(&self) -> Tensor {
        self.0.weight()
    }

    fn merge(self: Box<Self>) -> Dense {
        self.0.merge()
    }

    fn into_dense(self: Box<Self>) -> Result<Dense, tensor_core::Found> {
        self.0.into_dense()
    }

    fn parts(&self, pass: &Pass) -> Option<tensor_core::Parts<'_>> {
        self.0.parts(pass)
    }
}
