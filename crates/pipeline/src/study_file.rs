//! The file of a study.
//!
//! ```toml
//! title = "DoRA at half the rank against LoRA"
//! claim = "…"                              # what the paper says, and what this leaves out
//! fetch = ["smollm2-135m-instruct"]        # models and data by name
//! draw = "train.eval/held_out_loss"        # the measure of the plot, a bar for each arm
//!
//! [text]                                   # named in braces by what follows: {sft}
//! sft = "…"
//!
//! [[column]]                               # of the table, a mean and a spread over the seeds
//! key = "train.eval/held_out_loss"
//! heading = "held-out loss"
//! form = "digits"                          # share, digits or gigabytes
//! digits = 4
//!
//! [[arm]]                                  # a row of the table, run once for each seed
//! name = "{method}, rate {rate}"
//! each = [{ method = "LoRA", rate = "5e-4" }, { method = "LoRA", rate = "1e-3" }]    # an arm for each, with these texts
//! steps = [
//!   { train = "train", recipe = "{sft}" },
//!   { evaluate = "after", model = "--model m --adapter {out}/train", suite = "chapter.toml" },
//! ]
//!
//! [value]                                  # of the verdicts
//! lora = "min(mean('LoRA, rate 5e-4', 'train.loss'), mean('LoRA, rate 1e-3', 'train.loss'))"
//!
//! [[verdict]]
//! statement = "LoRA's loss is below 2 ({lora:.4})"
//! holds = "lora < 2"
//! ```
//!
//! Other steps: `{ run = "merge …" }`, `{ numbers = "pruning", file = "{out}/model/pruning.json" }`, and
//! `{ ask = "asked", config = "…", rows = "…", count = 24 }`. `once = true` in an arm: no seed changes it.
//! `[[derived]]` makes a measure (`key`) of a cell's others (`value`, with `measure('KEY')`).
//! `{= 40 * scale}` is a number; `scale` is 1, or 4 in a full run.

use crate::claim::{Claim, Claims};
use crate::read::Source;
use crate::results::Results;
use crate::study::{Arm, Column, Form, Step, Study};
use crate::template::Scope;
use anyhow::{Result, bail};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use toml::Spanned;

