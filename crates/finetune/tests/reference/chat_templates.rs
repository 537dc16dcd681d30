//! The chat template that a model was trained with is the one that is loaded.

use std::path::Path;

use clap::Parser as _;
use data::{Chat, Ending, Message, Tokenizer};
use events::Events;
use finetune::args::MachineArgs;
use finetune::args::ModelArgs;
use finetune::cli::Cli;
use methods::apply;
use methods::peft::Adapter;
use methods::recipe::Recipe;
use models::Source;
use models::machine::{Dtype, Machine};
use serde_json::Value;
use session::adapters::AdapterArg;
use session::training::saving;
use session::training::sets::Sets;
use tch::{Device, Kind};

const OWN: &str = "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}";

fn tiny() -> String {
    golden::vectors_dir().join("gguf/tiny").display().to_string()
}

/// What a run of one recipe saves, without its steps.
fn save(folder: &Path, base: &str, surgery: &str, template: Option<&str>) {
    let template = template.map_or_else(String::new, |template| format!("chat_template = {template:?}\n"));
    let text = format!(
        "[model]\nname_or_path = {base:?}\n{template}\n[[surgery]]\nkind = \"{surgery}\"\n\n\
         [objective]\nkind = \"sft\"\n\n[data]\ntrain = [{{ path = \"rows.jsonl\" }}]\n"
    );
    std::fs::create_dir_all(folder).expect("a folder");
    std::fs::write(folder.join("own.jinja"), OWN).expect("a file");
    std::fs::write(folder.join("rows.jsonl"), "{\"text\": \"a\"}\n").expect("a file");
    std::fs::write(folder.join("recipe.toml"), text).expect("a file");
    let recipe = Recipe::read(&folder.join("recipe.toml"), &[]).expect("a recipe");
    let source = recipe.model.open(&Events::none()).expect("a model");
    let machine = Machine {
        device: Device::Cpu,
        kind: Kind::Float,
    };
    let adapted = apply(source.decoder(machine).expect("weights"), &recipe, &source).expect("surgery");
    let sets = Sets {
        train: Vec::new(),
        eval: Vec::new(),
        labels: None,
        margins: Vec::new(),
    };
    saving::save(folder, &adapted, &source, &sets).expect("saved");
}

fn rendered(tokenizer: &Tokenizer) -> String {
    let chat = Chat::new(vec![Message::new("user", "Hi"), Message::new("assistant", "Ho")]);
    let template = tokenizer.templates().choose(false).expect("a template");
    template
        .render(&chat, tokenizer.special(), Ending::Closed)
        .expect("rendered")
}

fn loaded(model: &str, adapter: Option<&Path>) -> String {
    let plain = |path: &Path| path.display().to_string().parse().expect("a folder");
    load(model, adapter.map(plain).into_iter().collect()).expect("loaded")
}

fn load(model: &str, adapter: Vec<AdapterArg>) -> Result<String, String> {
    let args = ModelArgs {
        model: model.to_owned(),
        revision: None,
        adapter,
        against: None,
        machine: MachineArgs {
            dtype: Some(Dtype::F32),
            device: Some("cpu".into()),
            threads: Some(1),
        },
    };
    let loaded = args
        .load(&Events::none())
        .map_err(|error| finetune::failure::text(&error))?;
    Ok(rendered(&loaded.tokenizer))
}

#[test]
fn what_was_trained_with_is_what_is_loaded() {
    let home = tempfile::tempdir().expect("a folder");
    let chatml = data::ChatTemplate::chatml().expect("compiles").source().to_owned();
    let before = loaded(&tiny(), None);
    for (surgery, template, text) in [
        ("lora", Some("chatml"), chatml.as_str()),
        ("lora", Some("own.jinja"), OWN),
        ("full", Some("own.jinja"), OWN),
        ("lora", None, ""),
        ("full", None, ""),
    ] {
        let folder = home.path().join(format!("{surgery}-{}", template.unwrap_or("none")));
        save(&folder, &tiny(), surgery, template);
        let written = std::fs::read_to_string(folder.join("chat_template.jinja")).expect("a template");
        let here = folder.display().to_string();
        let (model, adapter) = match surgery {
            "lora" => (tiny(), Some(folder.as_path())),
            _ => (here, None),
        };
        let said = loaded(&model, adapter);
        match template {
            None => assert_eq!(said, before),
            Some(_) => assert_eq!(written, text, "{surgery} {template:?}"),
        }
        if template == Some("own.jinja") {
            assert_eq!(said, "[user] Hi\n[assistant] Ho\n");
        }
    }
}

