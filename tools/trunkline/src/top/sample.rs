//! A node's `/metrics` at one time: OpenMetrics text, read as far as our own nodes write it.

use std::collections::HashMap;

/// The values of each metric, by name.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    metrics: HashMap<String, Vec<Value>>,
}

/// Names and values.
type Labels = Vec<(String, String)>;

/// One line.
#[derive(Clone, Debug, PartialEq)]
struct Value {
    labels: Labels,
    value: f64,
}

impl Sample {
    /// Reads `text`; a line that is none is left out.
    pub fn parse(text: &str) -> Sample {
        let mut sample = Sample::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, labels, value)) = read_line(line) else {
                continue;
            };
            let values = sample.metrics.entry(name.to_owned()).or_default();
            values.push(Value { labels, value });
        }
        sample
    }

    /// The value of `name` for a shard, or for the node if it says nothing of shards.
    pub fn of_shard(&self, name: &str, shard: u32) -> Option<f64> {
        let shard = shard.to_string();
        let values = self.metrics.get(&format!("{PREFIX}{name}"))?;
        let of_it = |value: &&Value| value.label("shard").is_none_or(|of| of == shard);
        values.iter().find(of_it).map(|value| value.value)
    }

    /// The sum of `name` over all shards.
    pub fn sum(&self, name: &str) -> f64 {
        let values = self.metrics.get(&format!("{PREFIX}{name}"));
        values.into_iter().flatten().map(|value| value.value).sum()
    }

    /// The label `label` of the metric `name`, of a shard if one is named.
    pub fn label(&self, name: &str, shard: Option<u32>, label: &str) -> Option<String> {
        let shard = shard.map(|shard| shard.to_string());
        let values = self.metrics.get(&format!("{PREFIX}{name}"))?;
        let of_it = |value: &&Value| shard.as_deref().is_none_or(|shard| value.label("shard") == Some(shard));
        Some(values.iter().find(of_it)?.label(label)?.to_owned())
    }

    /// How many shards there are.
    pub fn shards(&self) -> u32 {
        let values = self.metrics.get(&format!("{PREFIX}turns_total"));
        values.map_or(0, |values| values.len() as u32)
    }
}

impl Value {
    fn label(&self, name: &str) -> Option<&str> {
        let found = self.labels.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// `name{label="value",…} number`, the labels possibly absent.
fn read_line(line: &str) -> Option<(&str, Labels, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => read_labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name, labels, value))
}

/// Labels up to the brace that closes them, and what comes then. Values may have commas, braces and escaped quotes in them.
fn read_labels(mut text: &str) -> Option<(Labels, &str)> {
    let mut labels = Vec::new();
    loop {
        text = text.trim_start_matches(',');
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = rest.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.push((name.to_owned(), value));
        text = &rest[end + 1..];
    }
}

const PREFIX: &str = "trunkline_";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_name_and_shard() {
        let text = "# HELP trunkline_turns Turns.\ntrunkline_turns_total{shard=\"0\"} 5\ntrunkline_turns_total{shard=\"1\"} 7\n\
                    trunkline_draining 1\ntrunkline_node_info{node=\"3\",name=\"a \\\"b\\\", {c}\"} 1\nrubbish\n# EOF\n";
        let sample = Sample::parse(text);
        assert_eq!(sample.shards(), 2);
        assert_eq!(sample.of_shard("turns_total", 1), Some(7.0));
        assert_eq!(sample.of_shard("turns_total", 2), None);
        assert_eq!(sample.of_shard("draining", 1), Some(1.0));
        assert_eq!(sample.sum("turns_total"), 12.0);
        assert_eq!(sample.label("node_info", None, "name").as_deref(), Some("a \"b\", {c}"));
    }
}
