//! Rollouts of a real model: what was drawn is what is learnt from, and rewards rise.

use std::cell::RefCell;

use align_dpo_ppo::Reference;
use align_dpo_ppo::reinforce::Clip;
use align_dpo_ppo::rollout::{
    Episode, GrpoConfig, PolicyGradient, PolicyRow, PpoConfig, TokenScale, ValueHead, ValueTerm, WithValues, look_up,
    teach_by_critic, teach_by_group, write,
};
use checkpoint::ModelDir;
use decoder::Decoder;
use golden::assert_close;
use lora::{LoraConfig, Wrapping};
use tch::{Device, Kind, Tensor};
use tensor_core::{
    Checkpointing, CheckpointingPolicy, Documents, DropoutKey, LanguageModel, ModelPass, Objective, named_params,
};
use train::{Batches, BoxError, Hooks, Row, RunDir, Start, TrainConfig};

fn adapted() -> Decoder {
    let dir = ModelDir::open(&golden::vectors_dir().join("trajectory/lora/base")).expect("a model");
    let model = Decoder::load(&dir, Device::Cpu, Kind::Float).expect("weights");
    let config = LoraConfig {
        r: 4,
        ..LoraConfig::default()
    };
    let wrapping = Wrapping::choose(config, &model.projection_paths(), &[]).expect("targets");
    model
        .map_projections(&mut |at, projection| wrapping.projection(at, projection))
        .expect("adapters")
}

fn plan(model: &dyn LanguageModel) -> CheckpointingPolicy {
    CheckpointingPolicy::uniform(Checkpointing::Keep, model.num_blocks())
}

/// Four prompts, `size` replies each.
fn prompts(size: usize) -> Vec<Vec<u32>> {
    let prompt = |seed: u32| (0..3 + seed % 3).map(|at| 5 + (seed * 17 + at * 29) % 90).collect();
    (0..4u32).flat_map(|seed| vec![prompt(seed); size]).collect()
}

/// The share of a reply's tokens in the vocabulary's lower half.
fn score(episode: &mut Episode) {
    let low = episode.reply.iter().filter(|&&token| token < 48).count();
    episode.score = Some(low as f64 / episode.reply.len() as f64);
}

fn mean_score(episodes: &[Episode]) -> f64 {
    episodes.iter().filter_map(|episode| episode.score).sum::<f64>() / episodes.len() as f64
}

fn grpo() -> GrpoConfig {
    GrpoConfig {
        num_generations: 6,
        ..GrpoConfig::default()
    }
}

#[test]
fn what_was_drawn_has_the_log_probabilities_of_a_packed_pass_and_the_same_seed_draws_it_again() {
    let model = adapted();
    let draw = |seed| write(&model, &prompts(2), 7, seed, &mut |_, _| ()).unwrap();
    let mut episodes = draw(3);
    assert_eq!(episodes, draw(3));
    assert_ne!(episodes, draw(4));
    // The adapter is new, so the reference is the policy: the sampling pass and the packed one agree, token by token.
    let reference = Reference::adapters_off(&model).unwrap();
    let critic = ValueHead::zeros(model.config().hidden_size, Device::Cpu);
    let plan = plan(&model);
    let policy = ModelPass::evaluate(&model, &plan);
    look_up(
        &policy,
        &mut episodes,
        Some(&reference),
        Some(&critic),
        (40, Device::Cpu),
    )
    .unwrap();
    for episode in &episodes {
        assert_eq!(episode.reference.len(), episode.reply.len());
        assert!(episode.values.iter().all(|value| *value == 0.0));
        for (drawn, packed) in episode.log_probs.iter().zip(&episode.reference) {
            assert!((drawn - packed).abs() < 1e-4, "{drawn} {packed}");
        }
        assert!(episode.drift().abs() < 1e-3);
    }
    // Written down and read again, nothing is lost.
    let text = serde_json::to_string(&episodes).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Episode>>(&text).unwrap(), episodes);
}

#[test]
fn before_the_first_update_the_loss_is_minus_the_mean_advantage_under_every_weighing() {
    let model = adapted();
    let mut episodes = write(&model, &prompts(6), 7, 1, &mut |_, _| ()).unwrap();
    episodes.iter_mut().for_each(score);
    teach_by_group(&mut episodes, &grpo());
    let objective = PolicyGradient {
        clip: Clip::even(0.2),
        beta: 0.0,
        critic: None,
    };
    let all: Vec<&Episode> = episodes.iter().collect();
    let tokens: usize = episodes.iter().map(|episode| episode.reply.len()).sum();
    let of_token: f64 = episodes.iter().flat_map(|episode| &episode.advantages).sum();
    let of_reply: f64 = episodes.iter().map(|episode| episode.advantages[0]).sum();
    for (scale, weight, wanted) in [
        (TokenScale::Token, tokens as f64, -of_token),
        (TokenScale::Reply, 24.0, -of_reply),
        (TokenScale::Longest(7), 24.0, -of_token / 7.0),
    ] {
        let row = PolicyRow::new(&all, scale, Device::Cpu);
        assert_eq!(objective.weight(&row), weight);
        let plan = plan(&model);
        let policy = ModelPass::train(&model, &plan, DropoutKey(1));
        let loss = objective.loss(&policy, &row).unwrap();
        assert!(
            (loss.sum.double_value(&[]) - wanted).abs() < 2e-3,
            "{scale:?}: {} {wanted}",
            loss.sum.double_value(&[])
        );
        let ratio = |name: &str| {
            let (_, sum, count) = loss.ratios.iter().find(|(found, ..)| *found == name).unwrap();
            sum / count
        };
        assert!(ratio("policy/approxkl_avg") < 1e-8 && ratio("policy/clipfrac_avg") == 0.0);
    }
}

