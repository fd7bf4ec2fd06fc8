//! Two plots as SVG, drawn by hand: latency by percentile, and cost by fleet size. Both axes are logarithmic.
//!
//! Never here: figures that are not in the lines.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::report::Line;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
/// Room for the scales, on the left and below; and above.
const LEFT: f64 = 60.0;
const BELOW: f64 = 40.0;
const ABOVE: f64 = 30.0;
/// Room for the names, on the right.
const NAMES: f64 = 230.0;
/// Colours that the colour-blind tell apart (Okabe and Ito 2008).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// A line of a plot: its name, and its points.
type Series = (String, Vec<(f64, f64)>);

/// One plot.
struct Plot<'a> {
    title: &'a str,
    /// Marks of the x axis.
    marks: Vec<(f64, String)>,
    series: Vec<Series>,
}

/// Both plots, one above the other.
pub(crate) fn svg(lines: &[Line]) -> String {
    let percentiles: [(f64, &str); 4] = [(0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9")];
    let latency = Plot {
        title: "ms from due to answered, by percentile",
        marks: percentiles.iter().map(|(share, name)| (1.0 / (1.0 - share), (*name).to_owned())).collect(),
        series: lines.iter().map(latency_of).collect(),
    };
    let mut fleets: Vec<usize> = lines.iter().map(|line| line.drivers).collect();
    fleets.sort_unstable();
    fleets.dedup();
    let mut by_name: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for run in lines {
        if let Some(us) = run.server_us_a_request {
            let name = format!("{} {:?}", run.contender, run.mix).to_lowercase();
            by_name.entry(name).or_default().push((run.drivers as f64, us));
        }
    }
    let by_size = Plot {
        title: "µs of processor time a request of what answers, by drivers",
        marks: fleets.iter().map(|size| (*size as f64, size.to_string())).collect(),
        series: by_name.into_iter().collect(),
    };
    let (width, height) = (LEFT + WIDTH + NAMES, ABOVE + HEIGHT + BELOW);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}{}</svg>\n",
        2.0 * height,
        latency.draw(0.0),
        by_size.draw(height),
    )
}

fn latency_of(line: &Line) -> Series {
    let of = &line.latency_ms;
    let by_share = [(0.5, of.p50), (0.9, of.p90), (0.99, of.p99), (0.999, of.p999)];
    let points = by_share.iter().map(|(share, ms)| (1.0 / (1.0 - share), *ms)).collect();
    (format!("{} {:?} {}", line.contender, line.mix, line.drivers).to_lowercase(), points)
}

impl Plot<'_> {
    fn draw(&self, top: f64) -> String {
        let values =
            || self.series.iter().flat_map(|(_, points)| points.iter().map(|(_, y)| *y)).filter(|y| *y > 0.0);
        let least = values().fold(f64::INFINITY, f64::min);
        if !least.is_finite() {
            return String::new();
        }
        let (low, high) = (least.log10().floor(), values().fold(least, f64::max).log10().ceil());
        let high = high.max(low + 1.0);
        let edges = |pick: fn(f64, f64) -> f64, of: f64| self.marks.iter().map(|(x, _)| x.log10()).fold(of, pick);
        let (from, to) = (edges(f64::min, f64::INFINITY), edges(f64::max, f64::NEG_INFINITY));
        let span = if to > from { to - from } else { 1.0 };
        let bottom = top + ABOVE + HEIGHT;
        let x_of = |x: f64| LEFT + (x.log10() - from) / span * WIDTH;
        let y_of = |y: f64| bottom - (y.max(least).log10() - low) / (high - low) * HEIGHT;
        let mut out = format!("<text x=\"{LEFT}\" y=\"{}\" font-size=\"14\">{}</text>\n", top + 20.0, self.title);
        let right = LEFT + WIDTH;
        for power in low as i32..=high as i32 {
            let value = 10.0_f64.powi(power);
            let y = y_of(value).clamp(top + ABOVE, bottom);
            let _infallible = writeln!(
                out,
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
                LEFT - 5.0,
                y + 4.0,
            );
        }
        for (x, name) in &self.marks {
            let (x, y) = (x_of(*x), bottom + 15.0);
            let _infallible = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{name}</text>");
        }
        for (number, (name, points)) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            // When all colours are taken they come again, dashed.
            let (dash, told) = if number < COLOURS.len() { ("", "") } else { (" stroke-dasharray=\"6 3\"", " - -") };
            let along: Vec<String> = points.iter().map(|(x, y)| format!("{:.1},{:.1}", x_of(*x), y_of(*y))).collect();
            let _infallible = writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
                along.join(" ")
            );
            for place in &along {
                let (x, y) = place.split_once(',').unwrap_or_default();
                let _infallible = writeln!(out, "<circle cx=\"{x}\" cy=\"{y}\" r=\"3\" fill=\"{colour}\"/>");
            }
            let y = top + ABOVE + 15.0 * (number as f64 + 1.0);
            let _infallible =
                writeln!(out, "<text x=\"{}\" y=\"{y:.1}\" fill=\"{colour}\">{name}{told}</text>", right + 10.0);
        }
        out
    }
}
