//! What a scrape says.

use std::collections::BTreeMap;

/// One series.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Name, with `_bucket`, `_sum` and `_count` for histograms.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

/// A scrape in Prometheus' text format.
#[derive(Clone, Debug)]
pub struct Metrics(Vec<Series>);

impl Metrics {
    /// Reads a scrape.
    ///
    /// # Panics
    /// When it is not in the format.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(lines.map(series).collect())
    }

    /// The series of a name whose labels include these.
    #[must_use]
    pub fn series(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Series> {
        self.0
            .iter()
            .filter(|series| series.name == name)
            .filter(|series| {
                labels
                    .iter()
                    .all(|(key, value)| series.labels.get(*key).is_some_and(|v| v == value))
            })
            .collect()
    }

    /// How many series there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The sum of these series; 0 when there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series(name, labels).iter().map(|s| s.value).sum()
    }
}

fn series(line: &str) -> Series {
    let (head, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = match head.split_once('{') {
        Some((name, rest)) => (name, labels(rest.strip_suffix('}').unwrap())),
        None => (head, BTreeMap::new()),
    };
    Series {
        name: name.to_owned(),
        labels,
        value: value.parse().unwrap(),
    }
}

fn labels(mut text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    while let Some((key, rest)) = text.split_once("=\"") {
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next().unwrap() {
                (_, '\\') => match chars.next().unwrap().1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (at, '"') => break at,
                (_, other) => value.push(other),
            }
        };
        labels.insert(key.to_owned(), value);
        text = rest[end + 1..].trim_start_matches(',');
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_is_read() {
        let metrics =
            Metrics::parse("# HELP a b\na{x=\"1\",y=\"q\\\"},\\\\\"} 2\na{x=\"2\"} 3\nb 1.5\n");
        assert_eq!(metrics.sum("a", &[]), 5.0);
        assert_eq!(metrics.sum("a", &[("x", "1")]), 2.0);
        assert_eq!(metrics.series("a", &[("x", "1")])[0].labels["y"], "q\"},\\");
        assert_eq!(metrics.sum("b", &[]), 1.5);
        assert_eq!(metrics.sum("c", &[]), 0.0);
    }
}