#[test]
fn packing_episodes_changes_no_gradient() {
    let model = adapted();
    let mut episodes = write(&model, &prompts(6), 5, 2, &mut |_, _| ()).unwrap();
    episodes.iter_mut().for_each(score);
    let reference = Reference::adapters_off(&model).unwrap();
    let head = ValueHead::zeros(model.config().hidden_size, Device::Cpu);
    let plan = plan(&model);
    look_up(
        &ModelPass::evaluate(&model, &plan),
        &mut episodes,
        Some(&reference),
        Some(&head),
        (64, Device::Cpu),
    )
    .unwrap();
    teach_by_critic(&mut episodes, 0.1, &PpoConfig::default());
    let objective = PolicyGradient {
        clip: Clip::even(0.2),
        beta: 0.0,
        critic: Some(ValueTerm {
            head: head.share(),
            coefficient: 0.1,
            clip: 0.2,
        }),
    };
    let whole = WithValues {
        policy: &model,
        head: &head,
    };
    let gradients = |rows: Vec<PolicyRow>| -> Vec<Tensor> {
        let params = named_params(&whole);
        let trained: Vec<&Tensor> = params
            .iter()
            .filter(|(_, param)| param.is_trainable())
            .map(|(_, param)| param.value())
            .collect();
        for value in &trained {
            tensor_core::autograd::drop_gradient(value);
        }
        let total: f64 = rows.iter().map(|row| objective.weight(row)).sum();
        for row in rows {
            let policy = ModelPass::train(&whole, &plan, DropoutKey(1));
            let loss = objective.loss(&policy, &row).unwrap();
            policy.backward(&loss, 1.0 / total, 1.0).unwrap();
        }
        trained.iter().map(|value| value.grad()).collect()
    };
    let row = |part: &[Episode]| PolicyRow::new(&part.iter().collect::<Vec<_>>(), TokenScale::Token, Device::Cpu);
    let together = gradients(vec![row(&episodes)]);
    let apart = gradients(episodes.chunks(5).map(row).collect());
    assert!(
        together.last().unwrap().abs().max().double_value(&[]) > 0.0,
        "the critic learns"
    );
    for (idx, (a, b)) in together.iter().zip(&apart).enumerate() {
        assert_close(&format!("gradient {idx}"), a, b, 1e-3, 1e-5);
    }
}

/// A rollout a step, written by the model as it is then.
struct Rollouts<'a> {
    model: &'a Decoder,
    critic: Option<(&'a ValueHead, Reference)>,
    scores: RefCell<Vec<f64>>,
}

impl Batches<PolicyRow> for Rollouts<'_> {
    fn num_steps_per_epoch(&self) -> usize {
        1
    }

    fn rows(&self, step: usize) -> Result<Vec<Row<PolicyRow>>, BoxError> {
        let mut episodes = write(self.model, &prompts(6), 6, step as u64, &mut |_, _| ())?;
        episodes.iter_mut().for_each(score);
        self.scores.borrow_mut().push(mean_score(&episodes));
        match &self.critic {
            Some((head, reference)) => {
                let plan = plan(self.model);
                let policy = ModelPass::evaluate(self.model, &plan);
                look_up(&policy, &mut episodes, Some(reference), Some(head), (256, Device::Cpu))?;
                teach_by_critic(&mut episodes, 0.01, &PpoConfig::default());
            }
            None => teach_by_group(&mut episodes, &grpo()),
        }
        let all: Vec<&Episode> = episodes.iter().collect();
        let batch = PolicyRow::new(&all, TokenScale::Token, Device::Cpu);
        let num_tokens = batch.replies().documents.num_tokens();
        Ok(vec![Row { batch, num_tokens }])
    }

    fn longest_row(&self) -> usize {
        24 * 11
    }

    fn input<'b>(&self, row: &'b PolicyRow) -> Option<(&'b Tensor, &'b Documents)> {
        Some((&row.replies().tokens, &row.replies().documents))
    }
}

/// The mean scores of each step's rollout.
fn learn(with_critic: bool) -> Vec<f64> {
    let folder = tempfile::tempdir().unwrap();
    let model = adapted();
    let head = ValueHead::zeros(model.config().hidden_size, Device::Cpu);
    let config = TrainConfig {
        output_dir: folder.path().join("run"),
        max_steps: 25,
        learning_rate: 2e-2,
        report_to: Vec::new(),
        ..TrainConfig::default()
    };
    let rollouts = Rollouts {
        model: &model,
        critic: with_critic.then(|| (&head, Reference::adapters_off(&model).unwrap())),
        scores: RefCell::default(),
    };
    let objective = PolicyGradient {
        clip: Clip::even(0.2),
        beta: 0.0,
        critic: with_critic.then(|| ValueTerm {
            head: head.share(),
            coefficient: 0.1,
            clip: 0.2,
        }),
    };
    let dir = RunDir::open(&config.output_dir, "", Start::New).unwrap();
    let save = |_: &std::path::Path| Ok(());
    let both = WithValues {
        policy: &model,
        head: &head,
    };
    let trained: &dyn LanguageModel = if with_critic { &both } else { &model };
    train::fit(trained, &objective, &rollouts, &config, Hooks::new(&dir, &save)).unwrap();
    rollouts.scores.into_inner()
}

#[test]
fn the_mean_reward_rises_with_a_critic_and_with_groups() {
    for with_critic in [true, false] {
        let scores = learn(with_critic);
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        let (first, last) = (mean(&scores[..3]), mean(&scores[22..]));
        assert!(last > first + 0.2, "critic {with_critic}: {first:.3} to {last:.3}");
    }
}
