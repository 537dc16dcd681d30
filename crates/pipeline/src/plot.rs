//! The drawn measure of each arm as a bar, every seed a point on it: SVG with its text as text.

use crate::results::{Results, mean};
use crate::study::{Form, Study};
use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::ops::Range;

/// Pixels of the picture's width, of a bar with its gap, and of the names on the left.
const WIDTH: u32 = 800;
const BAR: u32 = 34;
const NAMES: u32 = 230;

/// How far apart the largest and the smallest measure lie where the axis becomes logarithmic.
const WIDE: f64 = 20.0;

/// What a picture shows.
struct Picture<'p> {
    title: &'p str,
    /// What the axis measures, with its unit.
    measure: String,
    /// Each arm with its measure for every seed.
    rows: Vec<(&'p str, Vec<f64>)>,
    /// A share is read against the whole, never on a logarithmic axis.
    may_be_wide: bool,
}

/// Horizontal bars, in the table's order from the top and in the table's unit.
pub(crate) fn bars(study: &Study, results: &Results) -> Result<String> {
    let column = study.columns.iter().find(|column| column.key == study.drawn);
    let heading = column.map_or(study.drawn.as_str(), |column| column.heading.as_str());
    let form = column.map(|column| column.form);
    let (unit, factor) = form.map_or(("", 1.0), Form::unit);
    let rows = study
        .arms
        .iter()
        .map(|arm| {
            let values = results.values(&arm.name, &study.drawn);
            (
                arm.name.as_str(),
                values.iter().map(|value| factor * value).collect::<Vec<_>>(),
            )
        })
        .filter(|(_, values)| !values.is_empty())
        .collect();
    let picture = Picture {
        title: &study.title,
        measure: if unit.is_empty() {
            heading.to_owned()
        } else {
            format!("{heading}, {unit}")
        },
        rows,
        may_be_wide: !matches!(form, Some(Form::Share)),
    };
    let mut svg = String::new();
    paint(&mut svg, &picture).map_err(|error| anyhow!("`{}`: {error}", study.name))?;
    Ok(svg)
}

fn paint(svg: &mut String, picture: &Picture) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let rows = &picture.rows;
    let height = 128 + BAR * rows.len().max(1) as u32;
    let area = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| failed(&error))?;
    let all = || rows.iter().flat_map(|(_, values)| values).copied();
    let (least, most) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    let is_wide = picture.may_be_wide && least > 0.0 && most > WIDE * least;
    let along = |value: f64| if is_wide { value.log10() } else { value };
    let (begin, end) = match is_wide {
        true => (along(least) - 0.1, along(most) + 0.1),
        false => (least.min(0.0), (1.08 * most).max(1e-9)),
    };
    let ticks = if is_wide {
        log_ticks(begin, end)
    } else {
        even_ticks(begin, end)
    };
    let count = rows.len() as f64;
    let mut chart = ChartBuilder::on(&area)
        .caption(picture.title, ("sans-serif", 17))
        .margin(12)
        .margin_bottom(30)
        .x_label_area_size(44)
        .y_label_area_size(NAMES)
        .build_cartesian_2d(Axis::new(begin..end, ticks), 0.0..count.max(1.0))
        .map_err(|error| failed(&error))?;
    let scale = if is_wide { " (logarithmic scale)" } else { "" };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_desc(format!("{}{scale}", picture.measure))
        .x_label_formatter(&|x| short(if is_wide { 10f64.powf(*x) } else { *x }))
        .light_line_style(WHITE)
        .draw()
        .map_err(|error| failed(&error))?;
    for (idx, (name, values)) in rows.iter().enumerate() {
        let middle = count - idx as f64 - 0.5;
        let from = if is_wide { begin } else { 0.0 };
        let end = along(mean(values).unwrap_or_default());
        let bar = Rectangle::new([(from, middle - 0.32), (end, middle + 0.32)], BLUE.mix(0.35).filled());
        let points = values
            .iter()
            .map(|&value| Circle::new((along(value), middle), 3, BLACK.filled()));
        chart.draw_series([bar]).map_err(|error| failed(&error))?;
        chart.draw_series(points).map_err(|error| failed(&error))?;
        let (_, y) = chart.backend_coord(&(begin, middle));
        let style = ("sans-serif", 14).into_text_style(&area);
        area.draw_text(name, &style, (14, y - 7))
            .map_err(|error| failed(&error))?;
    }
    let note = match rows.iter().any(|(_, values)| values.len() > 1) {
        true => "bar: mean over the seeds; dot: one seed",
        false => "bar and dot: the one run",
    };
    let style = ("sans-serif", 12).into_text_style(&area);
    area.draw_text(note, &style, (14, height as i32 - 24))
        .map_err(|error| failed(&error))?;
    area.present().map_err(|error| failed(&error))
}

