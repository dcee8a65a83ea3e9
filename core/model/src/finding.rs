//! What is wrong with the configuration, told so that its author can mend it.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; what is served is what was asked for.
    Hint,
    /// What is served differs from what was written: `wayline check` exits with 3.
    Error,
}

/// One finding about one place in the configuration.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// File (or other source) the object came from.
    pub file: Option<Arc<str>>,
    /// Line in that file, counted from 1.
    pub line: Option<u32>,
    /// The object, as `Kind namespace/name`.
    pub object: Option<String>,
    /// Path of the field, as `spec.rules[0].matches[1].path.value`.
    pub field: Option<String>,
    /// What is wrong and what Wayline does about it.
    pub reason: String,
    /// What the author can do.
    pub remedy: Option<String>,
}

impl Finding {
    /// A finding that changes what is served.
    #[must_use]
    pub fn error(reason: impl Into<String>) -> Self {
        Self::new(Severity::Error, reason)
    }

    /// A finding that changes nothing.
    #[must_use]
    pub fn hint(reason: impl Into<String>) -> Self {
        Self::new(Severity::Hint, reason)
    }

    fn new(severity: Severity, reason: impl Into<String>) -> Self {
        Self {
            severity,
            file: None,
            line: None,
            object: None,
            field: None,
            reason: reason.into(),
            remedy: None,
        }
    }

    /// Names the object.
    #[must_use]
    pub fn on(mut self, object: impl fmt::Display) -> Self {
        self.object = Some(object.to_string());
        self
    }

    /// Names the field.
    #[must_use]
    pub fn field(mut self, path: impl Into<String>) -> Self {
        self.field = Some(path.into());
        self
    }

    /// Names file and line.
    #[must_use]
    pub fn at(mut self, file: Arc<str>, line: Option<u32>) -> Self {
        self.file = Some(file);
        self.line = line;
        self
    }

    /// Says what the author can do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.reason)?;
        if let Some(remedy) = &self.remedy {
            write!(f, " (try: {remedy})")?;
        }
        Ok(())
    }
}
