//! `wayline check`: what is wrong with manifests, without serving them.

use std::fmt::Write as _;
use std::io::Write as _;

use serde::Serialize;
use wayline_control::Checked;
use wayline_model::translate::Options;
use wayline_model::{Finding, Severity, Statuses};

use crate::cli::{CheckArgs, Format};
use crate::failure::Failure;
use crate::{FINDINGS, OK, output};

/// Prints the findings; the exit code is 3 when one of them changes what is served.
pub(crate) fn run(args: &CheckArgs) -> Result<u8, Failure> {
    let options = Options {
        gateways: args.gateways.iter().cloned().map(Into::into).collect(),
    };
    let checked = wayline_control::check(&args.files, options)?;
    let report = Report::of(&checked);
    match args.output {
        Format::Human => {
            output::print(human(&checked).as_bytes())?;
            let _ = writeln!(std::io::stderr(), "{}", report.summary);
        }
        Format::Json => {
            let mut text = serde_json::to_vec_pretty(&report).map_err(Failure::new)?;
            text.push(b'\n');
            output::print(&text)?;
        }
    }
    Ok(if report.summary.errors > 0 {
        FINDINGS
    } else {
        OK
    })
}

/// The report as programs read it. Fields are added, never changed, within one `apiVersion`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    api_version: &'static str,
    kind: &'static str,
    summary: Summary,
    findings: &'a [Finding],
    /// What each object's `status` would say; what listeners do when bound is not known here.
    statuses: &'a Statuses,
}

#[derive(Clone, Copy, Serialize)]
struct Summary {
    files: usize,
    objects: usize,
    errors: usize,
    hints: usize,
}

impl<'a> Report<'a> {
    fn of(checked: &'a Checked) -> Self {
        let count = |severity| {
            let findings = checked.findings.iter();
            findings.filter(|it| it.severity == severity).count()
        };
        Self {
            api_version: "wayline.dev/v1",
            kind: "WaylineReport",
            summary: Summary {
                files: checked.files,
                objects: checked.objects,
                errors: count(Severity::Error),
                hints: count(Severity::Hint),
            },
            findings: &checked.findings,
            statuses: &checked.snapshot.statuses,
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} and {} in {} of {}",
            counted(self.errors, "error"),
            counted(self.hints, "hint"),
            counted(self.objects, "object"),
            counted(self.files, "file"),
        )
    }
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// One finding per paragraph, its first line as compilers write theirs.
fn human(checked: &Checked) -> String {
    let mut text = String::new();
    for finding in &checked.findings {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Hint => "hint",
        };
        if let Some(file) = &finding.file {
            let _ = write!(text, "{file}:");
            if let Some(line) = finding.line {
                let _ = write!(text, "{line}:");
            }
            text.push(' ');
        }
        let _ = write!(text, "{severity}: ");
        if let Some(object) = &finding.object {
            let _ = write!(text, "{object}: ");
        }
        if let Some(field) = &finding.field {
            let _ = write!(text, "{field}: ");
        }
        let _ = writeln!(text, "{}", finding.reason);
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "  try: {remedy}");
        }
    }
    text
}
