//! What is frozen, counted: the paper's numbers a layer, other granularities, families, draws.

use std::collections::{BTreeMap, BTreeSet};

use hft::{Granularity, HalfSelection, Halves, HftConfig, Piece, Resample, Share};
use tensor_core::{ModulePath, Role};

/// A Llama of these sizes: width, query and key-value widths, feed-forward width, vocabulary.
struct Llama {
    layers: usize,
    d: i64,
    q: i64,
    kv: i64,
    ff: i64,
    vocabulary: i64,
    tied: bool,
}

/// SmolLM2-135M's configuration.
const SMOLLM2: Llama = Llama {
    layers: 30,
    d: 576,
    q: 576,
    kv: 192,
    ff: 1536,
    vocabulary: 49152,
    tied: true,
};

fn piece(path: &str, shape: &[i64], role: Role) -> Piece {
    Piece {
        path: ModulePath::from(path),
        shape: shape.to_vec(),
        role,
    }
}

impl Llama {
    fn pieces(&self) -> Vec<Piece> {
        let (d, q, kv, ff) = (self.d, self.q, self.kv, self.ff);
        let mut all = vec![piece(
            "model.embed_tokens.weight",
            &[self.vocabulary, d],
            Role::Embedding,
        )];
        for layer in 0..self.layers {
            for (name, shape, role) in [
                ("self_attn.q_proj", vec![q, d], Role::Base),
                ("self_attn.k_proj", vec![kv, d], Role::Base),
                ("self_attn.v_proj", vec![kv, d], Role::Base),
                ("self_attn.o_proj", vec![d, q], Role::Base),
                ("mlp.gate_proj", vec![ff, d], Role::Base),
                ("mlp.up_proj", vec![ff, d], Role::Base),
                ("mlp.down_proj", vec![d, ff], Role::Base),
                ("input_layernorm", vec![d], Role::Norm),
                ("post_attention_layernorm", vec![d], Role::Norm),
            ] {
                all.push(piece(&format!("model.layers.{layer}.{name}.weight"), &shape, role));
            }
        }
        all.push(piece("model.norm.weight", &[d], Role::Norm));
        if !self.tied {
            all.push(piece("lm_head.weight", &[self.vocabulary, d], Role::Base));
        }
        all
    }
}

fn halves(config: &HftConfig, pieces: &[Piece]) -> Halves {
    Halves::new(config, pieces).unwrap_or_else(|error| panic!("{error}"))
}

fn of(granularity: Granularity) -> HftConfig {
    HftConfig {
        granularity,
        ..HftConfig::default()
    }
}

fn seeded(seed: u64) -> HftConfig {
    HftConfig {
        seed,
        ..HftConfig::default()
    }
}

fn share_of<'s>(selection: &'s HalfSelection, category: &str) -> &'s Share {
    let found = selection.shares().iter().find(|share| share.category == category);
    found.unwrap_or_else(|| panic!("{category}"))
}

/// How many frozen paths of each layer have one of `names`.
fn frozen_by_layer(selection: &HalfSelection, layers: usize, names: &[&str]) -> Vec<usize> {
    let has = |layer: usize| {
        let names = names
            .iter()
            .map(|name| ModulePath::from(format!("model.layers.{layer}.{name}.weight")));
        names.filter(|path| selection.frozen().contains(path)).count()
    };
    (0..layers).map(has).collect()
}

const ATTENTION: [&str; 4] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
];
const FEED_FORWARD: [&str; 3] = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"];
const NORMS: [&str; 2] = ["input_layernorm", "post_attention_layernorm"];

