//! Numbers of a layer and a unit in it, such as each expert's load, as one picture: a row a layer, a column a unit.

use plotters::prelude::*;

use crate::{Entry, Error, Result};

/// Entries whose mean is shown: the last ones, which a run ends with.
const LAST: usize = 10;

/// The cells of a map: layer, unit, value.
type Cells = Vec<(usize, usize, f64)>;

/// A metric `MAP/LAYER/UNIT`: its map, layer and unit.
pub(crate) fn cell(name: &str) -> Option<(&str, usize, usize)> {
    let (rest, unit) = name.rsplit_once('/')?;
    let (map, layer) = rest.rsplit_once('/')?;
    Some((map, layer.parse().ok()?, unit.parse().ok()?))
}

/// Every map of a history, with the means over its last entries.
pub(crate) fn maps(history: &[Entry]) -> Vec<(String, Cells)> {
    let mut maps: Vec<(String, Cells)> = Vec::new();
    let logged: Vec<&Entry> = history
        .iter()
        .filter(|entry| entry.values.keys().any(|name| cell(name).is_some()))
        .collect();
    let last = &logged[logged.len().saturating_sub(LAST)..];
    let Some(newest) = last.last() else { return maps };
    for name in newest.values.keys() {
        let Some((map, layer, unit)) = cell(name) else { continue };
        let values: Vec<f64> = last.iter().filter_map(|entry| entry.number(name)).collect();
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        match maps.iter_mut().find(|(known, _)| known == map) {
            Some((_, cells)) => cells.push((layer, unit, mean)),
            None => maps.push((map.to_owned(), vec![(layer, unit, mean)])),
        }
    }
    maps
}

/// Draws a map: white for nothing, blue for the largest value, each number in its cell.
pub(crate) fn draw(title: &str, cells: &[(usize, usize, f64)]) -> Result<String> {
    let mut svg = String::new();
    paint(&mut svg, title, cells).map_err(|error| Error::Chart {
        metric: title.into(),
        reason: error.to_string(),
    })?;
    Ok(svg)
}

/// Pixels of a cell, and around all of them.
const CELL: (u32, u32) = (52, 22);
const LEFT: u32 = 64;
const ABOVE: u32 = 56;
/// The least width: the caption has room.
const WIDTH: u32 = 480;

fn paint(svg: &mut String, title: &str, cells: &[(usize, usize, f64)]) -> Result<(), Box<dyn std::error::Error>> {
    let mut layers: Vec<usize> = cells.iter().map(|(layer, ..)| *layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let units = cells.iter().map(|(_, unit, _)| unit + 1).max().unwrap_or(0) as u32;
    let width = (LEFT + CELL.0 * units + 12).max(WIDTH);
    let size = (width, ABOVE + CELL.1 * layers.len() as u32 + 12);
    let area = SVGBackend::with_string(svg, size).into_drawing_area();
    area.fill(&WHITE)?;
    let font = |size: u32| ("sans-serif", size).into_font();
    let caption = format!("`{title}` by layer (rows) and unit (columns): mean of the last {LAST} logged steps");
    area.draw(&Text::new(caption, (12, 8), font(14)))?;
    let largest = cells.iter().map(|(.., value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    for unit in 0..units {
        let at = ((LEFT + CELL.0 * unit + CELL.0 / 2 - 6) as i32, ABOVE as i32 - 18);
        area.draw(&Text::new(unit.to_string(), at, font(12)))?;
    }
    for (row, layer) in layers.iter().enumerate() {
        let at = (12, (ABOVE + CELL.1 * row as u32 + 5) as i32);
        area.draw(&Text::new(format!("layer {layer}"), at, font(12)))?;
    }
    for (layer, unit, value) in cells {
        let row = layers.iter().position(|known| known == layer).unwrap_or(0) as u32;
        let (x, y) = ((LEFT + CELL.0 * *unit as u32) as i32, (ABOVE + CELL.1 * row) as i32);
        let share = (value / largest).clamp(0.0, 1.0);
        let fade = |full: u8| (255.0 - share * (255.0 - f64::from(full))) as u8;
        let color = RGBColor(fade(33), fade(102), fade(172));
        let corner = (x + CELL.0 as i32 - 1, y + CELL.1 as i32 - 1);
        area.draw(&Rectangle::new([(x, y), corner], color.filled()))?;
        let ink = if share > 0.6 { &WHITE } else { &BLACK };
        area.draw(&Text::new(format!("{value:.3}"), (x + 8, y + 5), font(11).color(ink)))?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(step: usize, values: &[(&str, f64)]) -> Entry {
        Entry {
            step,
            epoch: 0.0,
            values: values
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).into()))
                .collect(),
        }
    }

    #[test]
    fn a_map_is_the_mean_of_the_last_entries() {
        let mut history = vec![entry(0, &[("load/0/0", 100.0)])];
        history
            .extend((1..=10).map(|step| entry(step, &[("load/0/0", step as f64), ("load/3/1", 2.0), ("loss", 1.0)])));
        assert_eq!(maps(&history), [("load".to_owned(), vec![(0, 0, 5.5), (3, 1, 2.0)])]);
        assert!(maps(&[entry(1, &[("loss", 1.0), ("eval/loss", 2.0)])]).is_empty());
    }

    #[test]
    fn every_cell_stands_in_its_place_with_its_number() {
        let svg = draw("load", &[(2, 0, 0.25), (2, 1, 0.75), (5, 1, 0.5)]).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["load", "layer 2", "layer 5", "0.250", "0.750", "0.500"] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
        draw("load", &[]).unwrap();
    }
}
