//! The drawn measure of each arm as a bar, every seed a point on it: SVG with its text as text.

use super::results::{Results, mean};
use super::study::{Form, Study};
use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Pixels of the picture's width, and of a bar with its gap.
const WIDTH: u32 = 800;
const BAR: u32 = 34;

/// How far apart the largest and the smallest measure lie where the axis becomes logarithmic.
const WIDE: f64 = 20.0;

/// Horizontal bars, in the table's order from the top.
pub(crate) fn bars(study: &Study, results: &Results) -> Result<String> {
    let column = study.columns.iter().find(|column| column.key == study.drawn);
    let heading = column.map_or(study.drawn, |column| column.heading);
    let rows: Vec<(&str, Vec<f64>)> = study
        .arms
        .iter()
        .map(|arm| (arm.name.as_str(), results.values(&arm.name, study.drawn)))
        .filter(|(_, values)| !values.is_empty())
        .collect();
    let mut svg = String::new();
    // A share is read against the whole.
    let may_be_wide = !matches!(column.map(|column| column.form), Some(Form::Share));
    paint(&mut svg, heading, &rows, may_be_wide).map_err(|error| anyhow!("`{}`: {error}", study.name))?;
    Ok(svg)
}

fn paint(svg: &mut String, heading: &str, rows: &[(&str, Vec<f64>)], may_be_wide: bool) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let height = 90 + BAR * rows.len().max(1) as u32;
    let area = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| failed(&error))?;
    let all = || rows.iter().flat_map(|(_, values)| values).copied();
    let (least, most) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    let is_wide = may_be_wide && least > 0.0 && most > WIDE * least;
    let along = |value: f64| if is_wide { value.log10() } else { value };
    let (begin, end) = match is_wide {
        true => (along(least) - 0.1, along(most) + 0.1),
        false => (0.0, (1.08 * most).max(1e-9)),
    };
    let heading = match is_wide {
        true => format!("{heading} (logarithmic)"),
        false => heading.to_owned(),
    };
    let count = rows.len() as f64;
    let mut chart = ChartBuilder::on(&area)
        .caption(heading, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(230)
        .build_cartesian_2d(begin..end, 0.0..count.max(1.0))
        .map_err(|error| failed(&error))?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_label_formatter(&|x| match is_wide {
            true => format!("{:.0}", 10f64.powf(*x)),
            false => format!("{}", (x * 1e6).round() / 1e6),
        })
        .light_line_style(WHITE)
        .draw()
        .map_err(|error| failed(&error))?;
    for (idx, (name, values)) in rows.iter().enumerate() {
        let middle = count - idx as f64 - 0.5;
        let end = along(mean(values).unwrap_or_default());
        let bar = Rectangle::new([(begin, middle - 0.32), (end, middle + 0.32)], BLUE.mix(0.35).filled());
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
    area.present().map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arm_has_its_name_and_every_seed_its_point() {
        let mut svg = String::new();
        paint(&mut svg, "loss", &[("LoRA", vec![1.0, 2.0]), ("DoRA", vec![1.5])], true).unwrap();
        assert!(svg.contains("LoRA") && svg.contains("DoRA") && svg.contains("loss"));
        assert_eq!(svg.matches("<circle").count(), 3);
    }

    #[test]
    fn measures_far_apart_are_drawn_on_a_logarithmic_axis() {
        let far = [("dense", vec![30.0]), ("pruned", vec![1700.0])];
        let from_nought = [("none", vec![0.0]), ("all", vec![1.0])];
        for (rows, may_be_wide, is_wide) in [(&far, true, true), (&far, false, false), (&from_nought, true, false)] {
            let mut svg = String::new();
            paint(&mut svg, "measure", rows, may_be_wide).unwrap();
            assert_eq!(svg.contains("measure (logarithmic)"), is_wide);
        }
    }

    #[test]
    fn nothing_can_be_drawn() {
        paint(&mut String::new(), "loss", &[], true).unwrap();
    }
}
