//! Writing a rollout: the policy replies, rewards judge, reference and critic are asked, the method teaches.

use std::collections::BTreeMap;
use std::time::Instant;

use align_dpo_ppo::Reference;
use align_dpo_ppo::reward::{Rewards, Said, Verdict};
use align_dpo_ppo::rollout::{Episode, look_up, write};
use anyhow::Result;
use data::Tokenizer;
use decoder::Decoder;
use events::{Event, Events};
use serde_json::json;
use tensor_core::{Checkpointing, CheckpointingPolicy, LanguageModel as _, ModelPass};

use super::prompts::Prompt;
use super::record::{ALIKE, About, Reply, Rollout};
use super::{Method, tell_failures, tell_spread};

/// All that a rollout is made with.
pub(super) struct Writer<'a> {
    pub(super) model: &'a Decoder,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) method: &'a Method<'a>,
    pub(super) rewards: &'a Rewards,
    pub(super) reference: Option<&'a Reference>,
    pub(super) max_tokens: usize,
    pub(super) seed: u64,
    pub(super) events: &'a Events,
}

/// The stream of numbers that held-out replies are drawn with: no rollout's.
const HELD_OUT: u64 = u64::MAX;

impl Writer<'_> {
    /// Rollout `number`: replies to `prompts`, each to be answered a group's times; a nat costs `kl_coef`.
    pub(super) fn write(&self, number: usize, prompts: &[&Prompt], kl_coef: f64) -> Result<Rollout> {
        let each: Vec<&Prompt> = prompts
            .iter()
            .flat_map(|prompt| std::iter::repeat_n(*prompt, self.method.group()))
            .collect();
        let mut rollout = self.reply(number as u64, &each)?;
        tell_failures(number, &rollout, self.events)?;
        let mut episodes: Vec<Episode> = rollout.replies.iter().map(|reply| reply.episode.clone()).collect();
        let (alike, groups) = self.method.without_spread(&episodes);
        tell_spread(number, (alike, groups), rollout.replies.len(), self.events);
        rollout.facts.insert(ALIKE.into(), alike as f64 / groups.max(1) as f64);
        self.method.teach(&mut episodes, kl_coef);
        if let Some(reward) = self.method.non_score_reward(&episodes, kl_coef) {
            rollout.facts.insert("objective/non_score_reward".into(), reward);
        }
        for (reply, episode) in rollout.replies.iter_mut().zip(episodes) {
            reply.episode = episode;
        }
        let kl = rollout.facts.get("objective/kl").copied().unwrap_or(0.0);
        if self.reference.is_some() {
            rollout.facts.insert("kl_coef".into(), kl_coef);
        }
        rollout.about = About {
            rollout: number,
            kl_coef,
            next_kl_coef: self.method.next_price(kl_coef, kl, rollout.replies.len()),
        };
        self.events.tell(|| Event::Rollout {
            number,
            values: rollout
                .facts
                .iter()
                .map(|(name, value)| (name.clone(), json!(value)))
                .collect(),
        });
        Ok(rollout)
    }

    /// One reply to each prompt, judged; nothing is taught.
    pub(super) fn measure(&self, prompts: &[&Prompt]) -> Result<Rollout> {
        self.reply(HELD_OUT, prompts)
    }

    fn reply(&self, stream: u64, prompts: &[&Prompt]) -> Result<Rollout> {
        let begun = Instant::now();
        let tokens: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.tokens.clone()).collect();
        let seed = self.seed.wrapping_add(stream.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let most = self.method.max_completion_length();
        let mut episodes = write(self.model, &tokens, most, seed, &mut |_, _| ())?;
        let seconds = begun.elapsed().as_secs_f64();
        let said: Vec<String> = episodes
            .iter()
            .map(|episode| Ok(self.tokenizer.decode(&episode.reply)?))
            .collect::<Result<_>>()?;
        let verdicts = self.judge(prompts, &episodes, &said)?;
        for (episode, verdict) in episodes.iter_mut().zip(&verdicts) {
            episode.score = verdict.score;
        }
        let plan = CheckpointingPolicy::uniform(Checkpointing::Keep, self.model.num_blocks());
        let policy = ModelPass::evaluate(self.model, &plan);
        let place = (self.max_tokens, self.model.device());
        look_up(&policy, &mut episodes, self.reference, self.method.critic(), place)?;
        let facts = self.facts(&episodes, &verdicts, seconds);
        let replies = episodes.into_iter().zip(said).zip(verdicts).zip(prompts);
        let reply = |(((episode, said), verdict), prompt): (((Episode, String), Verdict), &&Prompt)| Reply {
            asked: prompt.text.clone(),
            said,
            rewards: verdict.parts,
            failed: verdict.failed,
            episode,
        };
        Ok(Rollout {
            about: About {
                rollout: 0,
                kl_coef: 0.0,
                next_kl_coef: 0.0,
            },
            facts,
            replies: replies.map(reply).collect(),
        })
    }

    fn judge(&self, prompts: &[&Prompt], episodes: &[Episode], said: &[String]) -> Result<Vec<Verdict>> {
        let tokens: Vec<Vec<u32>> = episodes
            .iter()
            .map(|episode| [episode.prompt.as_slice(), episode.reply.as_slice()].concat())
            .collect();
        let replies: Vec<Said> = prompts
            .iter()
            .zip(episodes)
            .zip(said.iter().zip(&tokens))
            .map(|((prompt, episode), (reply, tokens))| Said {
                prompt: &prompt.text,
                reply,
                tokens,
                num_tokens: episode.reply.len(),
                extra: &prompt.extra,
            })
            .collect();
        let waiting = format!("the rewards have not yet scored these {} replies", replies.len());
        Ok(self.events.wait(&waiting, || self.rewards.judge(&replies))?)
    }

    /// The rollout in numbers, under TRL's names where it has them.
    fn facts(&self, episodes: &[Episode], verdicts: &[Verdict], seconds: f64) -> BTreeMap<String, f64> {
        let mean = |numbers: &mut dyn Iterator<Item = f64>| {
            let (sum, count) = numbers.fold((0.0, 0usize), |(sum, count), number| (sum + number, count + 1));
            (count > 0).then(|| sum / count as f64)
        };
        let num_tokens: usize = episodes.iter().map(|episode| episode.reply.len()).sum();
        let score = mean(&mut episodes.iter().filter_map(|episode| episode.score));
        let spread = score.and_then(|centre| {
            mean(
                &mut episodes
                    .iter()
                    .filter_map(|episode| Some((episode.score? - centre).powi(2))),
            )
            .map(f64::sqrt)
        });
        let surprise = |episode: &Episode| -f64::from(episode.log_probs.iter().sum::<f32>());
        let mut facts: Vec<(String, Option<f64>)> = vec![
            ("reward".into(), score),
            ("reward_std".into(), spread),
            ("objective/entropy".into(), mean(&mut episodes.iter().map(surprise))),
            (
                "completions/mean_length".into(),
                mean(&mut episodes.iter().map(|episode| episode.reply.len() as f64)),
            ),
            (
                "completions/clipped_ratio".into(),
                mean(&mut episodes.iter().map(|episode| f64::from(u8::from(!episode.ended)))),
            ),
            (
                "rollout_tokens_per_second".into(),
                Some(num_tokens as f64 / seconds.max(1e-9)),
            ),
        ];
        if self.reference.is_some() {
            facts.push(("objective/kl".into(), mean(&mut episodes.iter().map(Episode::drift))));
        }
        for name in self.rewards.names() {
            let of = mean(&mut verdicts.iter().filter_map(|verdict| verdict.parts.get(name).copied()));
            facts.push((format!("rewards/{name}/mean"), of));
        }
        facts
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }
}