#[test]
fn of_each_layer_two_attention_matrices_one_or_two_feed_forward_matrices_and_one_norm_are_frozen() {
    let pieces = SMOLLM2.pieces();
    for seed in 0..20 {
        let config = seeded(seed);
        for round in 0..3 {
            let selection = halves(&config, &pieces).draw(round);
            assert_eq!(frozen_by_layer(&selection, 30, &ATTENTION), [2; 30]);
            assert_eq!(frozen_by_layer(&selection, 30, &NORMS), [1; 30]);
            let feed_forward = frozen_by_layer(&selection, 30, &FEED_FORWARD);
            assert!(
                feed_forward.iter().all(|count| [1, 2].contains(count)),
                "{feed_forward:?}"
            );
            assert_eq!(
                feed_forward.iter().filter(|count| **count == 2).count(),
                15,
                "exactly half of the layers"
            );
            // Embedding, last norm and nothing else beside the layers' own train.
            assert!(selection.frozen().iter().all(|path| path.layer_idx().is_some()));
        }
    }
}

#[test]
fn the_paper_s_mode_trains_three_fifths_of_smollm2() {
    let pieces = SMOLLM2.pieces();
    assert_eq!(pieces.iter().map(Piece::numel).sum::<usize>(), 134_515_008);
    let draws = 200;
    let mean = (0..draws)
        .map(|seed| halves(&seeded(seed), &pieces).draw(0).trained_share())
        .sum::<f64>()
        / f64::from(draws as u32);
    // 0.5 of the layers' 106.2 M and the embedding's 28.3 M. Which two of q, k, v, o are frozen moves one draw by
    // half a percent (30 layers, a third of 1.6 M numbers each), the mean of 200 by 0.03 %.
    assert!((mean - 0.605).abs() < 0.001, "{mean}");
    // Feed-forward and norms are exact in every draw: 45 of 90 matrices, 30 of 60 norms.
    let selection = halves(&HftConfig::default(), &pieces).draw(0);
    for (category, halves) in [("feed-forward", 1), ("norms", 1), ("embedding", 2), ("last norm", 2)] {
        let found = share_of(&selection, category);
        assert_eq!(2 * found.trained_numbers, halves * found.numbers, "{category}");
    }
}

#[test]
fn stratified_trains_exactly_half_of_attention_where_heads_are_grouped() {
    let pieces = SMOLLM2.pieces();
    let mut of_category = BTreeSet::new();
    for seed in 0..10 {
        let stratified = halves(
            &HftConfig {
                seed,
                ..of(Granularity::Stratified)
            },
            &pieces,
        )
        .draw(0);
        let attention = share_of(&stratified, "attention");
        assert_eq!(2 * attention.trained_numbers, attention.numbers);
        assert_eq!(frozen_by_layer(&stratified, 30, &[ATTENTION[0], ATTENTION[3]]), [1; 30]);
        assert_eq!(frozen_by_layer(&stratified, 30, &ATTENTION[1..3]), [1; 30]);
        // 0.5 · 106.2 M + 28.3 M of 134.5 M, with 576 numbers of the last norm.
        assert_eq!(stratified.trained_numbers(), SMOLLM2_LAYERS / 2 + 28_311_552 + 576);
        assert!((stratified.trained_share() - 0.605).abs() < 5e-4);
        let category = halves(&seeded(seed), &pieces).draw(0);
        of_category.insert(share_of(&category, "attention").trained_numbers);
    }
    assert!(of_category.len() > 5, "two of four is another share at each draw");
}

/// Numbers of all of SmolLM2's layers.
const SMOLLM2_LAYERS: usize = 30 * 3_540_096;

#[test]
fn layers_and_any_matrices_are_halved_too() {
    let pieces = SMOLLM2.pieces();
    let layers = halves(&of(Granularity::Layer), &pieces).draw(0);
    let all: Vec<&str> = ATTENTION.iter().chain(&FEED_FORWARD).chain(&NORMS).copied().collect();
    let counts = frozen_by_layer(&layers, 30, &all);
    assert!(counts.iter().all(|count| [0, 9].contains(count)), "{counts:?}");
    assert_eq!(counts.iter().filter(|count| **count == 9).count(), 15);

    let model = halves(&of(Granularity::Model), &pieces).draw(0);
    let matrices = [&ATTENTION[..], &FEED_FORWARD].concat();
    let by_layer = frozen_by_layer(&model, 30, &matrices);
    assert_eq!(by_layer.iter().sum::<usize>(), 105, "half of 210 matrices");
    assert!(
        by_layer.iter().collect::<BTreeSet<_>>().len() > 2,
        "layers differ: {by_layer:?}"
    );
    assert_eq!(frozen_by_layer(&model, 30, &NORMS).iter().sum::<usize>(), 30);
}

