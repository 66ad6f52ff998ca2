//! Plots as SVG, for a page that is light or dark and wide or narrow: shapes
//! carry colours that the page's style sheet replaces.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::cli::report::size;

/// Width of every plot; the page scales it.
const WIDTH: u32 = 480;

/// What the style sheet replaces: text and lines, a weak and a strong colour.
pub const INK: RGBColor = RGBColor(1, 1, 1);
pub const WEAK: RGBColor = RGBColor(2, 2, 2);
pub const STRONG: RGBColor = RGBColor(3, 3, 3);

/// Height of a pair of bars.
const PAIR: u32 = 46;

fn failed<E: std::fmt::Display>(error: E) -> anyhow::Error {
    anyhow!("drawing a plot: {error}")
}

fn text(size: i32, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    ("sans-serif", size)
        .into_font()
        .color(&INK)
        .pos(Pos::new(horizontal, vertical))
}

/// A name with two amounts, the second a part of the first.
pub struct Pair {
    pub name: String,
    pub whole: u64,
    pub part: u64,
}

/// Pairs of bars, one below the other.
pub fn pairs(pairs: &[Pair]) -> Result<String> {
    let mut out = String::new();
    {
        let height = PAIR * pairs.len().max(1) as u32;
        let root = SVGBackend::with_string(&mut out, (WIDTH, height)).into_drawing_area();
        let longest = pairs.iter().map(|pair| pair.whole.max(pair.part)).max();
        let longest = longest.unwrap_or(1).max(1) as f64;
        let (left, room) = (110, WIDTH as i32 - 110 - 92);
        let long = |bytes: u64| left + (bytes as f64 / longest * f64::from(room)) as i32;
        for (row, pair) in pairs.iter().enumerate() {
            let top = row as i32 * PAIR as i32;
            let name = Text::new(
                pair.name.clone(),
                (left - 8, top + 19),
                text(17, HPos::Right, VPos::Center),
            );
            root.draw(&name).map_err(failed)?;
            for (bytes, color, y) in [(pair.whole, WEAK, 4), (pair.part, STRONG, 21)] {
                let bar = [(left, top + y), (long(bytes).max(left + 1), top + y + 14)];
                root.draw(&Rectangle::new(bar, color.filled()))
                    .map_err(failed)?;
                let amount = Text::new(
                    size(bytes),
                    (long(bytes) + 5, top + y + 7),
                    text(15, HPos::Left, VPos::Center),
                );
                root.draw(&amount).map_err(failed)?;
            }
        }
        root.present().map_err(failed)?;
    }
    Ok(out)
}

/// Upright bars: how much there is of each, under names of some of them.
pub fn bars(bars: &[(Option<String>, u64)]) -> Result<String> {
    let mut out = String::new();
    {
        let height = 190;
        let root = SVGBackend::with_string(&mut out, (WIDTH, height)).into_drawing_area();
        let highest = bars.iter().map(|(_, amount)| *amount).max();
        let highest = highest.unwrap_or(1).max(1);
        let (top, bottom) = (22, height as i32 - 26);
        let step = f64::from(WIDTH) / bars.len().max(1) as f64;
        for (at, (name, amount)) in bars.iter().enumerate() {
            let x = (at as f64 * step) as i32;
            let y = bottom - (*amount as f64 / highest as f64 * f64::from(bottom - top)) as i32;
            let y = if *amount > 0 { y.min(bottom - 2) } else { y };
            let bar = [(x + 1, y), (((at + 1) as f64 * step) as i32 - 1, bottom)];
            root.draw(&Rectangle::new(bar, STRONG.filled()))
                .map_err(failed)?;
            if *amount == highest {
                let style = text(15, HPos::Center, VPos::Bottom);
                let place = ((x + step as i32 / 2).clamp(40, WIDTH as i32 - 40), y - 3);
                root.draw(&Text::new(size(*amount), place, style))
                    .map_err(failed)?;
            }
            if let Some(name) = name {
                let style = text(15, HPos::Center, VPos::Top);
                let place = (
                    (x + step as i32 / 2).clamp(18, WIDTH as i32 - 24),
                    bottom + 6,
                );
                root.draw(&Text::new(name.clone(), place, style))
                    .map_err(failed)?;
            }
        }
        let line = PathElement::new([(0, bottom), (WIDTH as i32, bottom)], INK.stroke_width(1));
        root.draw(&line).map_err(failed)?;
        root.present().map_err(failed)?;
    }
    Ok(out)
}

/// A day, and two amounts that are drawn as lines.
pub struct Moment {
    pub day: u32,
    pub name: String,
    pub whole: u64,
    pub part: u64,
}

/// Two lines over the days.
pub fn lines(moments: &[Moment]) -> Result<String> {
    let mut out = String::new();
    {
        let root = SVGBackend::with_string(&mut out, (WIDTH, 220)).into_drawing_area();
        let first = moments.first().map_or(0, |moment| moment.day);
        let last = moments.last().map_or(1, |moment| moment.day).max(first + 1);
        let highest = moments
            .iter()
            .map(|m| m.whole.max(m.part))
            .max()
            .unwrap_or(1);
        let mut chart = ChartBuilder::on(&root)
            .margin_right(34)
            .margin_top(8)
            .x_label_area_size(24)
            .y_label_area_size(86)
            .build_cartesian_2d(first..last, 0..highest.max(1))
            .map_err(failed)?;
        let name = |day: &u32| {
            let named = moments.iter().find(|moment| moment.day == *day);
            named.map_or_else(String::new, |moment| moment.name.clone())
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(INK.mix(0.15))
            .axis_style(INK)
            .x_labels(4)
            .y_labels(5)
            .x_label_formatter(&name)
            .y_label_formatter(&|bytes| size(*bytes))
            .label_style(text(14, HPos::Center, VPos::Center))
            .draw()
            .map_err(failed)?;
        let line = |of: fn(&Moment) -> u64, color: RGBColor| {
            let points = moments.iter().map(move |moment| (moment.day, of(moment)));
            LineSeries::new(points, color.stroke_width(2)).point_size(2)
        };
        chart.draw_series(line(|m| m.whole, WEAK)).map_err(failed)?;
        chart
            .draw_series(line(|m| m.part, STRONG))
            .map_err(failed)?;
        root.present().map_err(failed)?;
    }
    Ok(out)
}
