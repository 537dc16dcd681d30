//! What is written is read again, whatever it is: safetensors files and PEFT's configurations.

use std::collections::BTreeMap;

use checkpoint::{InitLoraWeights, NamesOrPattern, PeftConfig, Safetensors, write_tensors};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::json;
use tch::{Kind, Tensor};

const KINDS: [Kind; 8] = [
    Kind::Bool,
    Kind::Uint8,
    Kind::Int8,
    Kind::Int16,
    Kind::Half,
    Kind::BFloat16,
    Kind::Float,
    Kind::Int64,
];

/// A tensor of any kind and shape, empty ones and scalars among them, with any bits that are numbers.
fn tensor() -> impl Strategy<Value = Tensor> {
    (0..KINDS.len(), vec(0i64..4, 0..4), any::<u64>()).prop_map(|(kind, shape, seed)| {
        let count: i64 = shape.iter().product();
        let numbers: Vec<i64> = (0..count)
            .map(|n| (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(n as u64 * 7919) % 2000) as i64 - 1000)
            .collect();
        Tensor::from_slice(&numbers).to_kind(KINDS[kind]).view(shape.as_slice())
    })
}

fn name() -> impl Strategy<Value = String> {
    // Quotes, spaces and letters beyond ASCII stand in headers too.
    "[a-zA-Z0-9_. \"\\\\äß字]{1,20}".prop_filter("the header's own name", |name| name != "__metadata__")
}

fn patterns<V: std::fmt::Debug + Clone + 'static>(
    value: impl Strategy<Value = V>,
) -> impl Strategy<Value = BTreeMap<String, V>> {
    btree_map("[a-z_.0-9*]{1,12}", value, 0..4)
}

fn names_or_pattern() -> impl Strategy<Value = Option<NamesOrPattern>> {
    prop_oneof![
        Just(None),
        "[a-z_.*]{1,20}".prop_map(|pattern| Some(NamesOrPattern::Pattern(pattern))),
        vec("[a-z_]{1,10}", 0..5).prop_map(|names| Some(NamesOrPattern::Names(names))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn safetensors_are_read_as_they_were_written(tensors in btree_map(name(), tensor(), 0..6)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write_tensors(&path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).unwrap();
        let file = Safetensors::open(&path).unwrap();
        prop_assert_eq!(file.names().collect::<Vec<_>>(), tensors.keys().collect::<Vec<_>>());
        for (name, wanted) in &tensors {
            let found = file.tensor(name).unwrap();
            prop_assert_eq!((found.kind(), found.size()), (wanted.kind(), wanted.size()));
            prop_assert!(found.equal(wanted), "{}", name);
        }
        // The reference implementation reads it too.
        let bytes = std::fs::read(&path).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        prop_assert_eq!(theirs.len(), tensors.len());
    }

    #[test]
    fn a_configuration_of_an_adapter_is_read_as_it_was_written(
        r in 1i64..512,
        lora_alpha in prop_oneof![(1i64..4096).prop_map(|alpha| alpha as f64), 0.001f64..1e6],
        lora_dropout in 0.0f64..0.99,
        target_modules in names_or_pattern(),
        exclude_modules in names_or_pattern(),
        ranks in patterns(1i64..64),
        alphas in patterns(0.5f64..64.0),
        layers in proptest::option::of(vec(0usize..99, 0..4)),
        flags in any::<[bool; 3]>(),
        init in prop_oneof![
            any::<bool>().prop_map(InitLoraWeights::Default),
            prop_oneof![Just("gaussian"), Just("pissa"), Just("olora"), Just("pissa_niter_4")]
                .prop_map(|name| InitLoraWeights::Named(name.to_owned())),
        ],
    ) {
        let mut config = PeftConfig::default();
        (config.r, config.lora_alpha, config.lora_dropout) = (r, lora_alpha, lora_dropout);
        (config.target_modules, config.exclude_modules) = (target_modules, exclude_modules);
        config.rank_pattern = ranks.into_iter().map(|(key, rank)| (key, json!(rank))).collect();
        config.alpha_pattern = alphas.into_iter().map(|(key, alpha)| (key, json!(alpha))).collect();
        config.set_layers(layers, Vec::new());
        [config.use_rslora, config.use_dora, config.inference_mode] = flags;
        config.init_lora_weights = init;
        let text = config.to_json();
        let read = PeftConfig::from_object("c.json".as_ref(), serde_json::from_str(&text).unwrap()).unwrap();
        prop_assert_eq!(read.to_json(), text);
        prop_assert_eq!(read, config);
    }
}
