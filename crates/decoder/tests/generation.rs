//! Generation against Transformers, and its laws: cached equals uncached, a batch equals each alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use checkpoint::ModelDir;
use decoder::{Decoder, EndTokens, GenerateOptions, KvCache, Sampler, Stop};
use tch::{Device, Kind, Tensor};
use tensor_core::{Documents, Pass};

fn load(name: &str) -> Decoder {
    let dir = ModelDir::open(&golden::vectors_dir().join("families").join(name)).expect("vectors open");
    Decoder::load(&dir, Device::Cpu, Kind::Float).expect("vectors load")
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    let list = value.as_array().expect("a list");
    list.iter().map(|id| id.as_u64().expect("a token") as u32).collect()
}

struct Row {
    model: String,
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    sampler: Sampler,
}

fn rows() -> Vec<Row> {
    let rows = golden::json("generation");
    let rows = rows.as_array().expect("a list").iter();
    rows.map(|row| Row {
        model: row["model"].as_str().expect("a name").to_owned(),
        prompt: ids(&row["prompt"]),
        tokens: ids(&row["tokens"]),
        sampler: Sampler {
            repetition_penalty: row["options"]["repetition_penalty"].as_f64().unwrap_or(1.0),
            ..Sampler::default()
        },
    })
    .collect()
}

fn options(sampler: Sampler, max_new_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens,
        sampler,
        end_tokens: EndTokens::Ignore,
        ..GenerateOptions::default()
    }
}

#[test]
fn greedy_tokens_equal_transformers() {
    let rows = rows();
    assert!(rows.len() >= 24);
    for row in rows {
        let model = load(&row.model);
        let mut heard = Vec::new();
        let answers = model
            .generate(
                std::slice::from_ref(&row.prompt),
                &options(row.sampler, 20),
                &mut |idx, token| {
                    heard.push((idx, token));
                },
            )
            .expect("generated");
        assert_eq!(answers[0].tokens, row.tokens, "{} {:?}", row.model, row.prompt);
        assert_eq!(answers[0].stopped, Stop::Length);
        assert_eq!(heard, row.tokens.iter().map(|&token| (0, token)).collect::<Vec<_>>());
    }
}

#[test]
fn a_batch_gives_what_each_prompt_gives_alone() {
    for name in ["llama-tied", "mistral-window", "gemma3"] {
        let model = load(name);
        let rows: Vec<Row> = rows()
            .into_iter()
            .filter(|row| row.model == name && row.sampler == Sampler::default())
            .collect();
        let prompts: Vec<Vec<u32>> = rows.iter().map(|row| row.prompt.clone()).collect();
        for (max_sequences, max_prefill_tokens) in [(32, 4096), (2, 4096), (2, 3), (1, 1)] {
            let options = GenerateOptions {
                max_sequences,
                max_prefill_tokens,
                ..options(Sampler::default(), 20)
            };
            let answers = model.generate(&prompts, &options, &mut |_, _| ()).expect("generated");
            for (answer, row) in answers.iter().zip(&rows) {
                assert_eq!(answer.tokens, row.tokens, "{name} {max_sequences} {max_prefill_tokens}");
            }
        }
    }
}

#[test]
fn a_sampled_sequence_does_not_depend_on_its_batch() {
    let model = load("llama-tied");
    let prompts: Vec<Vec<u32>> = (0..5).map(|i| vec![3 + i, 40, 7 * i + 4]).collect();
    let sampler = Sampler {
        temperature: 0.9,
        top_p: 0.95,
        seed: 3,
        ..Sampler::default()
    };
    let run = |max_sequences| {
        let options = GenerateOptions {
            max_sequences,
            ..options(sampler, 12)
        };
        let answers = model.generate(&prompts, &options, &mut |_, _| ()).expect("generated");
        answers.into_iter().map(|answer| answer.tokens).collect::<Vec<_>>()
    };
    assert_eq!(run(5), run(2));
    let other = Sampler { seed: 4, ..sampler };
    let answers = model
        .generate(&prompts, &options(other, 12), &mut |_, _| ())
        .expect("generated");
    assert_ne!(
        run(5),
        answers.into_iter().map(|answer| answer.tokens).collect::<Vec<_>>()
    );
}

#[test]
fn cached_passes_equal_one_whole_pass() {
    for name in ["llama-tied", "mistral-window", "qwen2-window", "qwen3-tied", "gemma3"] {
        let model = load(name);
        let tokens: Vec<i64> = (0..30).map(|i| (i * 37 + 5) % 97).collect();
        let whole = model.hidden(&Tensor::from_slice(&tokens), &Pass::evaluate(&Documents::new(&[30])));
        // Two sequences side by side: one pass of several tokens after another, then one token at a time.
        let cache = KvCache::new(2);
        let mut place = 0;
        for step in [7, 3, 1, 1, 1, 5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1] {
            let part = Tensor::from_slice(&tokens[place..place + step]);
            let documents = Documents::continuing(&[step, step], &[place, place]);
            let pass = Pass::evaluate(&documents).with_past(&cache);
            let hidden = model.hidden(&Tensor::cat(&[&part, &part], 0), &pass);
            for copy in 0..2 {
                let ours = hidden.narrow(0, (copy * step) as i64, step as i64);
                let theirs = whole.narrow(0, place as i64, step as i64);
                golden::assert_close(&format!("{name} at {place}"), &ours, &theirs, 1e-5, 2e-5);
            }
            place += step;
        }
        assert_eq!((place, cache.lengths()), (30, vec![30, 30]));
    }
}

