//! To whom the load goes. A cluster is a target as well: its connections are spread over several servers.

use std::net::SocketAddr;
use std::str::FromStr;

use crate::protocol::Kind;

/// One server, as in `floor=floor:127.0.0.1:9000,pid=456`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What reports call it.
    pub name: String,
    /// What it speaks.
    pub protocol: Kind,
    /// Where.
    pub address: SocketAddr,
    /// Further servers of the same cluster: the connections go to all of them in turn.
    pub also: Vec<SocketAddr>,
    /// Its processes, on this host: whose time and memory are read, and summed.
    pub pids: Vec<u32>,
}

impl Target {
    /// How many servers it has.
    pub fn servers(&self) -> usize {
        1 + self.also.len()
    }

    /// Where connection `number` goes.
    pub fn address_of(&self, number: usize) -> SocketAddr {
        let place = number % self.servers();
        place.checked_sub(1).map_or(self.address, |place| self.also[place])
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let mut parts = text.split(',');
        let server = parts.next().unwrap_or_default();
        let (name, server) = match server.split_once('=') {
            Some((name, server)) => (Some(name), server),
            None => (None, server),
        };
        let form = "use NAME=PROTOCOL:ADDRESS:PORT[,also=ADDRESS:PORT][,pid=PID]";
        let (protocol, address) = server.split_once(':').ok_or(form)?;
        let kind: Kind = protocol.parse()?;
        let address = address
            .parse()
            .map_err(|_| format!("{address:?} is no address with a port; {form}"))?;
        let mut target = Target {
            name: name.unwrap_or(protocol).to_owned(),
            protocol: kind,
            address,
            also: Vec::new(),
            pids: Vec::new(),
        };
        if target.name.is_empty() {
            return Err(form.to_owned());
        }
        for part in parts {
            if let Some(also) = part.strip_prefix("also=") {
                let also = also.parse();
                target
                    .also
                    .push(also.map_err(|_| format!("{part:?} is no also=ADDRESS:PORT; {form}"))?);
                continue;
            }
            let pid = part.strip_prefix("pid=").and_then(|pid| pid.parse().ok());
            let pid = pid.ok_or_else(|| format!("{part:?} is no pid=PID; {form}"))?;
            target.pids.push(pid);
        }
        Ok(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_with_and_without_its_parts() {
        let target: Target = "ours=native:127.0.0.1:7400,pid=123".parse().unwrap();
        let expected = Target {
            name: "ours".into(),
            protocol: Kind::Native,
            address: "127.0.0.1:7400".parse().unwrap(),
            also: Vec::new(),
            pids: vec![123],
        };
        assert_eq!(target, expected);
        let target: Target = "floor:[::1]:9000".parse().unwrap();
        assert_eq!((target.name.as_str(), &target.pids[..]), ("floor", &[][..]));
    }

    #[test]
    fn connections_go_to_the_servers_of_a_cluster_in_turn() {
        let target: Target = "native:127.0.0.1:1,also=127.0.0.1:2,also=127.0.0.1:3,pid=4,pid=5"
            .parse()
            .unwrap();
        assert_eq!((target.servers(), &target.pids[..]), (3, &[4, 5][..]));
        let ports: Vec<u16> = (0..5).map(|number| target.address_of(number).port()).collect();
        assert_eq!(ports, [1, 2, 3, 1, 2]);
    }

    #[test]
    fn what_is_wrong_with_a_target_is_said() {
        for (text, part) in [
            ("", "use NAME"),
            ("native", "use NAME"),
            ("=native:127.0.0.1:1", "use NAME"),
            ("a=smtp:127.0.0.1:25", "smtp"),
            ("native:localhost", "localhost"),
            ("native:127.0.0.1:1,pid=x", "pid=x"),
            ("native:127.0.0.1:1,also=x", "also=x"),
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
