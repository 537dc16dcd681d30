//! Orders, mixtures and packing: nothing lost, nothing twice, and any step at once.

use std::collections::HashMap;

use data::{
    Arrange, BatchConfig, Batches, IGNORED, MixStrategy, Mixture, Part, Pick, Sample, TokenSet, Tokenized, best_fit,
};

struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// Samples of the given lengths; tokens are numbered through, every third is not learnt.
fn set(lengths: &[usize]) -> TokenSet {
    let mut next = 0;
    let samples = lengths.iter().map(|&length| {
        let tokens: Vec<u32> = (next..next + length as u32).collect();
        next += length as u32;
        let trained = (0..length).map(|i| i > 0 && i % 3 != 0).collect();
        Sample {
            documents: vec![Tokenized { tokens, trained }],
            label: None,
            truncated: false,
        }
    });
    TokenSet::from_samples(samples)
}

fn part(len: usize, weight: f64) -> Part {
    Part {
        len,
        weight,
        max_samples: None,
    }
}

fn mixture(parts: &[Part], strategy: MixStrategy) -> Mixture {
    Mixture::new(parts, strategy, Arrange::Shuffled, 3).unwrap()
}

fn counts(order: &[Pick]) -> HashMap<Pick, usize> {
    let mut counts = HashMap::new();
    for pick in order {
        *counts.entry(*pick).or_insert(0) += 1;
    }
    counts
}

#[test]
fn best_fit_places_every_item_once_and_fills_no_row_too_full() {
    let mut numbers = Numbers(1);
    for _ in 0..200 {
        let max_tokens = 1 + numbers.below(100);
        let lengths: Vec<usize> = (0..numbers.below(60)).map(|_| numbers.below(120)).collect();
        let rows = best_fit(&lengths, max_tokens);
        let mut placed: Vec<usize> = rows.concat();
        placed.sort_unstable();
        assert_eq!(placed, (0..lengths.len()).collect::<Vec<_>>());
        for row in &rows {
            let total: usize = row.iter().map(|&item| lengths[item]).sum();
            // Items without tokens may stand beside one that is too long.
            assert!(
                total <= max_tokens || row.iter().filter(|&&item| lengths[item] > 0).count() == 1,
                "{row:?}"
            );
        }
        // Best fit needs fewer than twice the rows that the tokens alone would fill.
        let within: usize = lengths.iter().filter(|&&length| length <= max_tokens).sum();
        let too_long = lengths.iter().filter(|&&length| length > max_tokens).count();
        assert!(rows.len() <= 2 * within.div_ceil(max_tokens) + too_long + 1);
    }
}

#[test]
fn best_fit_takes_the_fullest_row_with_room() {
    // 6 and 5 open rows with 4 and 5 left; the 4 goes where it fits exactly, the 3 to the other, the 2 beside it.
    assert_eq!(best_fit(&[5, 6, 4, 3, 2], 10), [vec![1, 2], vec![0, 3, 4]]);
}

#[test]
fn an_epoch_packs_every_document_once_with_its_targets() {
    let mut numbers = Numbers(2);
    let lengths: Vec<usize> = (0..97).map(|_| 1 + numbers.below(40)).collect();
    let set = set(&lengths);
    let config = BatchConfig {
        per_device_train_batch_size: 4,
        gradient_accumulation_steps: 2,
        max_tokens: 50,
        ..BatchConfig::default()
    };
    let mixture = mixture(&[part(97, 1.0)], MixStrategy::Concat);
    let batches = Batches::new(vec![&set], mixture, config).unwrap();
    assert_eq!(batches.steps_per_epoch(), 13);
    let mut seen = vec![0; 97];
    for step in 0..13 {
        let step = batches.step(step).unwrap();
        assert_eq!(step.num_samples, if step.step_in_epoch == 12 { 1 } else { 8 });
        for row in &step.rows {
            assert!(row.tokens.len() <= 50 && row.lengths.iter().sum::<usize>() == row.tokens.len());
            let mut at = 0;
            for (id, &length) in row.documents.iter().zip(&row.lengths) {
                seen[id.sample] += 1;
                let document = &set.sample(id.sample).unwrap()[0];
                for i in 0..length {
                    assert_eq!(row.tokens[at + i], i64::from(document.tokens[i]));
                    let learnt = i + 1 < length && document.trained[i + 1];
                    let wanted = if learnt {
                        i64::from(document.tokens[i + 1])
                    } else {
                        IGNORED
                    };
                    assert_eq!(row.targets[at + i], wanted);
                }
                at += length;
            }
        }
    }
    assert_eq!(seen, [1; 97]);
}

#[test]
fn a_step_asked_for_alone_is_the_step_of_the_sequence() {
    let set = set(&[3, 9, 4, 7, 2, 8, 5]);
    let config = BatchConfig {
        per_device_train_batch_size: 2,
        max_tokens: 12,
        ..BatchConfig::default()
    };
    let batches = || Batches::new(vec![&set], mixture(&[part(7, 1.0)], MixStrategy::Concat), config).unwrap();
    let sequence: Vec<_> = batches().from(0).take(12).map(Result::unwrap).collect();
    assert_ne!(sequence[0].rows, sequence[4].rows, "each epoch has its own order");
    assert_eq!((sequence[4].epoch, sequence[4].step_in_epoch), (1, 0));
    for (step, wanted) in sequence.iter().enumerate() {
        assert_eq!(&batches().step(step).unwrap(), wanted);
    }
    let resumed: Vec<_> = batches().from(5).take(7).map(Result::unwrap).collect();
    assert_eq!(resumed, sequence[5..]);
}

