//! What the demo says: short tables, in colour on a terminal and plain elsewhere.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Ports;
use super::stage::{Place, Stage};
use super::verdict::{Answer, Seen, Share};
use crate::failure::Failure;
use crate::output;

/// Labels of a metric that are shown; all of them would fill the screen.
const SHOWN_LABELS: [&str; 5] = [
    "reporter",
    "source_principal",
    "destination_service_name",
    "destination_version",
    "response_code",
];

/// How the access log begins to name the rule of a DENY policy.
const DENIED_BY_RULE: &str = "rbac_access_denied_matched_policy[ns[";

/// Where the demo writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    colours: bool,
    /// Whether a line may be written over.
    pub(crate) is_terminal: bool,
}

/// A backend for the table: its Pod and address.
pub(crate) type Backend = (&'static str, SocketAddr);

/// What is asked of the telemetry to show.
pub(crate) struct Samples {
    /// Lines of `istio_requests_total`.
    pub(crate) metrics: Vec<String>,
    /// Lines of the access log.
    pub(crate) log: Vec<String>,
}

impl Report {
    /// For stdout as it is.
    pub(crate) fn new() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            colours: is_terminal && wanted,
            is_terminal,
        }
    }

    /// What runs, and where.
    pub(crate) fn running(
        self,
        stage: &Stage,
        ports: &Ports,
        backends: &[Backend],
    ) -> Result<(), Failure> {
        let mut text = self.bold("Bookinfo behind a waypoint and an ingress Gateway");
        let mut row = |name: &str, value: String| {
            let _ = write!(text, "\n  {name:<18}{value}");
        };
        row(
            "bookinfo-gateway",
            format!("http://{}/productpage", stage.ingress),
        );
        row(
            "waypoint",
            format!("{}  (HBONE: mutual TLS, CONNECT)", ports.hbone),
        );
        for (index, some) in backends.chunks(3).enumerate() {
            let name = if index == 0 { "backends" } else { "" };
            let some: Vec<String> = some
                .iter()
                .map(|(name, address)| format!("{:<22}", format!("{name} :{}", address.port())))
                .collect();
            row(name, some.concat().trim_end().to_owned());
        }
        row(
            "manifests",
            format!("{}  (followed as they change)", stage.manifests().display()),
        );
        text.push_str("\n\n");
        print(&text)
    }

    /// What the ingress Gateway let in.
    pub(crate) fn ingress(self, answers: &[Answer]) -> Result<(), Failure> {
        let mut text = self.bold("Through the ingress Gateway");
        text.push('\n');
        self.answers(&mut text, answers);
        text.push('\n');
        print(&text)
    }

    /// The split.
    pub(crate) fn split(
        self,
        configured: &[Share],
        seen: &Seen,
        took: Duration,
    ) -> Result<(), Failure> {
        let mut text = self.bold("Split of reviews");
        let _ = writeln!(
            text,
            ": {} requests as bookinfo-productpage in {:.1} s",
            seen.total(),
            took.as_secs_f64()
        );
        for share in configured {
            let _ = writeln!(
                text,
                "  {:<18}configured {:>5.1} %   observed {:>5.1} %",
                share.backend,
                share.part * 100.0,
                seen.part(&share.backend) * 100.0,
            );
        }
        for (pod, count) in &seen.by_pod {
            if !configured.iter().any(|share| share.backend == *pod) {
                let _ = writeln!(text, "  {pod:<18}not configured     observed {count} times");
            }
        }
        if seen.failed > 0 {
            let _ = writeln!(text, "  failed            {}", seen.failed);
        }
        text.push('\n');
        print(&text)
    }

    /// Who may call whom.
    pub(crate) fn policies(self, answers: &[Answer]) -> Result<(), Failure> {
        let mut text = self.bold("Who may call whom");
        text.push('\n');
        self.answers(&mut text, answers);
        text.push('\n');
        print(&text)
    }

    /// Where metrics and logs are.
    pub(crate) fn telemetry(
        self,
        stage: &Stage,
        ports: &Ports,
        samples: &Samples,
    ) -> Result<(), Failure> {
        let mut text = self.bold("Telemetry");
        let _ = write!(
            text,
            "\n  {:<18}http://{}/stats/prometheus\n",
            "metrics", ports.metrics
        );
        for line in &samples.metrics {
            let _ = writeln!(text, "    {line}");
        }
        let log = stage.access_log();
        let _ = writeln!(text, "  {:<18}{}", "access log", log.display());
        for line in &samples.log {
            let _ = writeln!(text, "    {line}");
        }
        let _ = writeln!(
            text,
            "  {:<18}http://{}/healthz/ready",
            "readiness", ports.status
        );
        let _ = writeln!(
            text,
            "  {:<18}http://{}/config_dump\n",
            "configuration", ports.admin
        );
        print(&text)
    }

    /// What a curious person does next.
    pub(crate) fn next_steps(self, stage: &Stage, ports: &Ports) -> Result<(), Failure> {
        let curl = format!(
            "{} curl --dev-ca {} --via {}",
            shell(&own_path()),
            shell(&stage.dev_ca()),
            ports.hbone
        );
        let folder = stage.manifests();
        let mut text = self.bold("Try next");
        let _ = write!(
            text,
            "\n  Reload http://{}/productpage: red stars are reviews-v3.\n\
             \x20 Call reviews as productpage, and as somebody else:\n\
             \x20   {curl} --from default/bookinfo-productpage http://reviews:9080/reviews/0\n\
             \x20   {curl} --from default/intruder -i http://reviews:9080/reviews/0\n\
             \x20 Edit and save; what changes shows below, and no request is lost:\n\
             \x20   {}     weights, headers, paths\n\
             \x20   {}   let default/intruder in\n\n",
            stage.ingress,
            folder.join("routes.yaml").display(),
            folder.join("policies.yaml").display(),
        );
        print(&text)
    }

    /// Whether all is as configured.
    pub(crate) fn verdict(self, complaints: &[String]) -> Result<(), Failure> {
        if complaints.is_empty() {
            let good = self.paint("32", "As configured");
            return print(&format!("{good}: the split and every answer above.\n"));
        }
        let mut text = self.paint("31", "Not as configured");
        text.push_str(":\n");
        for complaint in complaints {
            let _ = writeln!(text, "  {complaint}");
        }
        print(&text)
    }

    /// One line of news.
    pub(crate) fn news(self, line: &str) -> Result<(), Failure> {
        let clear = if self.is_terminal { "\r\x1b[K" } else { "" };
        print(&format!("{clear}{line}\n"))
    }

    /// A line that the next one writes over; only for terminals.
    pub(crate) fn ticker(self, line: &str) -> Result<(), Failure> {
        if !self.is_terminal {
            return Ok(());
        }
        print(&format!("\r\x1b[K{line}"))
    }

    fn answers(self, text: &mut String, answers: &[Answer]) {
        for answer in answers {
            let target = answer.url.strip_prefix("http://").unwrap_or(&answer.url);
            let outcome = answer.outcome();
            let outcome = if answer.is_as_expected() {
                outcome
            } else {
                self.paint("31", &format!("{outcome} (expected {})", answer.expected))
            };
            let why = answer.decided_by.as_deref().unwrap_or_default();
            let line = format!(
                "  {:<22}{:<5}{target:<34}{outcome}  {why}",
                answer.who,
                answer.method.as_str()
            );
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// The table's entries for the places.
pub(crate) fn backends(places: &[Place]) -> Vec<Backend> {
    places
        .iter()
        .map(|place| (place.name, place.address))
        .collect()
}

/// A few lines of the metrics and of the log that are about `reviews`.
pub(crate) fn samples(metrics: &str, log: &str) -> Samples {
    let find = |marks: &[&str]| {
        metrics
            .lines()
            .filter(|line| line.starts_with("istio_requests_total{"))
            .find(|line| marks.iter().all(|mark| line.contains(mark)))
            .map(short)
    };
    let requests = [
        find(&[
            "destination_service_name=\"reviews-v1\"",
            "response_code=\"200\"",
        ]),
        find(&[
            "destination_service_name=\"reviews-v3\"",
            "response_code=\"200\"",
        ]),
        find(&[
            "sa/intruder\"",
            "destination_service_name=\"reviews\"",
            "response_code=\"403\"",
        ]),
    ];
    let line_with = |mark: &str| log.lines().find(|line| line.contains(mark));
    Samples {
        metrics: requests.into_iter().flatten().collect(),
        log: [line_with("/reviews/0 HTTP"), line_with(DENIED_BY_RULE)]
            .into_iter()
            .flatten()
            .map(ToOwned::to_owned)
            .collect(),
    }
}

/// A sample of a metric with only the labels that say most.
fn short(line: &str) -> String {
    let Some((name, rest)) = line.split_once('{') else {
        return line.to_owned();
    };
    let value = rest.rsplit_once("} ").map_or("", |(_, value)| value);
    let labels: Vec<String> = SHOWN_LABELS
        .iter()
        .filter_map(|label| {
            let mark = format!("{label}=\"");
            let begin = rest
                .match_indices(&mark)
                .map(|(at, _)| at)
                .find(|at| *at == 0 || rest[..*at].ends_with(','))?;
            let (text, _) = rest[begin + mark.len()..].split_once('"')?;
            Some(format!("{label}=\"{text}\""))
        })
        .collect();
    format!("{name}{{{},...}} {value}", labels.join(","))
}

/// How this very program is called from here.
fn own_path() -> PathBuf {
    let path = std::env::current_exe().unwrap_or_else(|_| "wayline".into());
    let here = std::env::current_dir().ok();
    match here.and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned)) {
        Some(relative) if relative.components().count() > 1 => relative,
        _ => path,
    }
}

