//! Several adapters of PEFT on one model: each document computes what PEFT computes with its adapter, whatever else is
//! in its row.

use decoder::{Decoder, GenerateOptions, Sampler};
use events::Events;
use golden::{Vectors, assert_close};
use lora::AdapterNames;
use models::Source;
use models::machine::Machine;
use serde_json::json;
use session::adapters::{AdapterArg, Adapters, mix};
use tch::{Device, Kind, Tensor};
use tensor_core::{AdapterRouting, Documents};

const LENGTHS: [usize; 3] = [23, 6, 1];

fn base() -> Decoder {
    let machine = Machine {
        device: Device::Cpu,
        kind: Kind::Float,
    };
    let base = Source::open(
        &golden::vectors_dir().join("adapters/base").display().to_string(),
        &Events::none(),
    )
    .unwrap();
    base.decoder(machine).unwrap()
}

fn placed(args: &[String]) -> (Decoder, Option<AdapterNames>) {
    let args: Vec<AdapterArg> = args.iter().map(|arg| arg.parse().unwrap()).collect();
    Adapters::open(&args)
        .unwrap()
        .place(base(), "tiny", &Events::none())
        .unwrap()
}

fn folder(name: &str) -> String {
    golden::vectors_dir().join(name).display().to_string()
}

fn set() -> (Decoder, AdapterNames) {
    let args =
        ["first", "second", "third", "fourth"].map(|name| format!("{name}={}", folder(&format!("combine/{name}"))));
    let (model, names) = placed(&args);
    (model, names.unwrap())
}

/// The three documents as one row.
fn row(vectors: &Vectors) -> Tensor {
    let documents: Vec<Tensor> = (0..3).map(|idx| vectors.get(&format!("tokens.{idx}"))).collect();
    Tensor::cat(&documents, 0)
}

/// The logits of a packed row against PEFT's of each document alone.
fn check(model: &Decoder, documents: &Documents, cases: [&str; 3]) {
    let vectors = Vectors::open("combine");
    let logits = model.logits(&row(&vectors), documents);
    for ((idx, case), range) in cases.iter().enumerate().zip(documents.ranges()) {
        let found = logits.narrow(0, range.start as i64, range.len() as i64);
        // Logits of size ten, through two layers in f32.
        assert_close(
            &format!("{idx} {case}"),
            &found,
            &vectors.get(&format!("logits.{case}.{idx}")),
            1e-4,
            2e-4,
        );
    }
}

#[test]
fn each_document_of_a_row_computes_what_peft_computes_with_its_adapter() {
    let (model, names) = set();
    let one = |name: &str| mix(&names, Some(&json!(name))).unwrap();
    let plain = Documents::new(&LENGTHS);
    check(&model, &plain, ["first"; 3]);
    for cases in [
        ["second", "fourth", "first"],
        ["third", "third", "second"],
        ["fourth", "first", "third"],
    ] {
        check(&model, &plain.clone().with_routings(&cases.map(one)), cases);
    }
    let cat = mix(&names, Some(&json!({"first": 0.7, "second": -0.4, "fourth": 0.5}))).unwrap();
    let none = mix(&names, Some(&json!({}))).unwrap();
    check(
        &model,
        &plain.clone().with_routings(&[cat.clone(), one("second"), none.clone()]),
        ["cat", "second", "base"],
    );
    check(
        &model,
        &plain.clone().with_routings(&[none, cat, mix(&names, None).unwrap()]),
        ["base", "cat", "base"],
    );
    let weighted = ["first=0.7", "second=-0.4", "fourth=0.5"].map(|name| folder(&format!("combine/{name}")));
    check(&placed(&weighted).0, &plain, ["cat"; 3]);
}

