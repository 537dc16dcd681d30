//! `finetune pipeline`: stages and studies as files, run by the command itself, outside the checkout.

use std::fs;

use super::command::{Answer, Home, answer, command, tiny};

/// What a tiny LoRA of this rank is trained by; braces of names are the file's.
fn recipe(home: &Home, rank: &str) -> String {
    format!(
        "[model]\nname_or_path = {:?}\ndtype = \"f32\"\n\n[[surgery]]\nkind = \"lora\"\nr = {rank}\nlora_alpha = 8\n\n\
         [objective]\nkind = \"sft\"\n\n[data]\ntrain = [{{ path = {:?} }}]\nmax_length = 96\nmax_tokens = 128\n\n\
         [train]\nmax_steps = {{steps}}\nper_device_train_batch_size = 4\nlearning_rate = 1e-2\nlogging_steps = 1\nsave_strategy = \"no\"\nreport_to = []\n",
        tiny().display().to_string(),
        home.chats(),
    )
}

fn suite(home: &Home) {
    let texts = home.texts();
    home.file(
        "suite.toml",
        &format!("[[task]]\nname = \"texts\"\nkind = \"perplexity\"\ndata = {texts:?}\nmax_length = 128\n"),
    );
}

fn pipeline(home: &Home, args: &[&str]) -> Answer {
    let mut command = command(home);
    command.arg("pipeline").args(args).current_dir(home.path());
    answer(command.output().unwrap())
}

const COLUMNS: &str = "[[column]]\nkey = \"after.texts.perplexity\"\nheading = \"perplexity\"\nform = \"digits\"\n";

#[test]
fn stages_build_on_one_another_and_are_told_in_one_report() {
    let home = Home::new();
    suite(&home);
    let model = tiny().display().to_string();
    let recipe = recipe(&home, "2").replace("{steps}", "4");
    let file = format!(
        "title = \"Two steps\"\nsuite = \"suite.toml\"\n{COLUMNS}\n\
         [[stage]]\nname = \"start\"\nmodel = [\"--model\", {model:?}, \"--dtype\", \"f32\"]\n\n\
         [[stage]]\nname = \"tuned\"\nrecipe = '''\n{recipe}'''\n\
         commands = [\"merge --model '{model}' --adapter {{out}}/run --output {{out}}/model\"]\n\
         model = [\"--model\", \"{{stages}}/tuned/model\", \"--dtype\", \"f32\"]\n"
    );
    home.file("two.toml", &file);
    let first = pipeline(&home, &["two.toml"]).works();
    for part in ["| start |", "| tuned |", "| from start to end |"] {
        assert!(first.stdout.contains(part), "{}", first.stdout);
    }
    let report = home.path().join("runs/pipeline/two/report.md");
    let text = fs::read_to_string(&report).unwrap();
    assert!(
        text.starts_with("# Two steps\n") && text.contains("`finetune pipeline two.toml`, "),
        "{text}"
    );
    assert!(
        text.contains("finetune merge --model") && text.contains("- `after.texts.perplexity` "),
        "{text}"
    );
    assert!(
        home.path()
            .join("runs/pipeline/two/tuned/model/model.safetensors")
            .is_file()
    );

    // What is finished needs nothing any more; `--again` does.
    fs::remove_file(home.path().join("chats.jsonl")).unwrap();
    let second = pipeline(&home, &["two.toml"]).works();
    assert_eq!(first.stdout, second.stdout);
    let failed = pipeline(&home, &["two.toml", "--again"]);
    failed.fails_with(1, &["stage `tuned` of `two.toml`", "chats.jsonl"]);
}

