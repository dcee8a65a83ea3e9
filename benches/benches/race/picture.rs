//! `benches/RESULTS.svg`: CPU time per request, a bar for each contestant in each scene.

use std::fmt::Write as _;

use wayline_benches::Measurement;

use crate::contestant::Contestant;
use crate::report::Entry;
use crate::scene::Scene;

const LEFT: f64 = 210.0;
const BARS: f64 = 430.0;
const BAR: f64 = 13.0;
const GAP: f64 = 10.0;
const WIDTH: f64 = LEFT + BARS + 70.0;

/// Scenes in which a request moves a mebibyte, or nothing is asked, have no place on one scale with
/// the others.
fn is_shown(entry: &Entry) -> bool {
    let odd = matches!(entry.scene, Scene::Download | Scene::Upload | Scene::Idle);
    !odd && entry.median(Measurement::cpu_micros).is_finite()
}

/// The picture as SVG.
pub(crate) fn svg(entries: &[Entry]) -> String {
    let shown: Vec<&Entry> = entries.iter().filter(|entry| is_shown(entry)).collect();
    let cpu = |entry: &Entry| entry.median(Measurement::cpu_micros);
    let most = shown.iter().map(|entry| cpu(entry)).fold(1.0, f64::max);
    let mut body = String::new();
    let mut top = 40.0;
    let mut last = None;
    for entry in &shown {
        if last.replace(entry.scene) != Some(entry.scene) {
            top += GAP;
            let _infallible = writeln!(
                body,
                "<text x=\"8\" y=\"{:.0}\" font-weight=\"bold\">{}</text>",
                top + BAR - 3.0,
                entry.scene.name()
            );
        }
        let width = cpu(entry) / most * BARS;
        let _infallible = writeln!(
            body,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{top:.0}\" width=\"{width:.1}\" height=\"{:.0}\" fill=\"{}\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\">{:.1}</text>",
            LEFT - 6.0,
            top + BAR - 3.0,
            entry.contestant.name(),
            BAR - 2.0,
            colour(entry.contestant),
            LEFT + width + 5.0,
            top + BAR - 3.0,
            cpu(entry),
        );
        top += BAR;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH:.0}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"22\" font-size=\"14\">CPU time per request in µs, median; less is better</text>\n\
         {body}</svg>\n",
        height = top + 16.0,
    )
}

fn colour(contestant: Contestant) -> &'static str {
    match contestant {
        Contestant::Bare => "#b8b8b8",
        Contestant::Nginx => "#7fa99b",
        Contestant::Haproxy => "#7d8fb3",
        Contestant::Envoy => "#c98b8b",
        Contestant::Wayline => "#2b6cb0",
    }
}
