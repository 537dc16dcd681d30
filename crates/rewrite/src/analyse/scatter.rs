//! ΔM over ΔD as a picture: SVG with its text as text, so that no font is needed to draw it.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::Analysis;

/// The points of every group with the line through them.
pub(super) fn draw(analysis: &Analysis) -> Result<String> {
    let mut svg = String::new();
    paint(&mut svg, analysis).map_err(|reason| anyhow!("the picture cannot be drawn: {reason}"))?;
    Ok(svg)
}

fn paint(svg: &mut String, analysis: &Analysis) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let area = SVGBackend::with_string(svg, (720, 480)).into_drawing_area();
    area.fill(&WHITE).map_err(|e| failed(&e))?;
    let directions = range(analysis.points.iter().map(|point| point.delta_direction));
    let magnitudes = range(analysis.points.iter().map(|point| point.delta_magnitude));
    let mut chart = ChartBuilder::on(&area)
        .caption("Change of magnitude over change of direction", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(directions, magnitudes.clone())
        .map_err(|e| failed(&e))?;
    chart
        .configure_mesh()
        .x_desc("ΔD, mean of 1 - cos")
        .y_desc("ΔM, mean change of row norms")
        .light_line_style(WHITE)
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .draw()
        .map_err(|e| failed(&e))?;
    for (idx, group) in analysis.lines.iter().enumerate() {
        let color = Palette99::pick(idx).to_rgba();
        let points: Vec<(f64, f64)> = analysis
            .points
            .iter()
            .filter(|point| point.group == group.group)
            .map(|point| (point.delta_direction, point.delta_magnitude))
            .collect();
        let label = match group.line {
            Some(line) => format!("{} ({}): slope {:+.2e}", group.group, group.method, line.slope),
            None => format!("{} ({})", group.group, group.method),
        };
        chart
            .draw_series(points.iter().map(|&point| Circle::new(point, 3, color.filled())))
            .map_err(|e| failed(&e))?
            .label(label)
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, color.filled()));
        if let Some(line) = group.line {
            let ends = range(points.iter().map(|point| point.0));
            let at = |x: f64| (x, line.intercept + line.slope * x);
            // Only the part of the line that lies in the picture.
            let steps = (0..=200).map(|step| at(ends.start + (ends.end - ends.start) * f64::from(step) / 200.0));
            let inside = steps.filter(|(x, y)| *x >= 0.0 && magnitudes.contains(y));
            chart
                .draw_series(LineSeries::new(inside, color.stroke_width(2)))
                .map_err(|e| failed(&e))?;
        }
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()
        .map_err(|e| failed(&e))?;
    area.present().map_err(|e| failed(&e))
}

/// From the smallest to the largest value with some room, never empty.
fn range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
        (low.min(v), high.max(v))
    });
    if low > high {
        return 0.0..1.0;
    }
    let room = if high > low {
        (high - low) * 0.05
    } else {
        high.abs().max(1e-6) * 0.5
    };
    low - room..high + room
}

fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if !(1e-3..1e4).contains(&size) => format!("{value:.1e}"),
        _ => format!("{value:.4}").trim_end_matches('0').trim_end_matches('.').into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LineNumbers, Point, Slope};
    use super::*;

    fn analysis(points: &[(f64, f64)], line: Option<LineNumbers>) -> Analysis {
        let point = |&(delta_direction, delta_magnitude): &(f64, f64)| Point {
            group: "dora".into(),
            checkpoint: "checkpoint-2".into(),
            module: "q_proj".into(),
            layer: Some(0),
            delta_magnitude,
            delta_direction,
        };
        Analysis {
            lines: vec![Slope {
                group: "dora".into(),
                method: "DoRA",
                points: points.len(),
                line,
            }],
            points: points.iter().map(point).collect(),
        }
    }

    #[test]
    fn a_picture_has_every_point_and_names_its_groups() {
        let line = LineNumbers {
            slope: -2.0,
            intercept: 0.05,
            correlation: -1.0,
        };
        let svg = draw(&analysis(&[(0.01, 0.03), (0.02, 0.01), (0.015, 0.02)], Some(line))).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        // Three points and the legend's.
        assert_eq!(svg.matches("<circle").count(), 4);
        assert!(svg.contains("<polyline"));
        for text in ["dora (DoRA)", "-2.00e0", "ΔD", "ΔM"] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
    }

    #[test]
    fn one_point_can_be_drawn() {
        draw(&analysis(&[(0.0, 0.0)], None)).unwrap();
    }
}
