//! Small line charts as SVG: panels side by side over one list of settings, values from 0 on.

use std::fmt::Write as _;

const PANEL_WIDTH: f64 = 320.0;
const PANEL_HEIGHT: f64 = 260.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 40.0;
const GRID_LINES: u32 = 4;
/// Told apart in print and by those who are colour-blind.
const COLOURS: [&str; 3] = ["#0072b2", "#d55e00", "#009e73"];

/// One panel.
#[derive(Debug)]
pub(super) struct Panel {
    pub(super) title: String,
    /// A name, and for each setting a value, if there is one.
    pub(super) series: Vec<(String, Vec<Option<f64>>)>,
}

/// The picture of panels over `settings`, of which `axis` is the name.
pub(super) fn svg(axis: &str, settings: &[&str], panels: &[Panel]) -> String {
    let width = PANEL_WIDTH * panels.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {PANEL_HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, panel) in panels.iter().enumerate() {
        let offset = PANEL_WIDTH * index as f64;
        let _ = writeln!(out, "<g transform=\"translate({offset} 0)\">");
        draw(&mut out, axis, settings, panel);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, axis: &str, settings: &[&str], panel: &Panel) {
    let values = panel.series.iter().flat_map(|(_, values)| values);
    let top = ceiling(values.flatten().copied().fold(0.0, f64::max));
    let x = |index: usize| {
        let steps = settings.len().saturating_sub(1).max(1) as f64;
        LEFT + (PANEL_WIDTH - LEFT - RIGHT) * index as f64 / steps
    };
    let y = |value: f64| TOP + (PANEL_HEIGHT - TOP - BOTTOM) * (1.0 - value / top);
    text(out, (LEFT, 16.0), "start", &panel.title);
    for line in 0..=GRID_LINES {
        let value = top * f64::from(line) / f64::from(GRID_LINES);
        let (at, from, to) = (y(value), LEFT, PANEL_WIDTH - RIGHT);
        let _ = writeln!(
            out,
            "<line x1=\"{from}\" x2=\"{to}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>"
        );
        text(out, (LEFT - 6.0, at + 4.0), "end", &short(value));
    }
    for (index, setting) in settings.iter().enumerate() {
        let at = (x(index), PANEL_HEIGHT - BOTTOM + 16.0);
        text(out, at, "middle", setting);
    }
    let middle = (LEFT + PANEL_WIDTH - RIGHT) / 2.0;
    text(out, (middle, PANEL_HEIGHT - 8.0), "middle", axis);
    for (index, (name, values)) in panel.series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let point = |(index, value): (usize, &Option<f64>)| {
            value.map(|value| format!("{:.1},{:.1}", x(index), y(value)))
        };
        let points: Vec<String> = values.iter().enumerate().filter_map(point).collect();
        if points.is_empty() {
            continue;
        }
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
            points.join(" ")
        );
        let at = LEFT + 90.0 * index as f64;
        let _ = writeln!(
            out,
            "<text x=\"{at}\" y=\"32\" fill=\"{colour}\">{name}</text>"
        );
    }
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#333\">{text}</text>"
    );
}

/// The next of 1, 2, 4, 5 and 8 with zeroes behind.
fn ceiling(value: f64) -> f64 {
    let scale = 10_f64.powf(value.max(1e-9).log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0];
    let fits = steps.into_iter().find(|step| step * scale >= value);
    fits.unwrap_or(10.0) * scale
}

fn short(value: f64) -> String {
    match value {
        value if value >= 10.0 || value == 0.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    }
}
