//! A curve as a picture: SVG with its text as text, so that no font is needed to draw it.

use plotters::prelude::*;

use crate::{Error, Result};

/// One line of a chart: its name and its points.
pub(crate) type Series = (String, Vec<(f64, f64)>);

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
    let mut chart = ChartBuilder::on(&area)
        .caption(metric, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(72)
        .build_cartesian_2d(steps, values)
        .map_err(|e| failed(&e))?;
    chart
        .configure_mesh()
        .x_desc("step")
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
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        // A single point makes no line.
        if let [point] = points[..] {
            chart
                .draw_series([Circle::new(point, 3, color.filled())])
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

/// From the smallest to the largest value, never empty.
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
        high.abs().max(1.0) * 0.5
    };
    low - room..high + room
}

fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if !(1e-3..1e6).contains(&size) => format!("{value:.1e}"),
        size if size >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_names_its_lines() {
        let series = vec![
            ("train".to_owned(), vec![(1.0, 3.0), (2.0, 1.0)]),
            ("eval".to_owned(), vec![(2.0, 2.0)]),
        ];
        let svg = draw("loss", &series).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["loss", "train", "eval", "step"] {
            assert!(svg.contains(text), "{text}");
        }
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