#[test]
fn what_a_prompt_is_answered_does_not_depend_on_its_neighbours_adapters() {
    let (model, names) = set();
    let vectors = Vectors::open("combine");
    let tokens: Vec<u32> = vectors.integers("tokens.0").iter().map(|&token| token as u32).collect();
    let prompts: Vec<Vec<u32>> = (0..7).map(|idx| tokens[idx..idx + 5 + idx].to_vec()).collect();
    let shares = [
        json!("first"),
        json!("second"),
        json!({}),
        json!({"third": 0.5, "fourth": 2.0}),
        json!("second"),
    ];
    let mixes: Vec<AdapterRouting> = (0..7).map(|idx| mix(&names, Some(&shares[idx % 5])).unwrap()).collect();
    // Fewer places than prompts, and answers that end early: sequences come and go.
    let options = |mixes: Vec<AdapterRouting>| GenerateOptions {
        max_new_tokens: 9,
        sampler: Sampler {
            temperature: 0.7,
            seed: 3,
            ..Sampler::default()
        },
        max_sequences: 3,
        stop_ids: vec![4, 40, 41, 42, 43, 44, 45],
        mixes,
        ..GenerateOptions::default()
    };
    let together = model
        .generate(&prompts, &options(mixes.clone()), &mut |_, _| ())
        .unwrap();
    assert!(
        together.iter().any(|answer| answer.tokens.len() < 9) && together.iter().any(|answer| answer.tokens.len() > 4)
    );
    let greedy = |prompts: &[Vec<u32>], mixes: Vec<AdapterRouting>| {
        let options = GenerateOptions {
            sampler: Sampler::default(),
            ..options(mixes)
        };
        model.generate(prompts, &options, &mut |_, _| ()).unwrap()
    };
    let together = greedy(&prompts, mixes.clone());
    for (idx, (prompt, mix)) in prompts.iter().zip(&mixes).enumerate() {
        let alone = greedy(std::slice::from_ref(prompt), vec![mix.clone()]).remove(0);
        assert_eq!(together[idx].tokens, alone.tokens, "{idx}");
    }
    // The choice matters.
    let others = greedy(&prompts, vec![mixes[1].clone(); 7]);
    assert!(
        others
            .iter()
            .zip(&together)
            .any(|(other, own)| other.tokens != own.tokens)
    );
}

#[test]
fn log_probs_through_an_adapted_head_follow_each_document() {
    let args = [("head", "embedding-head"), ("all", "default"), ("regex", "regex")];
    let args = args.map(|(name, adapter)| format!("{name}={}", folder(&format!("adapters/{adapter}"))));
    let (model, names) = placed(&args);
    let names = names.unwrap();
    let vectors = Vectors::open("combine");
    // Long enough that the head is asked in several parts.
    let tokens: Vec<u32> = row(&vectors).iter::<i64>().unwrap().map(|token| token as u32).collect();
    let tokens: Vec<u32> = tokens.iter().copied().cycle().take(20 * tokens.len()).collect();
    let lengths = [100, 7, 93, 100, 100, 90, 110];
    let chosen = ["head", "all", "regex", "head", "head", "regex", "all"];
    let each = chosen.map(|name| mix(&names, Some(&json!(name))).unwrap());
    let documents = Documents::new(&lengths).with_routings(&each);
    let packed = model.token_log_probs(&tokens, &documents).unwrap();
    for (range, name) in documents.ranges().zip(chosen) {
        let adapter = args
            .iter()
            .find_map(|arg| arg.strip_prefix(&format!("{name}=")))
            .unwrap();
        let (alone, none) = placed(&[adapter.to_owned()]);
        assert!(none.is_none());
        let wanted = alone
            .token_log_probs(&tokens[range.clone()], &Documents::new(&[range.len()]))
            .unwrap();
        assert_close(
            name,
            &Tensor::from_slice(&packed[range]),
            &Tensor::from_slice(&wanted),
            1e-4,
            1e-4,
        );
    }
}

#[test]
fn adapters_that_cannot_stand_together_are_refused() {
    let open = |args: &[String]| -> String {
        let args: Vec<AdapterArg> = args.iter().map(|arg| arg.parse().unwrap()).collect();
        let placed = Adapters::open(&args).and_then(|adapters| adapters.place(base(), "tiny", &Events::none()));
        finetune::failure::text(&placed.map(|_| ()).unwrap_err())
    };
    let first = folder("combine/first");
    let check = |args: &[String], parts: &[&str]| {
        let error = open(args);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    check(
        &[first.clone(), folder("combine/second")],
        &["a name or a weight for each", "NAME=DIR", "DIR=WEIGHT"],
    );
    check(
        &[format!("a={first}"), format!("{first}=0.5")],
        &["a name or a weight for each"],
    );
    check(
        &[format!("a={first}"), format!("a={}", folder("combine/second"))],
        &["two adapters are called `a`"],
    );
    let whole = format!("b={}", folder("adapters/modules-to-save"));
    check(
        &[format!("a={first}"), whole],
        &["`b`", "modules_to_save", "load this adapter alone"],
    );
    let classifier = format!("b={}", folder("adapters/classifier"));
    check(&[format!("a={first}"), classifier], &["`b`", "classification head"]);
    let (_, names) = set();
    for (value, parts) in [
        (json!("fifth"), ["first, second, third, fourth", "`fifth`"]),
        (json!({"first": "much"}), ["found weight \"much\"", "`adapter`"]),
        (json!(3), ["wanted a name, or an object", "found 3"]),
    ] {
        let error = format!("{:#}", mix(&names, Some(&value)).unwrap_err());
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}