#[test]
fn a_template_goes_with_its_adapter_into_the_merged_model() {
    let home = tempfile::tempdir().expect("a folder");
    save(home.path(), &tiny(), "lora", Some("own.jinja"));
    let adapter = Adapter::open(home.path()).expect("an adapter");
    let source = Source::open(&tiny(), &Events::none())
        .expect("a model")
        .with_templates_of(adapter.path())
        .expect("a template");
    let to = home.path().join("merged");
    session::convert::Conversion {
        source: &source,
        adapter: Some(&adapter),
        dtype: None,
        device: Device::Cpu,
        existing: checkpoint::Existing::Refuse,
        verb: "merge",
        against: None,
        keep_zeros: false,
    }
    .write(&to)
    .expect("merged");
    assert_eq!(loaded(&to.display().to_string(), None), "[user] Hi\n[assistant] Ho\n");
}

#[test]
fn several_adapters_bring_one_template_or_are_refused() {
    let home = tempfile::tempdir().expect("a folder");
    let at = |name: &str| home.path().join(name).display().to_string();
    for (name, template) in [("a", "own.jinja"), ("b", "own.jinja"), ("c", "chatml")] {
        save(&home.path().join(name), &tiny(), "lora", Some(template));
    }
    let named = |names: [&str; 2]| {
        names
            .map(|name| format!("{name}={}", at(name)).parse().expect("an adapter"))
            .into()
    };
    let own = "[user] Hi\n[assistant] Ho\n";
    assert_eq!(load(&tiny(), named(["a", "b"])).as_deref(), Ok(own));
    let error = load(&tiny(), named(["a", "c"])).expect_err("refused");
    assert!(
        error.contains("chat template") && error.contains("one at a time"),
        "{error}"
    );
    // What comes of them brings it too, if it is one.
    for (second, wanted) in [("b", own.to_owned()), ("c", loaded(&tiny(), None))] {
        let (out, first, second) = (at(&format!("of-{second}")), at("a"), at(second));
        let args = [
            "finetune",
            "combine",
            "--adapter",
            &first,
            "--adapter",
            &second,
            "--output",
            &out,
            "--json",
        ];
        Cli::try_parse_from(args)
            .expect("arguments")
            .verb
            .run()
            .expect("combined");
        assert_eq!(loaded(&tiny(), Some(Path::new(&out))), wanted, "{second}");
    }
}

#[test]
fn no_other_place_keeps_the_template_that_was_replaced() {
    let home = tempfile::tempdir().expect("a folder");
    let base = home.path().join("base");
    std::fs::create_dir_all(base.join("additional_chat_templates")).expect("a folder");
    for entry in std::fs::read_dir(tiny()).expect("the tiny model").flatten() {
        std::fs::copy(entry.path(), base.join(entry.file_name())).expect("a copy");
    }
    std::fs::rename(
        base.join("chat_template.jinja"),
        base.join("additional_chat_templates/tool_use.jinja"),
    )
    .expect("moved");
    let path = base.join("tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).expect("a file")).expect("JSON");
    config["chat_template"] = "old".into();
    std::fs::write(&path, config.to_string()).expect("a file");
    let run = home.path().join("run");
    save(&run, &base.display().to_string(), "lora", Some("own.jinja"));
    assert!(!run.join("additional_chat_templates").exists());
    let saved: Value =
        serde_json::from_slice(&std::fs::read(run.join("tokenizer_config.json")).expect("a file")).expect("JSON");
    let mut wanted = config.as_object().expect("an object").clone();
    wanted.remove("chat_template");
    assert_eq!(saved.as_object(), Some(&wanted));
    // Without an override all of them go along.
    let plain = home.path().join("plain");
    save(&plain, &base.display().to_string(), "lora", None);
    assert!(
        plain.join("additional_chat_templates/tool_use.jinja").is_file() && !plain.join("chat_template.jinja").exists()
    );
}
