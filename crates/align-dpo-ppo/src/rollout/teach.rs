//! From scores to advantages.

use super::{Episode, Estimator, GrpoConfig, PpoConfig};
use crate::reinforce::{Shift, advantages, group_advantages, leave_one_out, returns, whiten};

/// PPO: the score comes with the last token, every token pays `beta` for each nat that it leaves the reference, and the
/// critic says what was expected. A reply without a score earns what the scored ones earn in the mean.
pub fn teach_by_critic(episodes: &mut [Episode], beta: f64, config: &PpoConfig) {
    let fallback = mean_score(episodes);
    let mut rewards: Vec<f64> = Vec::new();
    for episode in episodes.iter() {
        let penalty = match config.missing_eos_penalty {
            Some(penalty) if !episode.ended => penalty,
            _ => 0.0,
        };
        let score = episode.score.unwrap_or(fallback) - penalty;
        let last = episode.reply.len() - 1;
        rewards.extend((0..=last).map(|at| {
            let kl = match episode.reference.get(at) {
                Some(&reference) => config
                    .kl_estimator
                    .of_token(f64::from(episode.log_probs[at]), f64::from(reference)),
                None => 0.0,
            };
            let earned = if at == last { score } else { 0.0 };
            earned - beta * kl
        }));
    }
    if config.whiten_rewards {
        whiten(&mut rewards, Shift::None);
    }
    let (mut all, mut from) = (Vec::new(), 0);
    for episode in episodes.iter_mut() {
        let values: Vec<f64> = episode.values.iter().map(|&value| f64::from(value)).collect();
        let found = advantages(&rewards[from..from + values.len()], &values, config.gamma, config.lam);
        episode.returns = returns(&found, &values);
        from += values.len();
        all.extend(found);
    }
    if config.whiten_advantages {
        whiten(&mut all, Shift::ToZero);
    }
    let mut all = all.into_iter();
    for episode in episodes {
        episode.advantages = all.by_ref().take(episode.reply.len()).collect();
    }
}

/// GRPO and RLOO: each reply is measured against the others to its prompt, and all its tokens alike. Episodes come
/// group after group; a reply without a score earns its group's mean, and teaches nothing.
pub fn teach_by_group(episodes: &mut [Episode], config: &GrpoConfig) {
    let size = config.num_generations;
    let overall = mean_score(episodes);
    let scores: Vec<f64> = episodes
        .chunks(size)
        .flat_map(|group| {
            let known: Vec<f64> = group.iter().filter_map(|episode| episode.score).collect();
            let mean = if known.is_empty() {
                overall
            } else {
                known.iter().sum::<f64>() / known.len() as f64
            };
            group.iter().map(move |episode| episode.score.unwrap_or(mean))
        })
        .collect();
    let found = match config.estimator {
        Estimator::Group => group_advantages(&scores, size, config.scale_rewards),
        Estimator::LeaveOneOut => leave_one_out(&scores, size),
    };
    for (episode, advantage) in episodes.iter_mut().zip(found) {
        let advantage = if episode.score.is_some() { advantage } else { 0.0 };
        episode.advantages = vec![advantage; episode.reply.len()];
    }
}

fn mean_score(episodes: &[Episode]) -> f64 {
    let known: Vec<f64> = episodes.iter().filter_map(|episode| episode.score).collect();
    known.iter().sum::<f64>() / (known.len().max(1)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reinforce::GroupScale;

    fn episode(score: Option<f64>, values: &[f32]) -> Episode {
        Episode {
            prompt: vec![1],
            reply: vec![2; values.len()],
            log_probs: vec![-1.0; values.len()],
            reference: vec![-1.1; values.len()],
            values: values.to_vec(),
            score,
            ..Episode::default()
        }
    }

    #[test]
    fn the_score_comes_last_and_every_token_pays_for_its_nats() {
        let config = PpoConfig {
            gamma: 1.0,
            lam: 1.0,
            whiten_advantages: false,
            missing_eos_penalty: Some(0.5),
            ..PpoConfig::default()
        };
        let mut episodes = [episode(Some(2.0), &[0.3, 0.2]), episode(None, &[0.0])];
        episodes[0].ended = true;
        teach_by_critic(&mut episodes, 0.5, &config);
        // Each token is 0.1 nats away and pays 0.05; at λ = 1 an advantage is what is still to come less the value.
        let near = |found: &[f64], wanted: &[f64]| {
            assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
        };
        near(&episodes[0].advantages, &[1.9 - 0.3, 1.95 - 0.2]);
        near(&episodes[0].returns, &[1.9, 1.95]);
        // Without a score, the mean of the others; without an end, the penalty.
        near(&episodes[1].advantages, &[2.0 - 0.5 - 0.05]);
        let whitened = PpoConfig {
            whiten_advantages: true,
            ..config
        };
        teach_by_critic(&mut episodes, 0.5, &whitened);
        let all: Vec<f64> = episodes.iter().flat_map(|episode| episode.advantages.clone()).collect();
        assert!(all.iter().sum::<f64>().abs() < 1e-9);
    }

    #[test]
    fn a_reply_that_could_not_be_scored_teaches_nothing_and_moves_nobody() {
        let config = GrpoConfig {
            num_generations: 3,
            scale_rewards: GroupScale::None,
            ..GrpoConfig::default()
        };
        let mut episodes = [
            episode(Some(1.0), &[0.0; 2]),
            episode(None, &[0.0]),
            episode(Some(0.0), &[0.0]),
        ];
        teach_by_group(&mut episodes, &config);
        let found: Vec<Vec<f64>> = episodes.iter().map(|episode| episode.advantages.clone()).collect();
        assert_eq!(found, [vec![0.5, 0.5], vec![0.0], vec![-0.5]]);
        let rloo = GrpoConfig {
            estimator: Estimator::LeaveOneOut,
            ..config
        };
        teach_by_group(&mut episodes, &rloo);
        assert_eq!(episodes[0].advantages, [0.75, 0.75]);
    }
}
