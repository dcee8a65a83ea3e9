//! Path templates: `{*}` stands for one segment, `{**}` for any rest, also an empty one.

const ONE: &str = "{*}";
const REST: &str = "{**}";

/// A path with templates, as `/users/{*}/photos` or `/files/{**}/info`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct PathTemplate {
    /// Segments up to the rest; `None` for one of any kind. The first is what precedes the first slash:
    /// nothing.
    segments: Vec<Option<Box<str>>>,
    /// What follows `{**}`, when there is one.
    rest: Option<Box<str>>,
}

impl PathTemplate {
    /// Whether a policy's path is meant as a template, well-formed or not.
    pub(super) fn is_meant(path: &str) -> bool {
        path.contains(['{', '}'])
    }

    /// Reads a template; the error says what is wrong with it.
    pub(super) fn parse(path: &str) -> Result<Self, &'static str> {
        if !path.starts_with('/') {
            return Err("a path template begins with a slash");
        }
        let mut template = Self {
            segments: Vec::new(),
            rest: None,
        };
        let mut written = path.split('/');
        while let Some(segment) = written.next() {
            match segment {
                ONE => template.segments.push(None),
                REST => {
                    let after: Vec<&str> = written.collect();
                    if after.iter().any(|part| matches!(*part, ONE | REST)) {
                        return Err("`{**}` must be the last template in a path");
                    }
                    if after.iter().any(|part| is_odd(part)) {
                        return Err(ODD);
                    }
                    let after: String = after.iter().flat_map(|part| ["/", part]).collect();
                    template.rest = Some(after.into());
                    break;
                }
                literal if is_odd(literal) => return Err(ODD),
                literal => template.segments.push(Some(literal.into())),
            }
        }
        Ok(template)
    }

    /// Whether a whole path matches.
    pub(super) fn matches(&self, path: &str) -> bool {
        let mut remaining = Some(path);
        for segment in &self.segments {
            let Some(text) = remaining else {
                return false;
            };
            let (here, further) = match text.split_once('/') {
                Some((here, further)) => (here, Some(further)),
                None => (text, None),
            };
            let fits = match segment {
                Some(literal) => **literal == *here,
                None => !here.is_empty(),
            };
            if !fits {
                return false;
            }
            remaining = further;
        }
        match (&self.rest, remaining) {
            (None, remaining) => remaining.is_none(),
            (Some(_), None) => false,
            (Some(after), Some(remaining)) => remaining.ends_with(&**after),
        }
    }
}

const ODD: &str = "a segment is either `{*}`, `{**}` or free of `{`, `}` and `*`";

fn is_odd(segment: &str) -> bool {
    segment.contains(['{', '}', '*'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_match_segments_and_rests() {
        for (template, yes, no) in [
            (
                "/a/{*}",
                &["/a/b", "/a/*", "/a/b%2fc", "/a/~$!,;"][..],
                &["/a", "/a/", "/a/b/c", "/a/b/", "/x/b", "a/b", ""][..],
            ),
            (
                "/a/{*}/c",
                &["/a/b/c"],
                &["/a//c", "/a/b/c/", "/a/b/d", "/a/b/b/c"],
            ),
            ("/{*}/{*}", &["/a/b"], &["/a", "/a/", "//b"]),
            ("/f/{**}", &["/f/", "/f/a", "/f/a/b/"], &["/f", "/fa", "/"]),
            ("/f/{**}/", &["/f//", "/f/a/", "/f/a/b/"], &["/f/", "/f/a"]),
            (
                "/f/{**}/x",
                &["/f//x", "/f/a/x", "/f/a/b/x"],
                &["/f/x", "/f/a/xx", "/f/a/x/"],
            ),
            (
                "/{*}/x/{**}",
                &["/a/x/", "/a/x/b"],
                &["/a/x", "/x/b", "//x/"],
            ),
            ("/{**}", &["/", "/a/b"], &["", "*"]),
        ] {
            let parsed = PathTemplate::parse(template).unwrap();
            for path in yes {
                assert!(parsed.matches(path), "{template} misses {path}");
            }
            for path in no {
                assert!(!parsed.matches(path), "{template} matches {path}");
            }
        }
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for bad in [
            "a/{*}",
            "{*}",
            "/{id}",
            "/a{*}",
            "/{*}b",
            "/{**}/{*}",
            "/{**}/{**}",
            "/{*}/b*",
            "/{",
            "/{**}/}",
            "/{***}",
        ] {
            assert!(PathTemplate::is_meant(bad));
            assert!(PathTemplate::parse(bad).is_err(), "{bad} was accepted");
        }
        assert!(!PathTemplate::is_meant("/a/*"));
    }
}
