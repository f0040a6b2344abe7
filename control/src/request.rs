//! What an operator may ask for: one JSON object with `op`.

use serde::Deserialize;

/// A request, as it comes in an [`trunkline_wire::control::Admin`] frame.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The cluster: nodes, leases, versions acknowledged, regions. In pages: `next` of an answer is the next one's `after`.
    Status {
        /// Start after this node.
        #[serde(default)]
        after: Option<u32>,
    },
    /// A dump of the map: regions with their slots, devices with an override. In pages, as above.
    Map {
        /// Start after this device's key.
        #[serde(default)]
        after: Option<String>,
    },
    /// Assigns a device to a region ahead of its first connect.
    Enroll {
        /// The device's id.
        device: String,
        /// The region's name; absent: chosen by weight.
        #[serde(default)]
        region: Option<String>,
    },
    /// Takes a device's override back: it belongs to its slot's region again. A move, unless that is the region that it is in.
    Unenroll {
        /// The device's id.
        device: String,
    },
    /// Sets a region's weight, and makes the region if there is none. No slot moves before a `rebalance`.
    Region {
        /// The region's name.
        name: String,
        /// Its share of the slots, against the others'.
        weight: u32,
    },
    /// Has a node send its devices elsewhere and let none in, until that is undone: also when it, or the control plane, starts anew.
    Drain {
        /// Its id or its name.
        node: NodeRef,
        /// Devices a second; absent: as the node is set.
        #[serde(default)]
        rate: Option<u32>,
        /// Let devices in again.
        #[serde(default)]
        undo: bool,
    },
    /// Spreads the slots over the regions by weight: as few move as possible. A move.
    Rebalance {
        /// Only says what would move.
        #[serde(default)]
        dry_run: bool,
    },
    /// Moves something to another region, without a gap.
    Move {
        /// What.
        what: What,
        /// The region's name.
        to: String,
        /// Only says what would move.
        #[serde(default)]
        dry_run: bool,
    },
    /// All moves that are not over, and the latest that are.
    Moves,
    /// How one move stands.
    MoveState {
        /// Its number.
        id: u32,
    },
    /// Gives up a move that has not switched yet.
    AbortMove {
        /// Its number.
        id: u32,
    },
    /// Moves all that a region has to the others, then removes it.
    RemoveRegion {
        /// The region's name.
        name: String,
        /// Also if more than a tenth of all instances go with it.
        #[serde(default)]
        force: bool,
        /// Only says what would move.
        #[serde(default)]
        dry_run: bool,
    },
    /// Makes a node an instance of a region, whatever its settings say, until that is taken back. A move.
    AddInstance {
        /// Its id or its name.
        node: NodeRef,
        /// The region's name.
        region: String,
        /// Only says what would happen.
        #[serde(default)]
        dry_run: bool,
    },
    /// Makes a node an instance of a region no longer, whatever its settings say, until that is taken back. A move.
    RemoveInstance {
        /// Its id or its name.
        node: NodeRef,
        /// The region's name; absent: all that it serves.
        #[serde(default)]
        region: Option<String>,
        /// Also if more than a tenth of all instances have gone then, within a minute.
        #[serde(default)]
        force: bool,
        /// Only says what would happen.
        #[serde(default)]
        dry_run: bool,
    },
    /// Takes a node out of the map.
    RemoveNode {
        /// Its id or its name.
        node: NodeRef,
        /// Also if it lives, is a region's last instance, or is one of many.
        #[serde(default)]
        force: bool,
    },
    /// Writes a copy of the store to a new file on the control plane's host.
    Backup {
        /// An absolute path.
        path: String,
    },
    /// The region and the instances of a device, by the map.
    Where {
        /// The device's id.
        device: String,
    },
}

/// What is to move.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum What {
    /// One device that is enrolled, by its id.
    Device(String),
    /// All devices without an override in these slots.
    Slots {
        /// The first slot.
        first: u16,
        /// The last slot.
        last: u16,
    },
    /// A share of the slots of one region.
    Share {
        /// The region's name.
        from: String,
        /// How many of its slots, in ten-thousandths.
        share: u32,
    },
}

/// A node, by id or by name.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum NodeRef {
    /// By id.
    Id(u32),
    /// By name.
    Name(String),
}

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub fn parse(json: &[u8]) -> Result<Request, String> {
        serde_json::from_slice(json).map_err(|error| format!("the request can't be read: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        let parse = |text: &str| Request::parse(text.as_bytes());
        assert_eq!(parse(r#"{"op":"status"}"#), Ok(Request::Status { after: None }));
        let device = || "d".to_string();
        let region = None;
        assert_eq!(
            parse(r#"{"op":"enroll","device":"d","region":null}"#),
            Ok(Request::Enroll {
                device: device(),
                region
            })
        );
        let node = NodeRef::Name("n".into());
        assert_eq!(
            parse(r#"{"op":"remove-node","node":"n"}"#),
            Ok(Request::RemoveNode { node, force: false })
        );
        let node = NodeRef::Id(3);
        assert_eq!(
            parse(r#"{"op":"remove-node","node":3,"force":true}"#),
            Ok(Request::RemoveNode { node, force: true })
        );
        assert_eq!(
            parse(r#"{"op":"rebalance"}"#),
            Ok(Request::Rebalance { dry_run: false })
        );
        let what = What::Share {
            from: "eu".into(),
            share: 2_500,
        };
        assert_eq!(
            parse(r#"{"op":"move","what":{"share":{"from":"eu","share":2500}},"to":"us"}"#),
            Ok(Request::Move {
                what,
                to: "us".into(),
                dry_run: false
            })
        );
        assert_eq!(parse(r#"{"op":"abort-move","id":3}"#), Ok(Request::AbortMove { id: 3 }));
    }

    #[test]
    fn a_wrong_request_is_refused_in_one_line() {
        for text in [
            "",
            "{}",
            r#"{"op":"dance"}"#,
            r#"{"op":"where"}"#,
            r#"{"op":"where","device":"d","x":1}"#,
            "[]",
        ] {
            let error = Request::parse(text.as_bytes()).unwrap_err();
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
