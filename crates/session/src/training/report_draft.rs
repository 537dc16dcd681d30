//! What `report.md` says of a run: answers and the perplexity of general text, before and after.

use anyhow::Result;
use models::prompts::{Asked, Form};
use train::Report;

use super::forgetting::Forgetting;
use super::{Run, samples};

/// Lines of the report: name, before, after.
pub(super) type Results = Vec<(String, String, String)>;

/// What the model said before the first step.
pub(super) struct ReportDraft<'r, 'a> {
    run: &'r Run<'a>,
    asked: Vec<Asked>,
    said: Vec<String>,
    forgetting: Option<(Forgetting, f64)>,
}

impl<'r, 'a> ReportDraft<'r, 'a> {
    /// Asks the model as it is now.
    pub(super) fn begin(run: &'r Run<'a>) -> Result<Self> {
        let model = &run.adapted.model;
        let form = Form::of_training(run.source.prompt_format());
        let asked = samples::asked(run.sets, run.recipe, (run.tokenizer, form), model)?;
        let said = samples::answers(model, run.tokenizer, &asked, run.recipe.report.max_new_tokens)?;
        let forgetting = match Forgetting::of(run.recipe) {
            Some(text) => {
                let perplexity = text.measure(model, run.tokenizer)?;
                Some((text, perplexity))
            }
            None => None,
        };
        Ok(Self {
            run,
            asked,
            said,
            forgetting,
        })
    }

    /// Asks it again and writes the report, with further results and settings.
    pub(super) fn end(self, report: &Report, results: Results, settings: Vec<(String, String)>) -> Result<()> {
        let Run {
            recipe,
            adapted,
            tokenizer,
            ..
        } = self.run;
        let said = samples::answers(&adapted.model, tokenizer, &self.asked, recipe.report.max_new_tokens)?;
        let mut page = samples::report_text(recipe, adapted, report, samples::pair(self.asked, self.said, said));
        page.results.extend(results);
        if let Some((text, before)) = self.forgetting {
            page.results.extend(Forgetting::results(
                before,
                text.measure(&adapted.model, tokenizer)?,
                self.run.events(),
            ));
        }
        page.settings.extend(settings);
        report.write(self.run.dir, &page)?;
        Ok(())
    }
}
