//! Weights in 4 bits through the command: bitsandbytes' own files, LoRA over them, merging, small adapters.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use decoder::{Decoder, projection_paths};
use events::Events;
use finetune::cli::Cli;
use golden::{Vectors, assert_close};
use lora::{LoraConfig, Wrapping};
use methods::peft::Adapter;
use methods::recipe::Recipe;
use methods::{apply, load as load_recipe};
use models::Source;
use models::machine::{Dtype, Machine};
use models::quantised::Quantisation;
use quant::codec::Scheme;
use quant::{QuantizeConfig, Quantizing};
use tch::{Device, Kind, Tensor};
use tensor_core::{Documents, ModulePath, named_params};

const F32: Machine = Machine {
    device: Device::Cpu,
    kind: Kind::Float,
};

fn vectors(name: &str) -> PathBuf {
    golden::vectors_dir().join(name)
}

fn base() -> Source {
    Source::open(text(&vectors("quant/llama-dense")), &Events::none()).unwrap()
}

/// Runs the command in this process; its failure as text.
fn run(args: &[&str]) -> Result<(), String> {
    let cli = Cli::try_parse_from(["finetune"].iter().chain(args)).map_err(|error| error.to_string())?;
    cli.verb
        .run()
        .map(|_| ())
        .map_err(|error| finetune::failure::text(&error))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn load(folder: &Path) -> Decoder {
    Source::open(text(folder), &Events::none())
        .unwrap()
        .decoder(F32)
        .unwrap()
}

fn logits(model: &Decoder) -> Tensor {
    let tokens = Vectors::open("quant/llama-nf4").get("tokens.0");
    model.logits(&tokens, &Documents::new(&[tokens.size()[0] as usize]))
}

#[test]
fn bitsandbytes_models_say_here_what_they_say_there() {
    for (name, kind) in [
        ("llama-nf4", Kind::Float),
        ("llama-nf4-nested", Kind::Float),
        ("llama-fp4-bf16", Kind::BFloat16),
    ] {
        let golden = Vectors::open(&format!("quant/{name}"));
        let source = Source::open(text(&vectors(&format!("quant/{name}"))), &Events::none()).unwrap();
        let model = source.decoder(Machine { kind, ..F32 }).unwrap();
        let is_packed = |at: &ModulePath, kind| at.name() == "weight" && kind == Kind::Uint8;
        let packed = named_params(&model)
            .iter()
            .filter(|(at, param)| is_packed(at, param.value().kind()))
            .count();
        assert_eq!(packed, 14, "{name}: every projection but the head is held in 4 bits");
        for idx in 0..3 {
            let tokens = golden.get(&format!("tokens.{idx}"));
            let found = model.logits(&tokens, &Documents::new(&[tokens.size()[0] as usize]));
            let wanted = golden.get(&format!("logits.{idx}"));
            // f32 sums in another order; in bf16 a few roundings of 2^-8 of logits of size four.
            let allowed = if kind == Kind::Float { 1e-4 } else { 0.15 };
            assert_close(&format!("{name} {idx}"), &found, &wanted, 0.0, allowed);
            // And not because nothing was quantised.
            let off = (&wanted - golden.get(&format!("dense.{idx}")))
                .abs()
                .max()
                .double_value(&[]);
            assert!(off > 0.1, "{off}");
        }
    }
}

#[test]
fn a_quantised_model_is_the_one_that_bitsandbytes_writes() {
    let home = tempfile::tempdir().unwrap();
    let from = vectors("quant/llama-dense");
    for (name, flags) in [
        ("llama-nf4", &["--scheme", "nf4", "--dtype", "f32"][..]),
        ("llama-nf4-nested", &["--double-quant", "--dtype", "f32"]),
        ("llama-fp4-bf16", &["--scheme", "fp4", "--double-quant"]),
    ] {
        let folder = home.path().join(name);
        let args = ["quantize", "--model", text(&from), "--output", text(&folder), "--json"];
        run(&[&args[..], flags].concat()).unwrap();
        let theirs = vectors("quant").join(name);
        let same = |file: &str| fs::read(folder.join(file)).unwrap() == fs::read(theirs.join(file)).unwrap();
        assert!(same("config.json"), "{name}");
        if name == "llama-nf4" {
            assert!(same("model.safetensors"), "{name}");
            continue;
        }
        // Their mean of the scales is summed in f32, ours in f64: what is reckoned from it may differ in the last bit, no
        // code does.
        let (ours, theirs) = (load(&folder), load(&theirs));
        for ((at, ours), (_, theirs)) in named_params(&ours).iter().zip(named_params(&theirs)) {
            if at.name() == "nested_absmax" {
                assert_close(&format!("{name}: {at}"), ours.value(), theirs.value(), 1e-6, 0.0);
            } else {
                assert!(ours.value().equal(theirs.value()), "{name}: {at}");
            }
        }
        assert_close(name, &logits(&ours), &logits(&theirs), 1e-5, 1e-5);
    }
    let (again, model) = (home.path().join("again"), home.path().join("llama-nf4"));
    for (model, flags, wanted) in [
        (&model, &[][..], "in 4 bits already"),
        (&from, &["--skip-modules", "norm"], "`norm` in `skip_modules`"),
        (&from, &["--skip-modules", "mlp"], "tied to the embedding"),
        (&from, &["--scheme", "int8"], "no checkpoint format"),
    ] {
        let args = ["quantize", "--model", text(model), "--output", text(&again)];
        let error = run(&[&args[..], flags].concat()).unwrap_err();
        assert!(error.contains(wanted), "`{wanted}` in: {error}");
    }
    assert!(!again.exists());
}

/// LoRA with a B that is not zero over the base as `config` packs it, and the files of its adapter.
fn qlora(folder: &Path, config: &QuantizeConfig) -> Decoder {
    let source = base();
    let paths = projection_paths(source.dir().config());
    let quantizing = Quantizing::choose(config.clone(), &paths).unwrap();
    let model = source
        .decoder_with(F32, &mut |at, base| quantizing.projection(at, base))
        .unwrap();
    let lora = LoraConfig {
        r: 4,
        init_lora_weights: lora::Init::Random,
        ..LoraConfig::default()
    };
    let wrapping = Wrapping::choose(lora.clone(), &paths, &[]).unwrap();
    let model = model
        .map_projections(&mut |at, base| wrapping.projection(at, base))
        .unwrap();
    let targets: Vec<ModulePath> = wrapping.chosen().cloned().collect();
    let file = lora::to_peft_config(&lora, Some("base"), "CAUSAL_LM", &targets);
    fs::create_dir_all(folder).unwrap();
    methods::peft::save_adapter(folder, file, &lora::adapter_tensors(&model)).unwrap();
    let quantisation = Quantisation {
        config: config.clone(),
        dtype: Dtype::F32,
    };
    quantisation.save(folder).unwrap();
    assert_eq!(Quantisation::of_adapter(folder).unwrap(), Some(quantisation));
    model
}

#[test]
fn a_model_written_dense_is_what_its_codes_stand_for() {
    let home = tempfile::tempdir().unwrap();
    let from = vectors("quant/llama-dense");
    for (scheme, flags) in [("nf4", &["--double-quant"][..]), ("int4", &[]), ("int8", &[])] {
        let folder = home.path().join(scheme);
        let args = [
            "quantize",
            "--model",
            text(&from),
            "--output",
            text(&folder),
            "--dense",
            "--dtype",
            "f32",
        ];
        run(&[&args[..], &["--scheme", scheme], flags].concat()).unwrap();
        assert!(
            !Source::open(text(&folder), &Events::none())
                .unwrap()
                .dir()
                .config()
                .is_quantised()
        );
        let config = QuantizeConfig {
            scheme: serde_json::from_value(scheme.into()).unwrap(),
            double_quant: !flags.is_empty(),
            ..QuantizeConfig::default()
        };
        let quantizing = Quantizing::choose(config, &projection_paths(base().dir().config())).unwrap();
        let packed = base()
            .decoder_with(F32, &mut |at, base| quantizing.projection(at, base))
            .unwrap();
        // The same numbers, multiplied by another kernel.
        assert_close(scheme, &logits(&load(&folder)), &logits(&packed), 1e-5, 1e-5);
    }
}

#[test]
fn an_adapter_over_packed_weights_merges_into_what_it_was_trained_over() {
    let home = tempfile::tempdir().unwrap();
    let from = vectors("quant/llama-dense");
    for scheme in [Scheme::Nf4, Scheme::Int8] {
        let config = QuantizeConfig {
            scheme,
            double_quant: true,
            ..QuantizeConfig::default()
        };
        let [adapter, merged, dense] = ["a", "m", "d"].map(|name| home.path().join(format!("{scheme}-{name}")));
        let wanted = logits(&qlora(&adapter, &config));
        let args = ["merge", "--model", text(&from), "--adapter", text(&adapter), "--output"];
        run(&[&args[..], &[text(&merged)]].concat()).unwrap();
        run(&[&args[..], &[text(&dense), "--against", "dense"]].concat()).unwrap();
        assert_close("merged", &logits(&load(&merged)), &wanted, 1e-4, 1e-4);
        let plain = logits(
            &Adapter::open(&adapter)
                .unwrap()
                .place(base().decoder(F32).unwrap())
                .unwrap(),
        );
        assert_close("against dense", &logits(&load(&dense)), &plain, 1e-4, 1e-4);
        let apart = (plain - &wanted).abs().max().double_value(&[]);
        assert!(apart > 1e-3, "the two differ by what packing did: {apart}");
    }
}

#[test]
fn an_adapter_merges_into_a_4_bit_model_and_the_result_is_dense() {
    let home = tempfile::tempdir().unwrap();
    let (adapter, merged) = (home.path().join("adapter"), home.path().join("merged"));
    let trained = qlora(&adapter, &QuantizeConfig::default());
    let four_bits = vectors("quant/llama-nf4");
    // Over the 4-bit model itself the adapter is what it was trained as, bit for bit.
    let placed = Adapter::open(&adapter).unwrap().place(load(&four_bits)).unwrap();
    assert!(logits(&placed).equal(&logits(&trained)));
    let args = [
        "merge",
        "--model",
        text(&four_bits),
        "--adapter",
        text(&adapter),
        "--output",
        text(&merged),
    ];
    let error = run(&[&args[..], &["--against", "dense"]].concat()).unwrap_err();
    assert!(error.contains("the dense weights are not there"), "{error}");
    run(&args).unwrap();
    assert!(
        !Source::open(text(&merged), &Events::none())
            .unwrap()
            .dir()
            .config()
            .is_quantised()
    );
    assert_close("merged", &logits(&load(&merged)), &logits(&trained), 1e-4, 1e-4);
}

#[test]
fn a_quantised_adapter_is_nearly_the_same_and_opens_as_any_other() {
    let home = tempfile::tempdir().unwrap();
    let adapter = Adapter::open(&vectors("adapters/embedding-head")).unwrap();
    let base = || load(&vectors("adapters/base"));
    let plain = logits(&adapter.place(base()).unwrap());
    for (bits, allowed) in [("8", 0.02), ("4", 0.3)] {
        let folder = home.path().join(bits);
        let args = [
            "quantize",
            "--adapter",
            text(adapter.path()),
            "--bits",
            bits,
            "--output",
            text(&folder),
        ];
        run(&args).unwrap();
        let small = Adapter::open(&folder).unwrap();
        for ((name, found), (_, wanted)) in small.tensors().iter().zip(adapter.tensors()) {
            assert_eq!((found.size(), found.kind()), (wanted.size(), wanted.kind()), "{name}");
        }
        let found = logits(&small.place(base()).unwrap());
        let off = (found - &plain).square().mean(Kind::Double).sqrt().double_value(&[]);
        let spread = plain.std(true).double_value(&[]);
        assert!(
            off > 0.0 && off < allowed * spread,
            "{bits} bits: logits are off by {off} of {spread}"
        );
        assert!(run(&args).unwrap_err().contains("is there already"));
    }
}

/// The model that this recipe's surgeries make, before the first step.
fn adapted(surgeries: &str) -> Decoder {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("recipe.toml");
    let base = vectors("quant/llama-dense");
    let recipe = format!(
        "[model]\nname_or_path = {:?}\n{surgeries}\n[objective]\nkind = \"sft\"\n[data]\ntrain = [{{ path = \"none.jsonl\" }}]\n",
        text(&base)
    );
    fs::write(&path, recipe).unwrap();
    fs::write(home.path().join("none.jsonl"), "{\"text\": \"a\"}\n").unwrap();
    let recipe = Recipe::read(&path, &[]).unwrap();
    let source = recipe.model.open(&Events::none()).unwrap();
    let model = load_recipe(&source, F32, &recipe).unwrap();
    apply(model, &recipe, &source).unwrap().model
}

#[test]
fn loftq_begins_nearer_to_the_dense_model_than_the_quantised_one() {
    let quantize = "[[surgery]]\nkind = \"quantize\"\nscheme = \"fp4\"\n";
    let lora = |init: &str| {
        format!(
            "{quantize}[[surgery]]\nkind = \"lora\"\nr = 12\nlora_alpha = 20\ninit_lora_weights = {init}\ntarget_modules = \"all-linear\"\n"
        )
    };
    let dense = logits(&base().decoder(F32).unwrap());
    let off = |model: &Decoder| {
        (logits(model) - &dense)
            .square()
            .mean(Kind::Double)
            .sqrt()
            .double_value(&[])
    };
    let (plain, loftq) = (off(&adapted(&lora("true"))), off(&adapted(&lora("\"loftq\""))));
    // Twelve of the sixteen or more directions of each matrix are mended.
    assert!(loftq < 0.7 * plain, "off by {loftq}, and by {plain} without");
}

#[test]
fn adapters_over_packed_weights_are_combined_into_one_that_says_what_it_is_for() {
    let home = tempfile::tempdir().unwrap();
    let nf4 = QuantizeConfig::default();
    let int8 = QuantizeConfig {
        scheme: Scheme::Int8,
        ..QuantizeConfig::default()
    };
    let [first, second, other, both] = ["first", "second", "other", "both"].map(|name| home.path().join(name));
    for (folder, config) in [(&first, &nf4), (&second, &nf4), (&other, &int8)] {
        qlora(folder, config);
    }
    let combine = |a: &Path, b: &Path| {
        run(&[
            "combine",
            "--adapter",
            text(a),
            "--adapter",
            text(b),
            "--base-model",
            "base",
            "--output",
            text(&both),
        ])
    };
    let error = combine(&first, &other).unwrap_err();
    for part in ["was trained over nf4 weights", "over int8 weights", "hint: "] {
        assert!(error.contains(part), "`{part}` in: {error}");
    }
    assert!(!both.exists());
    combine(&first, &second).unwrap();
    assert_eq!(
        Quantisation::of_adapter(&both).unwrap(),
        Quantisation::of_adapter(&first).unwrap()
    );
}
