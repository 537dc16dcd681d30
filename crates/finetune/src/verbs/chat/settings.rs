//! How a chat's answers are drawn: by flags, by what the model recommends, by commands in the chat.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, bail};
use decoder::{GenerateOptions, Sampler};
use serde_json::{Map, Value};
use session::Loaded;
use tensor_core::AdapterRouting;

use crate::ranges;

/// What is used where neither a flag nor the model says otherwise: enough chance that answers do not run in circles.
const TEMPERATURE: f64 = 0.7;
const TOP_P: f64 = 0.9;
const REPETITION_PENALTY: f64 = 1.1;

/// The flags of `chat` that say how tokens are drawn.
#[derive(clap::Args, Clone, Debug, Default)]
pub(super) struct ChatArgs {
    /// The most tokens of an answer
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = ranges::count(1))]
    max_new_tokens: usize,
    /// How freely tokens are drawn: 0 always takes the likeliest one, 1 draws by the model's own probabilities
    /// [default: the model's, else 0.7]
    #[arg(long, value_name = "T", value_parser = ranges::at_least(0.0), allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Draw only from the likeliest tokens whose probabilities together reach P; 1 for all tokens
    /// [default: the model's, else 0.9]
    #[arg(long, value_name = "P", value_parser = ranges::between(0.0, 1.0), allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// Draw only from the K likeliest tokens; 0 for all tokens [default: the model's, else 0]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw only from tokens that have at least P times the likeliest token's probability; 0 for all tokens
    /// [default: the model's, else 0]
    #[arg(long, value_name = "P", value_parser = ranges::between(0.0, 1.0), allow_negative_numbers = true)]
    min_p: Option<f64>,
    /// Make tokens that the conversation already contains less likely: 1 changes nothing, 1.1 to 1.3 are usual
    /// [default: the model's, else 1.1; 1 with --temperature 0]
    #[arg(long, value_name = "X", value_parser = ranges::above(0.0), allow_negative_numbers = true)]
    repetition_penalty: Option<f64>,
    /// The seed of the random numbers: the same seed and turns give the same answers
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
}

/// The options of the next answer.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// The most tokens of an answer.
    pub(super) max_new_tokens: usize,
    /// How its tokens are drawn.
    pub(super) sampler: Sampler,
    /// The adapter that was chosen of several: its name, or none for the base alone.
    adapter: Option<(Option<String>, AdapterRouting)>,
}

/// A new value of one option.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Change {
    Temperature(f64),
    TopP(f64),
    TopK(usize),
    MinP(f64),
    RepetitionPenalty(f64),
    MaxNewTokens(usize),
    Seed(u64),
}

impl Change {
    /// The change that `/name value` asks for; none if no option has that name.
    pub(super) fn parse(name: &str, value: &str) -> Option<Result<Self, String>> {
        Some(match name {
            "temperature" => ranges::at_least(0.0)(value).map(Self::Temperature),
            "top-p" => ranges::between(0.0, 1.0)(value).map(Self::TopP),
            "top-k" => ranges::count(0)(value).map(Self::TopK),
            "min-p" => ranges::between(0.0, 1.0)(value).map(Self::MinP),
            "repetition-penalty" => ranges::above(0.0)(value).map(Self::RepetitionPenalty),
            "max-new-tokens" => ranges::count(1)(value).map(Self::MaxNewTokens),
            "seed" => ranges::count(0)(value).map(|seed| Self::Seed(seed as u64)),
            _ => return None,
        })
    }
}

impl Settings {
    /// Flags first, then what the model's `generation_config.json` recommends for sampling, then the defaults.
    pub(super) fn new(args: &ChatArgs, generation_config: Option<&Map<String, Value>>) -> Self {
        let samples = |config: &&Map<String, Value>| config.get("do_sample") == Some(&Value::Bool(true));
        let recommended = generation_config.filter(samples);
        let of_model = |key: &str| recommended.and_then(|config| config.get(key)?.as_f64());
        let greedy = args.temperature == Some(0.0);
        let given = |flag: Option<f64>, key: &str, default: f64| flag.or_else(|| of_model(key)).unwrap_or(default);
        let sampler = Sampler {
            temperature: given(args.temperature, "temperature", TEMPERATURE),
            top_p: given(args.top_p, "top_p", TOP_P),
            top_k: args
                .top_k
                .or_else(|| of_model("top_k").map(|k| k as usize))
                .unwrap_or(0),
            min_p: given(args.min_p, "min_p", 0.0),
            repetition_penalty: match (args.repetition_penalty, greedy) {
                (Some(penalty), _) => penalty,
                (None, true) => 1.0,
                (None, false) => of_model("repetition_penalty").unwrap_or(REPETITION_PENALTY),
            },
            seed: args.seed,
        };
        Self {
            max_new_tokens: args.max_new_tokens,
            // A model's recommendation that no sampler can follow is no reason to refuse the model.
            sampler: match sampler.check() {
                Ok(()) => sampler,
                Err(_) => Self::new(args, None).sampler,
            },
            adapter: None,
        }
    }

