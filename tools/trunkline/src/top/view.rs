//! Figures as lines of text, the same for a terminal and for a file.

use std::net::SocketAddr;

use super::figures::{Core, Node};

/// A node's figures, or why there are none.
pub type Shown = (SocketAddr, Result<Node, String>);

/// Two tables: nodes, then cores.
pub fn lines(nodes: &[Shown]) -> Vec<String> {
    let mut lines = vec![format!(
        "{:<22}{:<14}{:>10}{:>10}{:>10}{:>7}{:>9}{:>7}{:>10}{:>6}  {}",
        "NODE", "NAME", "IN/S", "OUT/S", "SESSIONS", "LINKS", "DIRECT", "HITS", "LDCI", "MAP", "STATE"
    )];
    for (address, node) in nodes {
        lines.push(match node {
            Ok(node) => node_line(*address, node),
            Err(error) => format!("{address:<22}{error}", address = address.to_string()),
        });
    }
    lines.push(String::new());
    lines.push(format!(
        "{:<22}{:>6}{:>6}{:>7}{:>10}{:>10}{:>7}{:>8}{:>8}{:>8}{:>8}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "NODE",
        "SHARD",
        "CORE",
        "BACK",
        "IN/S",
        "OUT/S",
        "CPU %",
        "US/MSG",
        "FR/RECV",
        "FR/SEND",
        "BATCH",
        "QUEUED",
        "MESH",
        "OPEN",
        "CALL/MSG",
        "SLEEPS/S"
    ));
    for (address, node) in nodes {
        for core in node.iter().flat_map(|node| &node.cores) {
            lines.push(core_line(*address, core));
        }
    }
    lines
}

fn node_line(address: SocketAddr, node: &Node) -> String {
    let state = match (node.draining, node.in_sync) {
        (true, _) => "draining",
        (false, true) => "in sync",
        (false, false) => "not in sync",
    };
    let name = node.name.as_deref().or(node.node.as_deref()).unwrap_or("-");
    let hits = node
        .hit_ratio
        .map_or("-".to_owned(), |hits| format!("{:.1} %", 100.0 * hits));
    format!(
        "{:<22}{:<14}{:>10}{:>10}{:>10}{:>7}{:>9}{:>7}{:>10}{:>6}  {state}",
        address.to_string(),
        clipped(name, 13),
        count(node.messages_in),
        count(node.messages_out),
        count(node.sessions),
        count(node.links),
        format!("{}/{}", count(node.direct_links), count(node.direct_links_budget)),
        hits,
        count(node.ldci),
        count(node.map_version),
    )
}

fn core_line(address: SocketAddr, core: &Core) -> String {
    format!(
        "{:<22}{:>6}{:>6}{:>7}{:>10}{:>10}{:>7}{:>8}{:>8}{:>8}{:>8}{:>9}{:>9}{:>9}{:>9}{:>9}",
        address.to_string(),
        core.shard,
        core.core.as_deref().unwrap_or("-"),
        core.backend.as_deref().unwrap_or("-"),
        count(core.messages_in),
        count(core.messages_out),
        maybe(core.cpu_percent, 0),
        maybe(core.cpu_us_per_message, 2),
        maybe(core.frames_per_receive, 1),
        maybe(core.frames_per_send, 1),
        maybe(core.completions_per_turn, 1),
        count(core.queued_bytes),
        count(core.mesh_queued_bytes),
        count(core.unresolved),
        maybe(core.calls_per_message, 3),
        count(core.sleeps),
    )
}

fn maybe(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}

/// A count in at most six characters: 87, 12.3k, 4.56M.
fn count(value: f64) -> String {
    match value {
        value if value < 9_999.5 => format!("{value:.0}"),
        value if value < 999_950.0 => format!("{:.1}k", value / 1e3),
        value if value < 999_995_000.0 => format!("{:.2}M", value / 1e6),
        value => format!("{:.2}G", value / 1e9),
    }
}

fn clipped(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::sample::Sample;

    #[test]
    fn counts_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (9_999.0, "9999"),
            (12_345.0, "12.3k"),
            (999_960.0, "1.00M"),
            (2.5e9, "2.50G"),
        ] {
            assert_eq!(count(value), text);
        }
    }

    #[test]
    fn every_row_is_as_wide_as_its_heading_and_who_does_not_answer_is_named() {
        let sample = Sample::parse("trunkline_turns_total{shard=\"0\"} 1\n");
        let answers = Node::between(&sample, &sample, 1.0);
        let shown = [
            ("127.0.0.1:7480".parse().unwrap(), Ok(answers)),
            ("127.0.0.1:7481".parse().unwrap(), Err("no answer".to_owned())),
        ];
        let lines = lines(&shown);
        assert_eq!(lines.len(), 6);
        assert!(lines[2].starts_with("127.0.0.1:7481") && lines[2].ends_with("no answer"));
        assert_eq!(lines[4].len(), lines[5].len(), "{lines:#?}");
    }
}
