//! `WWW-Authenticate` as registries write it (RFC 9110 §11.6.1).

/// How a registry wants to be told who we are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Challenge {
    /// A user and a password with each request.
    Basic,
    /// A token, which is had elsewhere.
    Bearer {
        /// Where tokens are had.
        realm: String,
        /// Whom they are for.
        service: Option<String>,
    },
}

impl Challenge {
    /// The strongest challenge in these header values.
    pub(crate) fn read<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for value in values {
            for (scheme, parameters) in challenges(value) {
                let named = |name: &str| {
                    let found = parameters
                        .iter()
                        .find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.clone())
                };
                if scheme.eq_ignore_ascii_case("bearer")
                    && let Some(realm) = named("realm")
                {
                    return Some(Self::Bearer {
                        realm,
                        service: named("service"),
                    });
                }
                if scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                }
            }
        }
        basic
    }
}

type Parameters = Vec<(String, String)>;

/// Splits `Scheme k=v, k="v", Scheme2 …`. What is neither is skipped.
fn challenges(value: &str) -> Vec<(String, Parameters)> {
    let mut found: Vec<(String, Parameters)> = Vec::new();
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return found;
        }
        let end = rest.find([' ', '\t', ',', '=', '"']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let next = after.trim_start_matches([' ', '\t']);
        match next.strip_prefix('=') {
            Some(value) if !word.is_empty() => {
                let (value, after) = parameter(value.trim_start_matches([' ', '\t']));
                if let Some((_, parameters)) = found.last_mut() {
                    parameters.push((word.to_owned(), value));
                }
                rest = after;
            }
            _ if !word.is_empty() => {
                found.push((word.to_owned(), Vec::new()));
                rest = after;
            }
            _ => {
                let skip = rest.chars().next().map_or(0, char::len_utf8);
                rest = &rest[skip..];
            }
        }
    }
}

/// A token or a quoted string, and what follows.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
        })
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let table = [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="a:b:pull,push""#,
                bearer("https://auth.docker.io/token", Some("registry.docker.io")),
            ),
            (
                r#"bearer REALM=https://a/t , error="x\"y, z""#,
                bearer("https://a/t", None),
            ),
            (r#"Basic realm="Registry Realm""#, Some(Challenge::Basic)),
            (
                r#"Basic realm="a", Bearer realm="https://b""#,
                bearer("https://b", None),
            ),
            ("Bearer", None),
            ("Negotiate", None),
            ("", None),
            (r#"=,"=,Bearer realm="unclosed"#, bearer("unclosed", None)),
        ];
        for (text, expected) in table {
            assert_eq!(Challenge::read([text]), expected, "{text}");
        }
        let both = ["Basic realm=a", "Bearer realm=b"];
        assert_eq!(Challenge::read(both), bearer("b", None));
    }
}