#[test]
fn a_study_is_run_with_every_seed_and_held_against_its_claim() {
    let home = Home::new();
    suite(&home);
    let model = tiny().display().to_string();
    let file = format!(
        "title = \"Ranks\"\nclaim = \"More is\\nnot less.\"\ndraw = \"train.loss\"\n\n\
         [text]\nsteps = \"{{= 2 * scale}}\"\nrecipe = '''\n{}'''\n\n{COLUMNS}\n\
         [[column]]\nkey = \"train.loss\"\nheading = \"loss\"\nform = \"digits\"\ndigits = 4\n\n\
         [[arm]]\nname = \"base\"\nonce = true\nsteps = [{{ evaluate = \"after\", model = \"--model '{model}' --dtype f32\", suite = \"suite.toml\" }}]\n\n\
         [[arm]]\nname = \"rank {{rank}}\"\neach = [{{ rank = \"1\" }}, {{ rank = \"2\" }}]\nsteps = [\n\
         {{ train = \"train\", recipe = \"{{recipe}}\" }},\n\
         {{ evaluate = \"after\", model = \"--model '{model}' --adapter {{out}}/train --dtype f32\", suite = \"suite.toml\" }},\n]\n\n\
         [value]\nbase = \"mean('base', 'after.texts.perplexity')\"\n\n\
         [[verdict]]\nstatement = \"training changes the base ({{base:.2}})\"\nholds = \"abs(mean('rank 2', 'after.texts.perplexity') / base - 1) > 0\"\n",
        recipe(&home, "{rank}"),
    );
    home.file("ranks.toml", &file);
    let answer = pipeline(&home, &["ranks.toml", "--seeds", "2", "--page", "pages"]).works();
    assert!(
        answer.stdout.contains("holds: training changes the base ("),
        "{}",
        answer.stdout
    );
    let page = fs::read_to_string(home.path().join("pages/ranks.md")).unwrap();
    for part in [
        "# Ranks\n\nMore is not less.\n\n`finetune pipeline ranks.toml --seeds 2`, ",
        "; seeds 0 to 1.\n\n| | perplexity | loss |\n|---|---|---|\n| base | ",
        "\n| rank 1 | ",
        "![loss](ranks.svg)\n\n- holds: training changes the base (",
        "\n## What was run\n\nbase:\n\n```\nfinetune evaluate --model ",
        "max_steps = 2",
    ] {
        assert!(page.contains(part), "`{part}` in {page}");
    }
    let row = page.lines().find(|line| line.starts_with("| rank 2 |")).unwrap();
    assert_eq!(row.matches(" ± ").count(), 2, "{row}");
    // A dot for each seed of each arm that was trained.
    let svg = fs::read_to_string(home.path().join("pages/ranks.svg")).unwrap();
    assert_eq!(svg.matches("<circle").count(), 4);
    assert!(home.path().join("runs/reproduce/ranks/rank-2-1/result.json").is_file());
}

#[test]
fn a_wrong_file_is_refused_with_its_line_before_anything_is_run() {
    let home = Home::new();
    let head = format!("title = \"t\"\nsuite = \"s.toml\"\n{COLUMNS}");
    home.file(
        "near.toml",
        &format!("{head}[[stage]]\nname = \"a\"\nmodle = [\"m\"]\n"),
    );
    home.file(
        "twice.toml",
        &format!("{head}[[stage]]\nname = \"a\"\nmodel = [\"m\"]\n[[stage]]\nname = \"a\"\nmodel = [\"m\"]\n"),
    );
    home.file(
        "stage.toml",
        &format!("{head}[[stage]]\nname = \"a\"\nmodel = [\"m\"]\n"),
    );
    for (args, parts) in [
        (
            &["near.toml"][..],
            &["`near.toml:9`", "found `modle`", "hint: did you mean `model`?"][..],
        ),
        (
            &["twice.toml"],
            &["`twice.toml:11`", "stage `a`", "wanted a name of its own"],
        ),
        (
            &["stage.toml", "--full"],
            &["`stage.toml`", "`--full` and `--seeds` are for studies"],
        ),
        (&["chapter-7"], &["`chapter-7`", "hint: did you mean `chapter-6`?"]),
        (&["nothing.toml"], &["`nothing.toml`", "found neither", "dora"]),
    ] {
        pipeline(&home, args).fails_with(1, parts);
    }
    assert!(!home.path().join("runs").exists());
    let listed = pipeline(&home, &["--list"]).works();
    assert!(
        listed
            .stdout
            .lines()
            .any(|line| line.starts_with("dora ") && line.contains("half the rank"))
    );
}