/// A path as a shell reads it.
fn shell(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if text.chars().all(is_plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn print(text: &str) -> Result<(), Failure> {
    output::print(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_about_reviews_and_short() {
        let metrics = "\
# TYPE istio_requests_total counter
istio_requests_total{destination_service_name=\"ratings\",response_code=\"200\"} 7
istio_requests_total{destination_service_name=\"reviews-v1\",destination_version=\"v1\",reporter=\"waypoint\",response_code=\"200\",source_principal=\"spiffe://x\"} 1800
istio_requests_total{destination_service_name=\"reviews\",response_code=\"403\",source_principal=\"ns/default/sa/intruder\"} 2
";
        let log = "[t] \"GET /reviews/0 HTTP/1.1\" 200\n[t] \"GET /x HTTP/1.1\" 403 - rbac_access_denied_matched_policy[ns[a]-policy[b]-rule[0]]\n";
        let samples = samples(metrics, log);
        assert_eq!(
            samples.metrics,
            [
                "istio_requests_total{reporter=\"waypoint\",source_principal=\"spiffe://x\",\
                 destination_service_name=\"reviews-v1\",destination_version=\"v1\",response_code=\"200\",...} 1800",
                "istio_requests_total{source_principal=\"ns/default/sa/intruder\",\
                 destination_service_name=\"reviews\",response_code=\"403\",...} 2",
            ]
        );
        assert_eq!(samples.log.len(), 2);
    }

    #[test]
    fn paths_survive_a_shell() {
        assert_eq!(shell(Path::new("/tmp/a-b.c/d")), "/tmp/a-b.c/d");
        assert_eq!(shell(Path::new("/tmp/it's so")), r"'/tmp/it'\''s so'");
    }
}