    /// As the decoder's options; `interrupt` ends the answer.
    pub(super) fn options(&self, loaded: &Loaded, interrupt: Option<Arc<AtomicBool>>) -> Result<GenerateOptions> {
        self.sampler.check()?;
        Ok(GenerateOptions {
            max_new_tokens: self.max_new_tokens,
            sampler: self.sampler,
            interrupt,
            mixes: match (&loaded.adapters, &self.adapter) {
                (Some(_), Some((_, mix))) => vec![mix.clone()],
                _ => Vec::new(),
            },
            ..GenerateOptions::default()
        })
    }

    /// The same turn again is answered by other random numbers.
    pub(super) fn next_seed(&mut self) {
        self.sampler.seed = self.sampler.seed.wrapping_add(1);
    }

    /// Changes an option.
    pub(super) fn change(&mut self, change: Change) {
        match change {
            Change::Temperature(value) => self.sampler.temperature = value,
            Change::TopP(value) => self.sampler.top_p = value,
            Change::TopK(value) => self.sampler.top_k = value,
            Change::MinP(value) => self.sampler.min_p = value,
            Change::RepetitionPenalty(value) => self.sampler.repetition_penalty = value,
            Change::MaxNewTokens(value) => self.max_new_tokens = value,
            Change::Seed(value) => self.sampler.seed = value,
        }
    }

    /// Chooses an adapter by its name, or the base alone; what to tell of it.
    pub(super) fn choose(&mut self, loaded: &Loaded, name: Option<&str>) -> Result<String> {
        let Some(names) = &loaded.adapters else {
            bail!(
                "there are no adapters to choose from\nhint: start the chat with `--adapter NAME=DIR` for each of them"
            )
        };
        let mix = match name {
            Some(name) => names.mix([(name, 1.0)])?,
            None => AdapterRouting::base(),
        };
        self.adapter = Some((name.map(str::to_owned), mix));
        Ok(match name {
            Some(name) => format!("`{name}` answers from here on"),
            None => format!("the base answers from here on; adapters: {}", names.names().join(", ")),
        })
    }

    /// The options in one line, and the instructions below.
    pub(super) fn shown(&self, system: Option<&str>) -> String {
        let Sampler {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            seed,
        } = self.sampler;
        let mut text = format!(
            "temperature {temperature}, top-p {top_p}, top-k {top_k}, min-p {min_p}, repetition-penalty {repetition_penalty}, \
             max-new-tokens {}, seed {seed}",
            self.max_new_tokens
        );
        if let Some((name, _)) = &self.adapter {
            let _ = write!(text, ", adapter {}", name.as_deref().unwrap_or("none"));
        }
        if let Some(system) = system {
            let _ = write!(text, "\nsystem: {system}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(args: &ChatArgs, config: Value) -> (f64, f64, usize, f64) {
        let Value::Object(config) = config else {
            panic!("an object")
        };
        let Sampler {
            temperature,
            top_p,
            top_k,
            repetition_penalty,
            ..
        } = Settings::new(args, Some(&config)).sampler;
        (temperature, top_p, top_k, repetition_penalty)
    }

    #[test]
    fn flags_come_before_the_model_s_recommendation_and_that_before_the_defaults() {
        let none = ChatArgs::default();
        let given = ChatArgs {
            temperature: Some(0.3),
            ..ChatArgs::default()
        };
        let greedy = ChatArgs {
            temperature: Some(0.0),
            ..ChatArgs::default()
        };
        let recommended = json!({"do_sample": true, "temperature": 0.6, "top_k": 20, "repetition_penalty": 1.05});
        assert_eq!(settings(&none, json!({})), (0.7, 0.9, 0, 1.1));
        assert_eq!(settings(&none, recommended.clone()), (0.6, 0.9, 20, 1.05));
        assert_eq!(settings(&given, recommended.clone()), (0.3, 0.9, 20, 1.05));
        // Greedy is what `generate` does: nothing but the likeliest token.
        assert_eq!(settings(&greedy, json!({})), (0.0, 0.9, 0, 1.0));
        // Without `do_sample`, Transformers does not use these numbers either.
        assert_eq!(settings(&none, json!({"temperature": 0.1})), (0.7, 0.9, 0, 1.1));
        assert_eq!(
            settings(&none, json!({"do_sample": true, "top_p": 7})),
            (0.7, 0.9, 0, 1.1)
        );
    }

    #[test]
    fn commands_change_options_within_their_ranges() {
        let mut settings = Settings::new(&ChatArgs::default(), None);
        for (name, value) in [
            ("temperature", "0"),
            ("top-k", "5"),
            ("seed", "9"),
            ("max-new-tokens", "3"),
        ] {
            settings.change(Change::parse(name, value).unwrap().unwrap());
        }
        let shown = settings.shown(Some("Be brief."));
        assert_eq!(
            shown,
            "temperature 0, top-p 0.9, top-k 5, min-p 0, repetition-penalty 1.1, max-new-tokens 3, seed 9\nsystem: Be brief."
        );
        assert!(Change::parse("top-p", "2").unwrap().is_err() && Change::parse("colour", "2").is_none());
    }
}