#[test]
fn an_odd_number_of_layers_leaves_the_odd_one_to_the_draw() {
    let pieces = Llama { layers: 5, ..SMOLLM2 }.pieces();
    let counts: BTreeSet<usize> = (0..40)
        .map(|seed| {
            let selection = halves(&seeded(seed), &pieces).draw(0);
            frozen_by_layer(&selection, 5, &FEED_FORWARD).iter().sum()
        })
        .collect();
    assert_eq!(counts, BTreeSet::from([7, 8]));
}

#[test]
fn other_ratios_come_as_near_as_whole_matrices_allow() {
    let pieces = SMOLLM2.pieces();
    let frozen = |ratio: f64, names: &[&str]| {
        let config = HftConfig {
            freeze_ratio: ratio,
            ..HftConfig::default()
        };
        frozen_by_layer(&halves(&config, &pieces).draw(0), 30, names)
            .iter()
            .sum::<usize>()
    };
    // Of 120 attention matrices, 90 of the feed-forward, 60 norms; 22.5 is as near to 22 as to 23.
    for (ratio, wanted) in [
        (0.0, [0..=0, 0..=0, 0..=0]),
        (0.4, [48..=48, 36..=36, 24..=24]),
        (0.6, [72..=72, 54..=54, 36..=36]),
        (0.25, [30..=30, 22..=23, 15..=15]),
    ] {
        for (names, wanted) in [&ATTENTION[..], &FEED_FORWARD, &NORMS].into_iter().zip(wanted) {
            let found = frozen(ratio, names);
            assert!(wanted.contains(&found), "{ratio}: {found}, wanted {wanted:?}");
        }
    }
}

#[test]
fn the_same_seed_draws_the_same_and_rounds_differ() {
    let pieces = SMOLLM2.pieces();
    for granularity in [
        Granularity::Category,
        Granularity::Stratified,
        Granularity::Layer,
        Granularity::Model,
    ] {
        let config = HftConfig {
            seed: 9,
            ..of(granularity)
        };
        let (once, again) = (halves(&config, &pieces), halves(&config, &pieces));
        let draws: Vec<HalfSelection> = (0..4).map(|round| once.draw(round)).collect();
        for (round, draw) in draws.iter().enumerate() {
            assert_eq!(*draw, again.draw(round), "{granularity:?} round {round}");
            assert!(!draws[..round].contains(draw), "{granularity:?} round {round}");
        }
        let other = halves(&HftConfig { seed: 10, ..config }, &pieces);
        assert_ne!(other.draw(0), draws[0]);
        // The order of the pieces is no matter.
        let mut turned = pieces.clone();
        turned.reverse();
        let turned = halves(
            &HftConfig {
                seed: 9,
                ..of(granularity)
            },
            &turned,
        );
        assert_eq!(turned.draw(2).frozen(), draws[2].frozen(), "{granularity:?}");
    }
}