#[test]
fn pairs_stay_together() {
    let document = |n: usize| Tokenized {
        tokens: vec![1; n],
        trained: vec![false; n],
    };
    let pair = |a, b| Sample {
        documents: vec![document(a), document(b)],
        label: Some(1),
        truncated: false,
    };
    let set = TokenSet::from_samples([pair(5, 6), pair(3, 3), pair(9, 9)]);
    let step = Batches::sequential(
        &set,
        BatchConfig {
            max_tokens: 17,
            ..BatchConfig::default()
        },
    )
    .unwrap()
    .step(0)
    .unwrap();
    assert_eq!(step.rows.len(), 2);
    for row in &step.rows {
        for pair in row.documents.chunks(2) {
            assert_eq!((pair[0].sample, pair[0].part, pair[1].part), (pair[1].sample, 0, 1));
            assert_eq!(pair[0].label, Some(1));
        }
    }
}

#[test]
fn weights_say_how_often_a_set_is_seen_in_an_epoch() {
    let concat = mixture(&[part(10, 1.0), part(10, 0.5), part(4, 2.5)], MixStrategy::Concat);
    assert_eq!((concat.epoch_len(), concat.counts()), (25, vec![10, 5, 10]));
    let (first, second) = (concat.order(0), concat.order(1));
    assert_eq!(first.len(), 25);
    let seen = counts(&first);
    assert!((0..10).all(|sample| seen[&Pick { set: 0, sample }] == 1));
    assert!((0..4).all(|sample| [2, 3].contains(&seen[&Pick { set: 2, sample }])));
    let half = |order: &[Pick]| {
        let mut half: Vec<u32> = order
            .iter()
            .filter(|pick| pick.set == 1)
            .map(|pick| pick.sample)
            .collect();
        half.sort_unstable();
        half
    };
    assert_ne!(half(&first), half(&second), "another half each epoch");
    assert_eq!(first, concat.order(0));
}

#[test]
fn interleaving_ends_with_the_first_or_the_last_set() {
    let parts = [part(30, 3.0), part(30, 1.0)];
    let under = mixture(&parts, MixStrategy::InterleaveUnder);
    assert_eq!(under.counts(), [30, 10]);
    let over = mixture(&parts, MixStrategy::InterleaveOver);
    assert_eq!(over.counts(), [90, 30]);
    // Every stretch has the shares that the weights ask for.
    for stretch in under.order(0).chunks(4) {
        assert_eq!(stretch.iter().filter(|pick| pick.set == 1).count(), 1);
    }
    let seen = counts(&over.order(0));
    assert!((0..30).all(|sample| seen[&Pick { set: 0, sample }] == 3 && seen[&Pick { set: 1, sample }] == 1));
}

#[test]
fn max_samples_takes_a_set_s_first() {
    let few = Part {
        len: 100,
        weight: 1.0,
        max_samples: Some(3),
    };
    let order = mixture(&[few], MixStrategy::Concat).order(5);
    let mut samples: Vec<u32> = order.iter().map(|pick| pick.sample).collect();
    samples.sort_unstable();
    assert_eq!(samples, [0, 1, 2]);
}

#[test]
fn grouping_by_length_changes_the_order_and_nothing_else() {
    let mut numbers = Numbers(4);
    let lengths: Vec<usize> = (0..403).map(|_| 1 + numbers.below(500)).collect();
    let set = set(&lengths);
    let spread = |group_by_length| {
        let config = BatchConfig {
            group_by_length,
            max_tokens: 1000,
            ..BatchConfig::default()
        };
        let batches = Batches::new(vec![&set], mixture(&[part(403, 1.0)], MixStrategy::Concat), config).unwrap();
        let mut seen = vec![false; 403];
        let mut spread = 0;
        for step in 0..batches.steps_per_epoch() {
            let step = batches.step(step).unwrap();
            let lengths: Vec<usize> = step.rows.iter().flat_map(|row| row.lengths.clone()).collect();
            spread += lengths.iter().max().unwrap() - lengths.iter().min().unwrap();
            step.rows
                .iter()
                .flat_map(|row| &row.documents)
                .for_each(|id| seen[id.sample] = true);
        }
        assert!(seen.iter().all(|seen| *seen));
        spread
    };
    assert!(spread(true) * 10 < spread(false));
}

#[test]
fn impossible_settings_are_refused_by_name() {
    let set = set(&[3, 4]);
    let refused = |parts: &[Part]| {
        Mixture::new(parts, MixStrategy::Concat, Arrange::Shuffled, 0)
            .unwrap_err()
            .to_string()
    };
    assert!(refused(&[part(2, 0.0)]).starts_with("`weight`: wanted a number above 0"));
    assert!(refused(&[part(2, f64::NAN)]).starts_with("`weight`"));
    assert!(refused(&[part(2, 0.1)]).starts_with("`weight`: wanted at least one sample an epoch"));
    assert!(refused(&[part(0, 1.0)]).starts_with("`max_samples`"));
    assert!(refused(&[]).starts_with("`train`"));
    let zero = BatchConfig {
        max_tokens: 0,
        ..BatchConfig::default()
    };
    assert!(
        Batches::sequential(&set, zero)
            .unwrap_err()
            .to_string()
            .starts_with("`max_tokens`: wanted a number above 0")
    );
    let large = BatchConfig {
        drop_last: true,
        ..BatchConfig::default()
    };
    assert!(
        Batches::sequential(&set, large)
            .unwrap_err()
            .to_string()
            .starts_with("`drop_last`")
    );
}