/// An axis from one number to another with marks where they are wanted.
struct Axis {
    inner: RangedCoordf64,
    ticks: Vec<f64>,
}

impl Axis {
    fn new(range: Range<f64>, ticks: Vec<f64>) -> Self {
        Self {
            inner: range.into(),
            ticks,
        }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.inner.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight().allow_light_points() {
            true => Vec::new(),
            false => self.ticks.clone(),
        }
    }

    fn range(&self) -> Range<f64> {
        self.inner.range()
    }
}

/// The logarithms of round numbers between two logarithms: 1, 2 and 5 of each decade, or fewer where there are many
/// decades.
fn log_ticks(begin: f64, end: f64) -> Vec<f64> {
    let decades = end - begin;
    let digits: &[f64] = match decades {
        d if d > 4.0 => &[1.0],
        d if d > 2.5 => &[1.0, 3.0],
        _ => &[1.0, 2.0, 5.0],
    };
    let powers = begin.floor() as i32..=end.ceil() as i32;
    let all = powers.flat_map(|power| digits.iter().map(move |digit| f64::from(power) + digit.log10()));
    all.filter(|tick| (begin..=end).contains(tick)).collect()
}

/// Five to ten multiples of 1, 2 or 5 times a power of ten.
fn even_ticks(begin: f64, end: f64) -> Vec<f64> {
    let power = 10f64.powf(((end - begin) / 10.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power);
    let step = steps
        .into_iter()
        .find(|step| (end - begin) / step <= 10.0)
        .unwrap_or(10.0 * power);
    let (first, last) = ((begin / step).ceil() as i64, (end / step).floor() as i64);
    (first..=last).map(|idx| idx as f64 * step).collect()
}

fn short(value: f64) -> String {
    let digits = (3 - value.abs().max(1e-9).log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(rows: &[(&str, &[f64])], may_be_wide: bool) -> String {
        let picture = Picture {
            title: "One thing against another",
            measure: "loss".into(),
            rows: rows.iter().map(|(name, values)| (*name, values.to_vec())).collect(),
            may_be_wide,
        };
        let mut svg = String::new();
        paint(&mut svg, &picture).unwrap();
        svg
    }

    #[test]
    fn every_arm_has_its_name_and_every_seed_its_point_and_both_are_explained() {
        let svg = picture(&[("LoRA", &[1.0, 2.0]), ("DoRA", &[1.5])], true);
        for text in [
            "LoRA",
            "DoRA",
            "loss",
            "One thing against another",
            "bar: mean over the seeds; dot: one seed",
        ] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(picture(&[("LoRA", &[1.0])], true).contains("the one run"));
    }

    #[test]
    fn measures_far_apart_are_drawn_on_a_logarithmic_axis() {
        let far: [(&str, &[f64]); 2] = [("dense", &[30.0]), ("pruned", &[1700.0])];
        let from_nought: [(&str, &[f64]); 2] = [("none", &[0.0]), ("all", &[1.0])];
        for (rows, may_be_wide, is_wide) in [(&far, true, true), (&far, false, false), (&from_nought, true, false)] {
            assert_eq!(picture(rows, may_be_wide).contains("loss (logarithmic scale)"), is_wide);
        }
    }

    #[test]
    fn ticks_stand_at_round_numbers() {
        let numbers = |begin: f64, end: f64| -> Vec<String> {
            let ticks = log_ticks(begin.log10(), end.log10());
            ticks.iter().map(|tick| short(10f64.powf(*tick))).collect()
        };
        assert_eq!(numbers(24.0, 2100.0), ["50", "100", "200", "500", "1000", "2000"]);
        assert_eq!(numbers(0.9, 1100.0), ["1", "3", "10", "30", "100", "300", "1000"]);
        assert_eq!(numbers(0.009, 1100.0), ["0.01", "0.1", "1", "10", "100", "1000"]);
        let even = |begin, end| even_ticks(begin, end).into_iter().map(short).collect::<Vec<_>>();
        assert_eq!(even(0.0, 79.0), ["0", "10", "20", "30", "40", "50", "60", "70"]);
        assert_eq!(even(0.0, 1.08), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(
            even(-0.25, 0.25),
            [
                "-0.25", "-0.2", "-0.15", "-0.1", "-0.05", "0", "0.05", "0.1", "0.15", "0.2", "0.25"
            ]
        );
    }

    #[test]
    fn nothing_can_be_drawn() {
        picture(&[], true);
    }
}