#[test]
fn two_complementary_rounds_train_everything() {
    let pieces = Llama { layers: 7, ..SMOLLM2 }.pieces();
    for granularity in [
        Granularity::Category,
        Granularity::Stratified,
        Granularity::Layer,
        Granularity::Model,
    ] {
        let config = HftConfig {
            complement: true,
            resample: Resample::Epoch,
            ..of(granularity)
        };
        let halves = halves(&config, &pieces);
        for pair in 0..3 {
            let (first, second) = (halves.draw(2 * pair), halves.draw(2 * pair + 1));
            let in_layers = pieces.iter().filter(|piece| piece.path.layer_idx().is_some());
            for piece in in_layers {
                assert!(
                    first.trains(&piece.path) != second.trains(&piece.path),
                    "{granularity:?} {}",
                    piece.path
                );
            }
            assert!(first.frozen().is_disjoint(second.frozen()));
        }
        assert_ne!(halves.draw(0), halves.draw(2), "pairs differ");
    }
}

#[test]
fn embedding_and_head_are_frozen_only_where_a_key_says_so() {
    let untied = Llama { tied: false, ..SMOLLM2 }.pieces();
    let ends = |config: &HftConfig, pieces: &[Piece]| -> Vec<String> {
        let selection = halves(config, pieces).draw(0);
        let outside = selection.frozen().iter().filter(|path| path.layer_idx().is_none());
        outside.map(ToString::to_string).collect()
    };
    assert_eq!(ends(&HftConfig::default(), &untied), Vec::<String>::new());
    let frozen = HftConfig {
        freeze_embeddings: Some(true),
        freeze_head: Some(true),
        ..HftConfig::default()
    };
    assert_eq!(
        ends(&frozen, &untied),
        ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"]
    );
    // In the draw, one of the two is frozen.
    for seed in 0..5 {
        let drawn = HftConfig {
            skip_embeddings_and_head: false,
            seed,
            ..HftConfig::default()
        };
        assert_eq!(ends(&drawn, &untied).len(), 1);
    }
    let head_alone = HftConfig {
        freeze_head: Some(true),
        ..HftConfig::default()
    };
    let error = Halves::new(&head_alone, &SMOLLM2.pieces()).unwrap_err().to_string();
    assert!(error.contains("`freeze_head`") && error.contains("tied"), "{error}");
}

#[test]
fn lisa_trains_a_few_layers_and_others_every_interval() {
    let pieces = SMOLLM2.pieces();
    let config: HftConfig = toml::from_str(
        "granularity = \"lisa\"\nlisa_n_layers = 2\nlisa_step_interval = 5\nfreeze_embeddings = true\nfreeze_head = false",
    )
    .unwrap();
    let halves = halves(&config, &pieces);
    let layers = |round| -> BTreeSet<usize> {
        let selection = halves.draw(round);
        let trained = pieces.iter().filter(|piece| selection.trains(&piece.path));
        let outside: Vec<&str> = trained
            .clone()
            .filter(|piece| piece.path.layer_idx().is_none())
            .map(|piece| piece.path.as_str())
            .collect();
        assert_eq!(outside, ["model.norm.weight"]);
        trained.filter_map(|piece| piece.path.layer_idx()).collect()
    };
    let mut met = BTreeMap::new();
    for round in 0..300 {
        let layers = layers(round);
        assert_eq!(layers.len(), 2);
        for layer in layers {
            *met.entry(layer).or_insert(0) += 1;
        }
    }
    // 600 draws over 30 layers: 20 each, standard deviation 4.3.
    assert!(
        met.len() == 30 && met.values().all(|count| (3..42).contains(count)),
        "{met:?}"
    );
    assert_eq!([4, 5, 12].map(|step| config.rounds().round_of(step, 100)), [0, 1, 2]);
}