#[test]
fn log_probs_are_the_models_own() {
    let model = load("qwen3-tied");
    let prompt = vec![5u32, 9, 33];
    let sampler = Sampler {
        temperature: 2.0,
        top_k: 40,
        seed: 1,
        ..Sampler::default()
    };
    let answer = &model
        .generate(std::slice::from_ref(&prompt), &options(sampler, 9), &mut |_, _| ())
        .expect("generated")[0];
    let whole: Vec<u32> = prompt.iter().chain(&answer.tokens).copied().collect();
    let scored = model
        .token_log_probs(&whole, &Documents::new(&[whole.len()]))
        .expect("scored");
    for (ours, theirs) in answer.log_probs.iter().zip(&scored[3..]) {
        assert!((ours - theirs).abs() < 1e-4, "{ours} {theirs}");
    }
    assert_eq!((scored[0], answer.log_probs.len()), (0.0, 9));
}

#[test]
fn a_sequence_ends_with_its_stop_token_or_at_the_last_position() {
    let model = load("llama-tied");
    let row = &rows()[0];
    let stopping = GenerateOptions {
        stop_ids: vec![row.tokens[3]],
        ..options(row.sampler, 20)
    };
    let answer = &model
        .generate(std::slice::from_ref(&row.prompt), &stopping, &mut |_, _| ())
        .expect("generated")[0];
    assert_eq!(
        (answer.tokens.as_slice(), answer.stopped),
        (&row.tokens[..4], Stop::Eos)
    );

    let long: Vec<u32> = (0..125).map(|i| i % 90 + 3).collect();
    let answer = &model
        .generate(&[long], &options(Sampler::default(), 20), &mut |_, _| ())
        .expect("generated")[0];
    assert_eq!((answer.tokens.len(), answer.stopped), (3, Stop::Context));
}

#[test]
fn an_interrupted_generation_keeps_what_was_written() {
    let model = load("llama-tied");
    let row = &rows()[0];
    let flag = Arc::new(AtomicBool::new(false));
    let options = GenerateOptions {
        interrupt: Some(flag.clone()),
        max_sequences: 1,
        ..options(row.sampler, 20)
    };
    let prompts = [row.prompt.clone(), row.prompt.clone()];
    let mut heard = 0;
    let answers = model
        .generate(&prompts, &options, &mut |_, _| {
            heard += 1;
            flag.store(heard == 3, Ordering::Relaxed);
        })
        .expect("generated");
    assert_eq!(
        (answers[0].tokens.as_slice(), answers[0].stopped),
        (&row.tokens[..3], Stop::Interrupted)
    );
    assert_eq!((answers[1].tokens.len(), answers[1].stopped), (0, Stop::Interrupted));
}

#[test]
fn bad_input_is_refused_with_its_place() {
    let model = load("llama-tied");
    let refused = |prompt: Vec<u32>, sampler| {
        let error = model
            .generate(&[vec![5], prompt], &options(sampler, 4), &mut |_, _| ())
            .unwrap_err();
        error.to_string()
    };
    let greedy = Sampler::default();
    let cases = [
        (
            refused(vec![], greedy),
            "prompt 1: wanted 1 to 127 tokens (the model sees 128 positions), found 0",
        ),
        (refused(vec![3; 128], greedy), "found 128"),
        (
            refused(vec![97], greedy),
            "prompt 1: wanted token ids below 97, found 97",
        ),
        (
            refused(vec![3], Sampler { top_p: 1.5, ..greedy }),
            "`top_p`: wanted 0 to 1, found 1.5",
        ),
        (
            refused(
                vec![3],
                Sampler {
                    temperature: -1.0,
                    ..greedy
                },
            ),
            "`temperature`: wanted 0 or more, found -1",
        ),
        (
            refused(
                vec![3],
                Sampler {
                    repetition_penalty: 0.0,
                    ..greedy
                },
            ),
            "`repetition_penalty`: wanted more than 0",
        ),
    ];
    for (error, wanted) in cases {
        assert!(error.contains(wanted), "{error}");
    }
    let classifier = load("llama-classifier-3");
    let error = classifier
        .generate(&[vec![5]], &options(greedy, 4), &mut |_, _| ())
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "generation needs a head for language modelling, found one for classification\n\
         hint: take a model that was trained for language modelling"
    );
}