type Texts = BTreeMap<String, String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: String,
    claim: String,
    #[serde(default)]
    fetch: Vec<String>,
    #[serde(default)]
    rows_of_studies: bool,
    draw: Spanned<String>,
    #[serde(default)]
    text: Texts,
    column: Vec<ColumnOfFile>,
    arm: Vec<ArmOfFile>,
    #[serde(default)]
    derived: Vec<Derived>,
    #[serde(default)]
    value: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    verdict: Vec<VerdictOfFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ColumnOfFile {
    key: String,
    heading: String,
    form: FormOfFile,
    digits: Option<Spanned<usize>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FormOfFile {
    Share,
    Digits,
    Gigabytes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ArmOfFile {
    name: Spanned<String>,
    #[serde(default)]
    once: bool,
    #[serde(default)]
    each: Vec<Texts>,
    steps: Vec<Spanned<StepOfFile>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepOfFile {
    train: Option<String>,
    run: Option<String>,
    ask: Option<String>,
    numbers: Option<String>,
    evaluate: Option<String>,
    recipe: Option<String>,
    config: Option<String>,
    rows: Option<String>,
    count: Option<usize>,
    file: Option<String>,
    model: Option<String>,
    suite: Option<String>,
    /// Texts for this step alone.
    #[serde(default)]
    with: Texts,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Derived {
    key: String,
    value: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VerdictOfFile {
    statement: Spanned<String>,
    holds: String,
}

/// Whether the file is a study's.
pub(crate) fn is_study(text: &str) -> bool {
    text.parse::<toml::Table>().is_ok_and(|table| table.contains_key("arm"))
}

/// A study with `scale` times the rows and steps; errors say where the file is wrong, and how.
pub(crate) fn read(name: &str, source: Source, scale: usize) -> Result<Study> {
    let file: File = source.parse()?;
    file.every_text_is_used(&source)?;
    let scope = Scope::new(&file.text, scale);
    let mut arms: Vec<Arm> = Vec::new();
    let mut names = BTreeSet::new();
    let one = [Texts::new()];
    for arm in &file.arm {
        let rows = if arm.each.is_empty() { &one[..] } else { &arm.each };
        for row in rows {
            let at = arm.name.span().start;
            let made = arm.made(&source, &scope.with(row))?;
            if !names.insert(made.name.clone()) {
                return Err(source.error(
                    at,
                    &format!(
                        "arm `{}`: wanted a name of its own, found one that an earlier arm has",
                        made.name
                    ),
                ));
            }
            arms.push(made);
        }
    }
    if arms.is_empty() {
        return Err(source.error(0, "wanted at least one `[[arm]]`, found none"));
    }
    let columns = file.column.iter().map(|column| column.made(&source));
    let columns: Vec<Column> = columns.collect::<Result<_>>()?;
    if !columns.iter().any(|column| column.key == *file.draw.as_ref()) {
        let known: Vec<&str> = columns.iter().map(|column| column.key.as_str()).collect();
        let what = format!(
            "`draw`: wanted a column's key, one of `{}`, found `{}`",
            known.join("`, `"),
            file.draw.as_ref()
        );
        return Err(source.error(file.draw.span().start, &what));
    }
    let mut study = Study {
        name: name.to_owned(),
        title: file.title,
        claim: file.claim.split_whitespace().collect::<Vec<_>>().join(" "),
        fetch: file.fetch,
        rows_of_studies: file.rows_of_studies,
        arms,
        columns,
        drawn: file.draw.into_inner(),
        derived: Vec::new(),
        claims: Claims {
            values: Texts::new(),
            claims: Vec::new(),
        },
    };
    for derived in &file.derived {
        study.derived = vec![(derived.key.clone(), derived.value.as_ref().clone())];
        let at = derived.value.span().start;
        study
            .derive(&mut BTreeMap::new())
            .map_err(|error| source.error(at, &format!("{error:#}")))?;
    }
    study.derived = file
        .derived
        .into_iter()
        .map(|derived| (derived.key, derived.value.into_inner()))
        .collect();
    let wrong = |name: &str, error: anyhow::Error| {
        let at = file.value.get(name).map_or(0, |value| value.span().start);
        source.error(at, &format!("`value.{name}`: {error:#}"))
    };
    for (name, value) in &file.value {
        let value = scope.fill(value.as_ref()).map_err(|error| wrong(name, error))?;
        study.claims.values.insert(name.clone(), value);
    }
    for name in file.value.keys() {
        study
            .claims
            .check(&study.arms, name)
            .map_err(|error| wrong(name, error))?;
    }
    let mut claims = Vec::new();
    for verdict in &file.verdict {
        let wrong = |error: anyhow::Error| source.error(verdict.statement.span().start, &format!("{error:#}"));
        let claim = Claim {
            statement: verdict.statement.as_ref().clone(),
            holds: scope.fill(&verdict.holds).map_err(wrong)?,
        };
        study.claims.claims = vec![claim.clone()];
        // Of nothing at all: what is wrong with the expression is told before hours of work.
        study.verdicts(&Results::default()).map_err(wrong)?;
        claims.push(claim);
    }
    study.claims.claims = claims;
    Ok(study)
}

impl File {
    /// A text that nothing names is a slip: the arm that wants it takes another, or none.
    fn every_text_is_used(&self, source: &Source) -> Result<()> {
        let steps = self.arm.iter().flat_map(|arm| &arm.steps);
        let own = self.arm.iter().flat_map(|arm| &arm.each);
        let names = self.text.keys();
        let names = names.chain(own.flat_map(Texts::keys));
        for name in names.chain(steps.flat_map(|step| step.as_ref().with.keys())) {
            let reckoned = |part: &str| {
                part.split('}')
                    .next()
                    .is_some_and(|expression| has_word(expression, name))
            };
            let is_used =
                source.text.contains(&format!("{{{name}}}")) || source.text.split("{= ").skip(1).any(reckoned);
            if !is_used {
                let at = source.text.find(&format!("{name} =")).unwrap_or_default();
                let what =
                    format!("`{name}`: wanted a text that is named in braces, `{{{name}}}`, found none that names it");
                return Err(source.error(at, &what));
            }
        }
        Ok(())
    }
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .any(|part| part == word)
}

impl ColumnOfFile {
    fn made(&self, source: &Source) -> Result<Column> {
        let form = match (self.form, &self.digits) {
            (FormOfFile::Digits, digits) => Form::Digits(digits.as_ref().map_or(2, |digits| *digits.as_ref())),
            (_, Some(digits)) => {
                let what = "`digits` is for `form = \"digits\"`, found another form";
                return Err(source.error(digits.span().start, what));
            }
            (FormOfFile::Share, None) => Form::Share,
            (FormOfFile::Gigabytes, None) => Form::Gigabytes,
        };
        Ok(Column {
            key: self.key.clone(),
            heading: self.heading.clone(),
            form,
        })
    }
}

impl ArmOfFile {
    fn made(&self, source: &Source, scope: &Scope) -> Result<Arm> {
        let wrong = |at: usize, error: anyhow::Error| source.error(at, &format!("{error:#}"));
        let name = scope.fill(self.name.as_ref());
        let name = name.map_err(|error| wrong(self.name.span().start, error))?;
        let mut steps = Vec::new();
        for step in &self.steps {
            let made = step.as_ref().made(scope);
            steps.push(made.map_err(|error| wrong(step.span().start, error.context(format!("arm `{name}`"))))?);
        }
        Ok(Arm {
            name,
            steps,
            has_chance: !self.once,
        })
    }
}

impl StepOfFile {
    fn made(&self, scope: &Scope) -> Result<Step> {
        let scope = &scope.with(&self.with);
        let fill = |text: &Option<String>, key: &str| match text {
            Some(text) => scope.fill(text),
            None => bail!("this step wants `{key}`, found none"),
        };
        let words = |text: String| match shlex::split(&text) {
            Some(words) => Ok(words),
            None => bail!("`{text}`: wanted a command line, found an open quote"),
        };
        let (step, belongs): (Step, &[&str]) = match self {
            Self { train: Some(name), .. } => {
                let (name, recipe) = (scope.fill(name)?, fill(&self.recipe, "recipe")?);
                (Step::Train { name, recipe }, &["train", "recipe"])
            }
            Self { run: Some(line), .. } => {
                let arguments = words(scope.fill(line)?)?;
                (Step::Run { arguments }, &["run"])
            }
            Self { ask: Some(name), .. } => {
                let Some(count) = self.count else {
                    bail!("this step wants `count`, found none");
                };
                let step = Step::Ask {
                    name: scope.fill(name)?,
                    config: fill(&self.config, "config")?,
                    rows: fill(&self.rows, "rows")?,
                    count,
                };
                (step, &["ask", "config", "rows", "count"])
            }
            Self {
                numbers: Some(name), ..
            } => {
                let (name, file) = (scope.fill(name)?, fill(&self.file, "file")?);
                (Step::Numbers { name, file }, &["numbers", "file"])
            }
            Self {
                evaluate: Some(name), ..
            } => {
                let step = Step::Evaluate {
                    name: scope.fill(name)?,
                    model: words(fill(&self.model, "model")?)?,
                    suite: fill(&self.suite, "suite")?,
                };
                (step, &["evaluate", "model", "suite"])
            }
            _ => bail!("wanted a step with `train`, `run`, `ask`, `numbers` or `evaluate`, found none of them"),
        };
        let given = [
            ("train", self.train.is_some()),
            ("run", self.run.is_some()),
            ("ask", self.ask.is_some()),
            ("numbers", self.numbers.is_some()),
            ("evaluate", self.evaluate.is_some()),
            ("recipe", self.recipe.is_some()),
            ("config", self.config.is_some()),
            ("rows", self.rows.is_some()),
            ("count", self.count.is_some()),
            ("file", self.file.is_some()),
            ("model", self.model.is_some()),
            ("suite", self.suite.is_some()),
        ];
        match given.iter().find(|(key, is_given)| *is_given && !belongs.contains(key)) {
            Some((key, _)) => bail!(
                "a step with `{}` has no `{key}`; it takes `{}`",
                belongs[0],
                belongs.join("`, `")
            ),
            None => Ok(step),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "title = 't'\nclaim = '{sft}'\ndraw = 'k'\n[text]\nsft = 'steps = {= 2 * scale}, {rate}'\n\
                        [[column]]\nkey = 'k'\nheading = 'h'\nform = 'share'\n";

    fn study(rest: &str) -> Result<Study> {
        let text = HEAD.to_owned() + rest;
        let source = Source {
            file: "s.toml",
            text: &text,
        };
        read("s", source, 4)
    }

    #[test]
    fn an_arm_is_made_for_each_row_with_its_texts() {
        let made = study(
            "[[arm]]\nname = 'rate {rate}'\neach = [{ rate = '1e-3' }, { rate = '2e-3' }]\n\
             steps = [{ train = 'train', recipe = '{sft}' }, { run = 'merge {out} --seed {seed}' }]\n",
        )
        .unwrap();
        let names: Vec<&str> = made.arms.iter().map(|arm| arm.name.as_str()).collect();
        assert_eq!(names, ["rate 1e-3", "rate 2e-3"]);
        assert!(matches!(&made.arms[1].steps[0], Step::Train { recipe, .. } if recipe == "steps = 8, 2e-3"));
        assert!(matches!(&made.arms[0].steps[1], Step::Run { arguments } if arguments[1] == "{out}"));
    }

    #[test]
    fn what_is_wrong_with_a_study_is_told_with_its_line() {
        let arm = "[[arm]]\nname = 'a'\nsteps = [{ run = 'x' }]\n";
        for (rest, wanted) in [
            (
                "[[arm]]\nname = 'a'\nstep = []\n",
                &["`s.toml:12`", "did you mean `steps`?"][..],
            ),
            (
                "[[arm]]\nname = 'a'\nsteps = [\n{ train = 'x' }]\n",
                &["`s.toml:13`", "arm `a`", "wants `recipe`"],
            ),
            (
                "[[arm]]\nname = 'a'\nsteps = [{ run = 'x', suite = 'y' }]\n",
                &["`run` has no `suite`"],
            ),
            (
                "[[arm]]\nname = 'a'\nsteps = [{ run = '{sftt}' }]\n",
                &["`{sftt}`", "did you mean `sft`?"],
            ),
            (
                "[[arm]]\nname = 'a'\nsteps = [{ suite = 'y' }]\n",
                &["wanted a step with `train`"],
            ),
            (
                &format!("{arm}{arm}"),
                &["`s.toml:14`", "arm `a`: wanted a name of its own"],
            ),
            ("", &["missing field `arm`"]),
            (
                "[[arm]]\nname = 'a'\neach = [{ raet = '1' }]\nsteps = [{ run = '{sft}' }]\n",
                &["`s.toml:12`", "`raet`: wanted a text that is named"],
            ),
            (
                &format!("{arm}[value]\nb = 'two + 1'\ntwoo = '2'\n"),
                &["`s.toml:14`", "`value.b`", "did you mean `twoo`?"],
            ),
            (
                &format!("{arm}[[column]]\nkey = 'l'\nheading = 'h'\nform = 'share'\ndigits = 3\n"),
                &["`s.toml:17`", "`digits` is for `form = \"digits\"`"],
            ),
            (
                &format!("{arm}[[verdict]]\nstatement = 's'\nholds = \"mean('b', 'k') < 1\"\n"),
                &["`s.toml:14`", "`b`: wanted the name of an arm"],
            ),
            (
                &format!("{arm}[[derived]]\nkey = 'd'\nvalue = 'mesure(1)'\n"),
                &["`s.toml:15`", "wanted measure("],
            ),
        ] {
            let error = format!("{:#}", study(rest).unwrap_err());
            for part in wanted {
                assert!(error.contains(part), "{part} in {error}");
            }
        }
    }

    #[test]
    fn a_derived_measure_is_made_of_what_was_measured_alone() {
        let rest = "[[arm]]\nname = 'a'\nsteps = [{ run = 'x' }]\n[[derived]]\nkey = 'both'\nvalue = \"(measure('p') + measure('q')) / 2\"\n";
        let study = study(rest).unwrap();
        let mut measures = BTreeMap::from([("p".to_owned(), 1.0)]);
        study.derive(&mut measures).unwrap();
        assert!(!measures.contains_key("both"));
        measures.insert("q".to_owned(), 2.0);
        study.derive(&mut measures).unwrap();
        assert_eq!(measures["both"], 1.5);
    }
}