#[test]
fn the_last_or_first_layers_are_named() {
    let pieces = Llama {
        layers: 6,
        tied: false,
        ..SMOLLM2
    }
    .pieces();
    for (count, wanted) in [(2, vec![4, 5]), (-1, vec![0]), (6, vec![0, 1, 2, 3, 4, 5])] {
        let config = HftConfig {
            freeze_trainable_layers: Some(count),
            ..of(Granularity::FixedLayers)
        };
        let selection = halves(&config, &pieces).draw(0);
        let trained: Vec<&Piece> = pieces.iter().filter(|piece| selection.trains(&piece.path)).collect();
        let layers: BTreeSet<usize> = trained.iter().filter_map(|piece| piece.path.layer_idx()).collect();
        assert_eq!(layers.into_iter().collect::<Vec<_>>(), wanted);
        assert_eq!(trained.len(), wanted.len() * 9, "embedding, last norm and head stay");
    }
    let config = HftConfig {
        freeze_trainable_layers: Some(7),
        ..of(Granularity::FixedLayers)
    };
    let error = Halves::new(&config, &pieces).unwrap_err().to_string();
    assert!(error.contains("7 layers") && error.contains("has 6"), "{error}");
}

#[test]
fn patterns_name_what_trains() {
    let pieces = Llama { layers: 2, ..SMOLLM2 }.pieces();
    let config = |pattern: &str| HftConfig {
        unfrozen_parameters: vec![pattern.to_owned()],
        ..of(Granularity::Pattern)
    };
    let selection = halves(&config(r"layers\.1\.mlp"), &pieces).draw(0);
    let trained: Vec<&Piece> = pieces.iter().filter(|piece| selection.trains(&piece.path)).collect();
    assert!(trained.len() == 3 && trained.iter().all(|piece| piece.path.as_str().contains("layers.1.mlp")));
    for (pattern, needle) in [("mpl", "matches no parameter"), ("(", "no regular expression")] {
        let error = Halves::new(&config(pattern), &pieces).unwrap_err().to_string();
        assert!(error.contains(needle), "{error}");
    }
}

#[test]
fn a_bias_goes_with_its_weight() {
    let mut pieces = Llama { layers: 4, ..SMOLLM2 }.pieces();
    for layer in 0..4 {
        for (name, width) in [("q_proj", 576), ("k_proj", 192), ("v_proj", 192)] {
            pieces.push(piece(
                &format!("model.layers.{layer}.self_attn.{name}.bias"),
                &[width],
                Role::Norm,
            ));
        }
    }
    let selection = halves(&HftConfig::default(), &pieces).draw(0);
    assert_eq!(frozen_by_layer(&selection, 4, &ATTENTION), [2; 4]);
    assert_eq!(frozen_by_layer(&selection, 4, &NORMS), [1; 4]);
    let biases: Vec<&Piece> = pieces.iter().filter(|piece| piece.path.name() == "bias").collect();
    for bias in biases {
        let weight = ModulePath::from(bias.path.as_str().replace(".bias", ".weight"));
        assert_eq!(selection.trains(&bias.path), selection.trains(&weight), "{}", bias.path);
    }
}

#[test]
fn families_with_other_names_are_grouped_by_role_and_shape() {
    // GPT-2's names: one matrix of each shape a layer, so every second layer freezes it; two of one shape split.
    let mut pieces = vec![piece("wte.weight", &[100, 8], Role::Embedding)];
    for layer in 0..6 {
        for (name, shape, role) in [
            ("attn.c_attn.weight", vec![24, 8], Role::Base),
            ("attn.c_proj.weight", vec![8, 8], Role::Base),
            ("mlp.c_fc.weight", vec![32, 8], Role::Base),
            ("mlp.c_proj.weight", vec![8, 32], Role::Base),
            ("mlp.c_gate.weight", vec![32, 8], Role::Base),
            ("ln_1.weight", vec![8], Role::Norm),
            ("ln_1.bias", vec![8], Role::Norm),
            ("ln_2.weight", vec![8], Role::Norm),
        ] {
            pieces.push(piece(&format!("h.{layer}.{name}"), &shape, role));
        }
    }
    pieces.push(piece("ln_f.weight", &[8], Role::Norm));
    let selection = halves(&HftConfig::default(), &pieces).draw(0);
    let frozen = |names: &[&str]| -> Vec<usize> {
        let count = |layer: usize| {
            let has = |name: &&&str| {
                selection
                    .frozen()
                    .contains(&ModulePath::from(format!("h.{layer}.{name}")))
            };
            names.iter().filter(has).count()
        };
        (0..6).map(count).collect()
    };
    for single in ["attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_proj.weight"] {
        assert_eq!(frozen(&[single]).iter().sum::<usize>(), 3, "{single}");
    }
    assert_eq!(frozen(&["mlp.c_fc.weight", "mlp.c_gate.weight"]), [1; 6]);
    assert_eq!(frozen(&["ln_1.weight", "ln_2.weight"]), [1; 6]);
    assert_eq!(selection.shares()[1].category, "base [24, 8]");
}

