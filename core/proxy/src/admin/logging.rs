//! `/logging`: which modules log how much, and changing that.

use std::fmt::Write as _;

use http::{Method, StatusCode};

use super::server::{Answer, Asked};
use super::{Admin, LogLevels};

/// Shows the levels, after changing them where POST asks for it:
///
/// - `level=debug` for everything; `level=wayline_proxy:debug,h2:warn` (istioctl's form) for those;
/// - `scope=wayline_proxy=debug`, several times or separated by commas;
/// - `paths=wayline_proxy:debug,h2:warn` and `wayline_proxy=debug`, as Envoy has them.
pub(super) fn page(admin: &Admin, asked: &Asked) -> Answer {
    let Some(levels) = &admin.known.log_levels else {
        return Answer::refusal(
            StatusCode::NOT_IMPLEMENTED,
            "the log levels of this process are fixed\n",
        );
    };
    if asked.method != Method::POST {
        return Answer::text(list(&**levels));
    }
    let mut filter = Filter::parse(&levels.current());
    if let Err(reason) = filter.change(&asked.parameters) {
        return Answer::refusal(StatusCode::BAD_REQUEST, format!("{reason}\n"));
    }
    match levels.set(&filter.written()) {
        Ok(()) => {
            tracing::info!(filter = filter.written(), "log levels changed");
            Answer::text(list(&**levels))
        }
        Err(error) => Answer::refusal(
            StatusCode::BAD_REQUEST,
            format!("these levels are not valid: {error}\n"),
        ),
    }
}

fn list(levels: &dyn LogLevels) -> String {
    let filter = Filter::parse(&levels.current());
    let mut text = "active loggers:\n".to_owned();
    if let Some(level) = &filter.everything {
        let _infallible = writeln!(text, "  all: {level}");
    }
    for (scope, level) in &filter.scopes {
        let _infallible = writeln!(text, "  {scope}: {level}");
    }
    text
}

/// A filter as `RUST_LOG` writes it, taken apart.
#[derive(Debug, Default, Eq, PartialEq)]
struct Filter {
    everything: Option<String>,
    scopes: Vec<(String, String)>,
}

impl Filter {
    fn parse(written: &str) -> Self {
        let mut filter = Self::default();
        for part in split(written) {
            match part.rsplit_once('=') {
                // A field filter, `module[span{field=value}]`, is a scope without a level.
                Some((scope, level)) if !level.contains(']') => {
                    filter.scopes.push((scope.to_owned(), level.to_owned()));
                }
                None if canonical(part).is_some() => filter.everything = Some(part.to_owned()),
                _ => filter.scopes.push((part.to_owned(), "trace".to_owned())),
            }
        }
        filter
    }

    fn change(&mut self, parameters: &[(String, String)]) -> Result<(), String> {
        if parameters.is_empty() {
            return Err(
                "say what to change, e.g. ?level=debug or ?scope=wayline_proxy=debug".into(),
            );
        }
        for (name, value) in parameters {
            match name.as_str() {
                "level" | "scope" | "paths" => {
                    for part in value.split(',') {
                        match part.rsplit_once(['=', ':']) {
                            Some((scope, level)) => self.set(scope, level)?,
                            None if name == "level" => {
                                *self = Self {
                                    everything: Some(valid(part)?),
                                    scopes: Vec::new(),
                                };
                            }
                            None => {
                                return Err(format!("{name} {part:?} needs a level: MODULE=LEVEL"));
                            }
                        }
                    }
                }
                scope => self.set(scope, value)?,
            }
        }
        Ok(())
    }

    fn set(&mut self, scope: &str, level: &str) -> Result<(), String> {
        let level = valid(level)?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-' | '.');
        if scope.is_empty() || !scope.chars().all(is_name) {
            return Err(format!(
                "{scope:?} is no module: write it as wayline_proxy::tunnel"
            ));
        }
        if matches!(scope, "all" | "default") {
            self.everything = Some(level);
            return Ok(());
        }
        match self.scopes.iter_mut().find(|(known, _)| known == scope) {
            Some((_, known)) => *known = level,
            None => self.scopes.push((scope.to_owned(), level)),
        }
        Ok(())
    }

    fn written(&self) -> String {
        let scopes = self.scopes.iter();
        let parts = scopes.map(|(scope, level)| format!("{scope}={level}"));
        let all: Vec<String> = self.everything.iter().cloned().chain(parts).collect();
        all.join(",")
    }
}

/// The parts of a filter; commas between brackets separate fields.
fn split(written: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    let parts = written.split(move |c| {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty())
}

fn valid(level: &str) -> Result<String, String> {
    canonical(level)
        .map(str::to_owned)
        .ok_or_else(|| format!("{level:?} is no level: use trace, debug, info, warn, error or off"))
}

/// A level as we write it; Envoy's and Istio's further names mean their neighbours.
fn canonical(level: &str) -> Option<&'static str> {
    Some(match level.to_ascii_lowercase().as_str() {
        "trace" => "trace",
        "debug" => "debug",
        "info" => "info",
        "warn" | "warning" => "warn",
        "error" | "critical" | "fatal" => "error",
        "off" | "none" => "off",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::Filter;

    fn changed(before: &str, parameters: &[(&str, &str)]) -> Result<String, String> {
        let mut filter = Filter::parse(before);
        let parameters: Vec<_> = parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        filter.change(&parameters)?;
        Ok(filter.written())
    }

    #[test]
    fn levels_change_as_asked() {
        let before = "info,wayline_proxy=debug";
        for (parameters, after) in [
            (&[("level", "debug")][..], "debug"),
            (&[("level", "WARNING")], "warn"),
            (&[("level", "h2:warn")], "info,wayline_proxy=debug,h2=warn"),
            (
                &[("scope", "wayline_proxy=trace"), ("scope", "h2=off")],
                "info,wayline_proxy=trace,h2=off",
            ),
            (
                &[("paths", "wayline_proxy::tunnel:trace,h2:critical")],
                "info,wayline_proxy=debug,wayline_proxy::tunnel=trace,h2=error",
            ),
            (&[("h2", "info")], "info,wayline_proxy=debug,h2=info"),
            (&[("scope", "all=warn")], "warn,wayline_proxy=debug"),
        ] {
            assert_eq!(changed(before, parameters).unwrap(), after);
        }
    }

    #[test]
    fn what_is_not_a_level_changes_nothing() {
        for parameters in [
            &[][..],
            &[("level", "loud")],
            &[("level", "")],
            &[("scope", "debug")],
            &[("scope", "h2=loud")],
            &[("scope", "=debug")],
            &[("scope", "a[b]=debug")],
            &[("h2", "")],
        ] {
            assert!(changed("info", parameters).is_err(), "{parameters:?}");
        }
    }

    #[test]
    fn field_filters_survive() {
        let before = "info,a[b{c=1,d=2}]=debug,e[f{g=h}]";
        let after = "info,a[b{c=1,d=2}]=debug,e[f{g=h}]=trace,x=warn";
        assert_eq!(changed(before, &[("scope", "x=warn")]).unwrap(), after);
    }
}
