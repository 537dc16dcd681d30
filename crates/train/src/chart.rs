//! A curve as a picture: SVG with its text as text, so that no font is needed to draw it.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::{Error, Result};

/// One line of a chart: its name and its points.
pub(crate) type Series = (String, Vec<(f64, f64)>);

/// Lines of at most so many points show each of them.
const MARKED: usize = 40;

/// What a metric's picture is called, and what its axis measures.
fn words(metric: &str) -> (String, String) {
    let known = match metric {
        "loss" => ("Loss", "loss"),
        "learning_rate" => ("Learning rate", "learning rate"),
        "grad_norm" => ("Norm of the gradient, before clipping", "norm"),
        "tokens_per_second" => ("Training speed", "tokens a second"),
        "perplexity" => ("Perplexity", "perplexity"),
        "accuracy" => ("Accuracy", "share of the rows, 0 to 1"),
        _ => return (format!("`{metric}` over the run"), metric.to_owned()),
    };
    (known.0.to_owned(), known.1.to_owned())
}

/// Draws `series` over the optimiser steps.
pub(crate) fn draw(metric: &str, series: &[Series]) -> Result<String> {
    let mut svg = String::new();
    paint(&mut svg, metric, series).map_err(|reason| Error::Chart {
        metric: metric.into(),
        reason,
    })?;
    Ok(svg)
}

fn paint(svg: &mut String, metric: &str, series: &[Series]) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let area = SVGBackend::with_string(svg, (720, 360)).into_drawing_area();
    area.fill(&WHITE).map_err(|e| failed(&e))?;
    let points = || series.iter().flat_map(|(_, points)| points.iter().copied());
    let steps = range(points().map(|(x, _)| x));
    let values = range(points().map(|(_, y)| y));
    let (title, measure) = words(metric);
    let (x_ticks, y_ticks) = (ticks(&steps, 1.0), ticks(&values, 0.0));
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(Axis::new(steps, x_ticks), Axis::new(values, y_ticks))
        .map_err(|e| failed(&e))?;
    chart
        .configure_mesh()
        .x_desc("optimiser step")
        .y_desc(measure)
        .light_line_style(WHITE)
        .y_label_formatter(&|value| short(*value))
        .x_label_formatter(&|value| short(*value))
        .draw()
        .map_err(|e| failed(&e))?;
    for (idx, (name, points)) in series.iter().enumerate() {
        let color = Palette99::pick(idx).to_rgba();
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))
            .map_err(|e| failed(&e))?
            .label(long_name(name))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        // A single point makes no line, and a few are read one by one.
        if points.len() <= MARKED {
            chart
                .draw_series(points.iter().map(|point| Circle::new(*point, 3, color.filled())))
                .map_err(|e| failed(&e))?;
        }
    }
    if series.len() > 1 {
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .draw()
            .map_err(|e| failed(&e))?;
    }
    area.present().map_err(|e| failed(&e))
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

/// What a line is of.
fn long_name(name: &str) -> &str {
    match name {
        "train" => "training data",
        "eval" => "evaluation data",
        name => name,
    }
}

/// From the smallest to the largest value, never empty.
fn range(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
        (low.min(v), high.max(v))
    });
    if low > high {
        return 0.0..1.0;
    }
    let room = if high > low {
        (high - low) * 0.05
    } else {
        high.abs().max(1.0) * 0.5
    };
    low - room..high + room
}

/// At most ten multiples of 1, 2 or 5 times a power of ten, `least` or more apart.
fn ticks(range: &Range<f64>, least: f64) -> Vec<f64> {
    let length = range.end - range.start;
    let power = 10f64.powf((length / 10.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power);
    let step = steps
        .into_iter()
        .find(|step| length / step <= 10.0)
        .unwrap_or(10.0 * power)
        .max(least);
    let (first, last) = ((range.start / step).ceil() as i64, (range.end / step).floor() as i64);
    (first..=last).map(|idx| idx as f64 * step).collect()
}

fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if !(1e-3..1e6).contains(&size) => format!("{value:.1e}"),
        size if size >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.4}").trim_end_matches('0').trim_end_matches('.').into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_says_what_it_shows_and_names_its_lines() {
        let series = vec![
            ("train".to_owned(), vec![(1.0, 3.0), (2.0, 1.0)]),
            ("eval".to_owned(), vec![(2.0, 2.0)]),
        ];
        let svg = draw("loss", &series).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["Loss", "training data", "evaluation data", "optimiser step"] {
            assert!(svg.contains(text), "{text}");
        }
        let svg = draw("grad_norm", &series[..1]).unwrap();
        assert!(svg.contains("Norm of the gradient") && !svg.contains("grad_norm"));
        assert!(
            draw("rewards/length", &series[..1])
                .unwrap()
                .contains("`rewards/length` over the run")
        );
    }

    #[test]
    fn a_short_run_shows_its_points_and_a_long_one_its_line() {
        let line = |points: u32| vec![("train".to_owned(), (1..=points).map(|x| (f64::from(x), 1.0)).collect())];
        let dots = |points| draw("loss", &line(points)).unwrap().matches("<circle").count();
        assert_eq!((dots(4), dots(40), dots(41)), (4, 40, 0));
    }

    #[test]
    fn steps_are_marked_at_whole_numbers() {
        assert_eq!(ticks(&(0.85..4.15), 1.0), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(ticks(&(-5.0..105.0), 1.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        let shown: Vec<String> = ticks(&(1.23..1.58), 0.0).into_iter().map(short).collect();
        assert_eq!(shown, ["1.25", "1.3", "1.35", "1.4", "1.45", "1.5", "1.55"]);
    }

    #[test]
    fn no_points_and_equal_points_can_be_drawn() {
        for points in [vec![], vec![(1.0, 0.0)], vec![(1.0, 5.0), (2.0, 5.0)]] {
            draw("loss", &[("train".to_owned(), points)]).unwrap();
        }
    }

    #[test]
    fn labels_are_short() {
        assert_eq!([0.0, 2e-5, 0.25, 1234.0].map(short), ["0", "2.0e-5", "0.25", "1234"]);
    }
}