#[test]
fn what_cannot_be_grouped_is_an_error() {
    for (extra, needles) in [
        (
            piece("model.layers.0.mlp.lora_A.weight", &[4, 8], Role::Adapter),
            ["lora_A", "a method added"],
        ),
        (
            piece("model.positions.weight", &[64, 8], Role::Base),
            ["`model.positions.weight`", "lm_head.weight"],
        ),
        (
            piece("model.layers.0.scale", &[8], Role::Base),
            ["`model.layers.0.scale`", "pattern"],
        ),
        (
            piece("model.layers.0.thing.bias", &[8], Role::Norm),
            ["`model.layers.0.thing.bias`", "without a weight"],
        ),
    ] {
        let mut pieces = Llama {
            layers: 2,
            tied: false,
            ..SMOLLM2
        }
        .pieces();
        pieces.push(extra);
        let error = Halves::new(&HftConfig::default(), &pieces).unwrap_err().to_string();
        assert!(needles.iter().all(|needle| error.contains(needle)), "{error}");
    }
}

#[test]
fn resets_go_from_the_tuned_model_to_the_base() {
    let pieces = SMOLLM2.pieces();
    let chosen = |fraction| hft::reset(&pieces, Granularity::Category, fraction, 4).unwrap();
    assert!(chosen(0.0).frozen().is_empty());
    assert_eq!(chosen(1.0).frozen().len(), pieces.len());
    let half = chosen(0.5);
    assert_eq!(half, halves(&seeded(4), &pieces).draw(0));
    assert_eq!(frozen_by_layer(&half, 30, &ATTENTION), [2; 30]);
    for (fraction, granularity) in [(1.5, Granularity::Category), (0.5, Granularity::Lisa)] {
        assert!(hft::reset(&pieces, granularity, fraction, 4).is_err());
    }
}

#[test]
fn experts_are_one_pool_whatever_their_names() {
    // Qwen's and Mixtral's names for the same mixture of four experts.
    let shares = |mixture: &str, names: [&str; 3]| {
        let mut pieces = vec![piece("model.embed_tokens.weight", &[100, 8], Role::Embedding)];
        for layer in 0..6 {
            let at = format!("model.layers.{layer}");
            for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
                pieces.push(piece(&format!("{at}.self_attn.{name}.weight"), &[8, 8], Role::Base));
            }
            pieces.push(piece(&format!("{at}.{mixture}.gate.weight"), &[4, 8], Role::Router));
            for expert in 0..4 {
                for (name, shape) in names.into_iter().zip([[16, 8], [16, 8], [8, 16]]) {
                    let path = format!("{at}.{mixture}.experts.{expert}.{name}.weight");
                    pieces.push(piece(&path, &shape, Role::Base));
                }
            }
        }
        let shares = halves(&HftConfig::default(), &pieces).draw(0).shares().to_vec();
        let feed_forward = shares.iter().find(|share| share.category == "feed-forward");
        assert_eq!(
            feed_forward.map(|share| share.tensors - share.trained_tensors),
            Some(6 * 6),
            "half of 12 matrices of each layer"
        );
        shares
            .into_iter()
            .map(|share| (share.category, share.trained_numbers))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        shares("mlp", ["gate_proj", "up_proj", "down_proj"]),
        shares("block_sparse_moe", ["w1", "w3", "w2"])
    );
}
