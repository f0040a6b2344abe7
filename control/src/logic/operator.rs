//! What operators ask for, and the answers.
//!
//! Every answer is one JSON object; a refusal has `error`, one line that says what to do. What changes something is answered when it is
//! on disk. Answers that may be long come in pages, so that each fits a frame.

use std::collections::BTreeSet;

use serde_json::{Map as Object, Value, json};
use tracing::{info, warn};
use trunkline_wire::codec::Tail;
use trunkline_wire::control::{AdminAnswer, CONTROL_BODY_BYTES_MAX, ControlFrame, Drain};
use trunkline_wire::device::ErrorCode;
use trunkline_wire::frame::Encode;
use trunkline_wire::id::{DeviceKey, IdRef, NodeId, RegionId};
use trunkline_wire::map::{Map, OVERRIDES_MAX, REGIONS_MAX};

use super::{ConnectionId, Effect, Logic, Now, Outbox, Waiting, fail};
use crate::assignment;
use crate::config::{check_name, check_weight};
use crate::membership::Lease;
use crate::request::{NodeRef, Request};
use crate::state::moves::Then;
use crate::state::{Change, Device};
use crate::store::StoreError;

/// How many bytes of a list one page holds.
const PAGE_BYTES: usize = 64 * 1024;
/// Regions in an answer; the rest is only counted.
const REGIONS_SHOWN_MAX: usize = 128;

const _: () = assert!(PAGE_BYTES + REGIONS_SHOWN_MAX * 300 + 8192 < CONTROL_BODY_BYTES_MAX);

/// The text of a refusal.
pub(super) type Refused = String;

/// What to say when the changes are on disk.
#[derive(Debug)]
pub(super) enum Answer {
    /// This, and the version.
    Done(Value),
    /// Where the device stands then.
    Device(DeviceKey),
    /// How the move stands then.
    Move(u32),
}

/// What follows from a request.
pub(super) enum Reply {
    Now(Value),
    /// When what is staged is on disk.
    Committed(Answer),
    Later,
}

/// The answer to a backup, as a frame.
pub fn backup_answer(request: u32, result: Result<(), StoreError>, path: &str) -> Vec<u8> {
    match result {
        Ok(()) => answer(request, Ok(json!({ "path": path }))),
        Err(error) => answer(request, Err(error.to_string())),
    }
}

fn answer(request: u32, result: Result<Value, Refused>) -> Vec<u8> {
    let ok = result.is_ok();
    let json = result.unwrap_or_else(|error| json!({ "error": error })).to_string();
    let json = Tail(json.as_bytes());
    AdminAnswer { request, ok, json }.to_vec()
}

impl Logic {
    pub(super) fn operator(&mut self, now: Now, from: ConnectionId, request: u32, json: &[u8], out: &mut Outbox) {
        self.counters.requests += 1;
        let reply = Request::parse(json).and_then(|asked| self.serve(now, from, request, asked, out));
        match reply {
            Ok(Reply::Now(value)) => self.send_answer(from, answer(request, Ok(value)), out),
            Ok(Reply::Later) => {}
            Ok(Reply::Committed(answer)) => match &mut self.staged {
                Some(staged) => staged.waiting.push(Waiting::Operator {
                    connection: from,
                    request,
                    answer,
                }),
                // It was so before.
                None => self.answer(now, from, request, answer, out),
            },
            Err(error) => {
                self.counters.requests_refused += 1;
                self.send_answer(from, answer(request, Err(error)), out);
            }
        }
    }

    /// The changes are on disk.
    pub(super) fn answer(&mut self, now: Now, to: ConnectionId, request: u32, what: Answer, out: &mut Outbox) {
        let mut value = match what {
            Answer::Done(value) => value,
            Answer::Device(key) => self.device(key),
            Answer::Move(id) => {
                let mut value = self.move_json(now, id);
                value["moved"] = value["slots"].clone();
                value
            }
        };
        value["version"] = self.version().into();
        self.send_answer(to, answer(request, Ok(value)), out);
    }

    fn send_answer(&self, to: ConnectionId, frame: Vec<u8>, out: &mut Outbox) {
        if self.connections.contains_key(&to) {
            out.push(Effect::Send { to, frame });
        }
    }

    fn serve(
        &mut self,
        now: Now,
        from: ConnectionId,
        request: u32,
        asked: Request,
        out: &mut Outbox,
    ) -> Result<Reply, Refused> {
        match asked {
            Request::Status { after } => Ok(Reply::Now(self.status(now, after))),
            Request::Map { after } => self.dump(after.as_deref()).map(Reply::Now),
            Request::Where { device } => self.place(&device).map(Reply::Now),
            Request::Enroll { device, region } => self.enroll(now, &device, region.as_deref()),
            Request::Unenroll { device } => self.unenroll(now, &device),
            Request::Region { name, weight } => self.set_region(now, name, weight),
            Request::Drain { node, rate, undo } => self.drain(now, &node, rate, undo, out),
            Request::Rebalance { dry_run } => self.rebalance(now, dry_run),
            Request::Move { what, to, dry_run } => self.move_what(now, &what, &to, dry_run),
            Request::Moves => Ok(Reply::Now(self.show_moves(now))),
            Request::MoveState { id } => self.show_move(now, id).map(Reply::Now),
            Request::AbortMove { id } => self.abort_move(now, id),
            Request::RemoveRegion { name, force, dry_run } => self.remove_region(now, &name, force, dry_run),
            Request::AddInstance { node, region, dry_run } => self.add_instance(now, &node, &region, dry_run),
            Request::RemoveInstance {
                node,
                region,
                force,
                dry_run,
            } => self.remove_instance(now, &node, region.as_deref(), force, dry_run),
            Request::RemoveNode { node, force } => self.remove_node(now, &node, force, out),
            Request::Backup { path } => {
                if !path.starts_with('/') {
                    return Err(format!("the backup's path `{path}` is relative: give an absolute one"));
                }
                info!(path, "a backup is asked for");
                let to = from;
                out.push(Effect::Backup { to, request, path });
                Ok(Reply::Later)
            }
        }
    }

    pub(super) fn key_of(&self, device: &str) -> Result<DeviceKey, Refused> {
        let id = IdRef::new(device).map_err(|error| error.to_string())?;
        Ok(self.keys.device_key(id))
    }

    fn enroll(&mut self, now: Now, device: &str, region: Option<&str>) -> Result<Reply, Refused> {
        let key = self.key_of(device)?;
        let wanted = match region {
            None => None,
            Some(name) => Some(self.state.region_named(name).ok_or_else(|| self.unknown_region(name))?),
        };
        if let Some((id, mover)) = self
            .move_of_device(key)
            .filter(|(_, mover)| mover.then == Then::Removed)
        {
            let to = self.region_name(mover.to);
            return Err(format!(
                "the device `{device}` goes back to region `{to}` in move {id}: wait for it, or abort it"
            ));
        }
        if let Some(region) = wanted.filter(|region| self.is_retiring(*region)) {
            let region = self.region_name(region);
            return Err(format!("the region `{region}` is being removed: choose another"));
        }
        if let Some(known) = self.state.devices.get(&key) {
            let has = known.assigned.map(|(region, _)| region).or(known.wanted);
            if let Some(has) = has.filter(|has| wanted.is_some_and(|wanted| wanted != *has)) {
                let has = self.region_name(has);
                return Err(format!(
                    "the device `{device}` is enrolled in region `{has}`: move it with `move`, or unenroll it first"
                ));
            }
            return Ok(Reply::Committed(Answer::Device(key)));
        }
        if self.state.devices.len() >= OVERRIDES_MAX {
            return Err(format!(
                "{OVERRIDES_MAX} devices are enrolled, and more are not possible; others go by their slot"
            ));
        }
        let record = Device {
            id: device.to_owned(),
            wanted,
            enrolled_ms: now.wall_ms,
            assigned: None,
        };
        self.change(now.at, Change::Device(key, Some(record)));
        self.pending.insert((now.at + self.config.initial_interval.min, key));
        // Those that are due at once share the batch with their enrolment.
        self.assign_pending(now);
        Ok(Reply::Committed(Answer::Device(key)))
    }

    fn unenroll(&mut self, now: Now, device: &str) -> Result<Reply, Refused> {
        let key = self.key_of(device)?;
        let Some(record) = self.state.devices.get(&key) else {
            return Err(format!("the device `{device}` is not enrolled"));
        };
        if let Some((id, _)) = self.move_of_device(key) {
            return Err(format!(
                "the device `{device}` is on its way in move {id}: wait for it, or abort it"
            ));
        }
        if self.is_enrolling(key) {
            return Err(format!(
                "the device `{device}` is being enrolled: try again in a moment"
            ));
        }
        if let Some((region, _)) = record.assigned
            && self.region_of_slot(key).is_some_and(|by_slot| by_slot != region)
        {
            return self.unenroll_moving(now, key, region);
        }
        self.remove_device(now, key);
        Ok(Reply::Committed(Answer::Done(
            json!({ "device": device, "key": key.to_string() }),
        )))
    }

    fn set_region(&mut self, now: Now, name: String, weight: u32) -> Result<Reply, Refused> {
        let refuse = |reason| format!("the region `{name}` {reason}");
        check_name(&name).and_then(|()| check_weight(weight)).map_err(refuse)?;
        let id = match self.state.region_named(&name) {
            Some(id) => {
                let mut region = self.state.regions[&id].clone();
                region.weight = weight;
                self.change(now.at, Change::Region(id, Some(region)));
                id
            }
            None if self.state.regions.len() >= REGIONS_MAX => {
                return Err(format!(
                    "the cluster has {REGIONS_MAX} regions, and more are not possible"
                ));
            }
            None => {
                // Who was kept from the region of that name, since it was removed, may serve it again.
                let kept_from = self.state.orders.iter();
                let kept_from = kept_from.filter(|(_, orders)| orders.regions.get(&name) == Some(&false));
                let kept_from: Vec<_> = kept_from.map(|(node, orders)| (*node, orders.clone())).collect();
                for (node, mut orders) in kept_from {
                    orders.regions.remove(&name);
                    self.set_orders(now, node, orders);
                }
                self.add_region(now, name.clone(), weight)
            }
        };
        let note = "slots move with the next rebalance";
        let done = json!({ "region": name, "id": id.0, "weight": weight, "note": note });
        Ok(Reply::Committed(Answer::Done(done)))
    }

    pub(super) fn find_node(&self, node: &NodeRef) -> Result<NodeId, Refused> {
        let found = match node {
            NodeRef::Id(id) => Some(NodeId(*id)).filter(|id| self.state.nodes.contains_key(id)),
            NodeRef::Name(name) => self.state.node_named(name),
        };
        found.ok_or_else(|| {
            let node = match node {
                NodeRef::Id(id) => id.to_string(),
                NodeRef::Name(name) => name.clone(),
            };
            format!("there is no node `{node}`: see `status`")
        })
    }

    /// Written down, and told to the node, which does it; told again whenever the node joins, until it is undone.
    fn drain(
        &mut self,
        now: Now,
        node: &NodeRef,
        rate: Option<u32>,
        undo: bool,
        out: &mut Outbox,
    ) -> Result<Reply, Refused> {
        let id = self.find_node(node)?;
        let record = &self.state.nodes[&id];
        let name = record.name.clone();
        if !record.roles.connection && !record.roles.messaging {
            return Err(format!("node {id} `{name}` has no devices: nothing is to be drained"));
        }
        if rate == Some(0) {
            return Err("a rate of 0 devices a second would never end: use at least 1".into());
        }
        let drained = |node: &NodeId| self.state.orders.get(node).is_some_and(|orders| orders.drain.is_some());
        let others = self.online.iter().any(|(other, online)| {
            let takes = self.state.nodes.get(other).is_some_and(|node| node.roles.connection);
            *other != id && takes && !online.draining && !drained(other)
        });
        if !undo && !others {
            return Err(format!(
                "node {id} `{name}` is the last one that takes devices: there is no other for them to go to"
            ));
        }
        info!(node = %id, name, undo, "is drained by an operator");
        let rate = rate.unwrap_or(0);
        let mut orders = self.state.orders.get(&id).cloned().unwrap_or_default();
        orders.drain = (!undo).then_some(rate);
        self.set_orders(now, id, orders);
        let online = self.online.get(&id).copied();
        if let Some(online) = online {
            let frame = ControlFrame::Drain(Drain { on: !undo, rate });
            super::send(out, online.connection, frame);
        }
        Ok(Reply::Committed(Answer::Done(json!({
            "node": id.0,
            "name": name,
            "draining": !undo,
            "connected": online.is_some(),
            "sessions": online.map_or(0, |online| online.sessions),
        }))))
    }

    fn remove_node(&mut self, now: Now, node: &NodeRef, force: bool, out: &mut Outbox) -> Result<Reply, Refused> {
        let id = self.find_node(node)?;
        let record = self.state.nodes[&id].clone();
        if record.member && !force {
            let name = &record.name;
            if self.leases.of(now.at, id) == Lease::Live {
                return Err(format!("node {id} `{name}` is alive: stop it first, or use --force"));
            }
            let mut regions = record.regions.iter();
            if let Some(region) = regions.find(|region| self.state.instances(**region).count() == 1) {
                let region = self.region_name(*region);
                return Err(format!(
                    "node {id} `{name}` is the last instance of region `{region}`: use --force"
                ));
            }
            let members = self.state.members().count();
            if self.leases.needs_force(now.at, 1, members) {
                return Err(format!(
                    "removing node {id} `{name}` takes more than 10 % of the nodes away at once: use --force"
                ));
            }
        }
        warn!(node = %id, name = record.name, force, "is removed by an operator");
        if record.member {
            self.leases.count_removal(now.at);
        }
        self.leases.remove(id);
        for region in record.regions.iter().filter(|_| record.member) {
            if self.state.instances(*region).all(|instance| instance == id) {
                self.hurry(now, *region, id);
            }
        }
        self.end_turns(now, id);
        self.change(now.at, Change::Node(id, None));
        self.change(now.at, Change::Orders(id, None));
        self.call_back(now);
        if let Some(connection) = self.take_offline(id) {
            let text = format!("node {id} was removed by an operator");
            fail(out, connection, ErrorCode::NotServed, text);
        }
        Ok(Reply::Committed(Answer::Done(
            json!({ "node": id.0, "name": record.name }),
        )))
    }

    /// Nodes, from the one after `after`, as many as fit a frame; with the first page the regions and the counters.
    pub fn status(&self, now: Now, after: Option<u32>) -> Value {
        let members = self
            .state
            .nodes
            .range(NodeId(after.map_or(0, |after| after.saturating_add(1)))..);
        let mut page = Page::default();
        for (id, node) in members {
            let online = self.online.get(id);
            let held = online.and_then(|online| self.publication.held(online.connection));
            let orders = self.state.orders.get(id);
            let left_ms = self.leases.left(now.at, *id).as_millis() as u64;
            let lease = match (node.member, self.leases.of(now.at, *id)) {
                (false, _) => "left",
                (true, Lease::Live) => "live",
                (true, Lease::Lapsed) => "lapsed",
            };
            let connection = online.and_then(|online| self.connections.get(&online.connection));
            #[cfg_attr(
                not(feature = "next-version"),
                expect(unused_mut, reason = "only the next version has more")
            )]
            let mut entry = json!({
                "id": id.0,
                "name": node.name,
                "incarnation": node.incarnation.0,
                "roles": roles(node.roles),
                "regions": node.regions.iter().map(|region| self.region_name(*region)).collect::<Vec<_>>(),
                "device_address": node.device_address,
                "peer_address": node.peer_address,
                "http_address": node.http_address,
                "lease": lease,
                "lease_left_ms": left_ms,
                "connected": online.is_some(),
                "sessions": online.map(|online| online.sessions),
                "draining": online.is_some_and(|online| online.draining),
                "drained_by_operator": orders.is_some_and(|orders| orders.drain.is_some()),
                "regions_by_operator": orders.map(|orders| &orders.regions),
                "version": held.map(|held| held.version),
                "protocol": connection.map(|connection| connection.peer.version),
            });
            #[cfg(feature = "next-version")]
            {
                entry["build"] = json!(connection.and_then(|connection| connection.build.as_deref()));
            }
            if !page.push(entry, id.0.into()) {
                break;
            }
        }
        let mut value = json!({
            "lineage": format!("{:016x}", self.state.lineage),
            "version": self.version(),
            "settled": self.state.slots.is_some(),
            "members": self.state.members().count(),
            "devices_enrolled": self.state.devices.len(),
            "devices_pending": self.pending.len(),
            "moves_open": self.open_moves(),
            "held": self.held.iter().take(64).map(|node| node.0).collect::<Vec<_>>(),
            "nodes": page.entries,
            "next": page.next,
        });
        if after.is_none() {
            value["regions"] = self.regions();
            value["regions_left_out"] = self.state.regions.len().saturating_sub(REGIONS_SHOWN_MAX).into();
            let counters = self
                .counters
                .all()
                .map(|(name, _, count)| (name.to_owned(), count.into()));
            value["counters"] = Value::Object(counters.collect::<Object<_, _>>());
        }
        value
    }

    fn regions(&self) -> Value {
        let counts = self.state.slots.as_ref().map(assignment::counts).unwrap_or_default();
        let shown = self.state.regions.iter().take(REGIONS_SHOWN_MAX);
        let regions = shown.map(|(id, region)| {
            json!({
                "id": id.0,
                "name": region.name,
                "weight": region.weight,
                "slots": counts.get(id).copied().unwrap_or(0),
                "devices_enrolled": self.devices_by_region.get(id).copied().unwrap_or(0),
                "instances": self.state.instances(*id).map(|node| node.0).collect::<Vec<_>>(),
                "arriving": self.state.arriving(*id).map(|node| node.0).collect::<Vec<_>>(),
            })
        });
        Value::Array(regions.collect())
    }

    fn dump(&self, after: Option<&str>) -> Result<Value, Refused> {
        let map = self.published()?;
        let first = match after {
            None => 0,
            Some(after) => {
                let after =
                    u128::from_str_radix(after, 16).map_err(|_| format!("`after` is `{after}`, not a device's key"))?;
                after.saturating_add(1)
            }
        };
        let mut page = Page::default();
        for (key, device) in self.state.devices.range(DeviceKey(first)..) {
            let mut entry = self.device(*key);
            entry["device"] = device.id.clone().into();
            if !page.push(entry, key.to_string().into()) {
                break;
            }
        }
        let mut value = json!({
            "moves_open": self.open_moves(),
            "version": map.id().version,
            "lineage": format!("{:016x}", map.id().lineage),
            "digest": map.id().digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
            "devices": page.entries,
            "next": page.next,
        });
        if after.is_none() {
            value["regions"] = self.regions();
            value["regions_left_out"] = self.state.regions.len().saturating_sub(REGIONS_SHOWN_MAX).into();
        }
        Ok(value)
    }

    fn place(&self, device: &str) -> Result<Value, Refused> {
        let key = self.key_of(device)?;
        let map = self.published()?;
        let region = map.region_of(key);
        let instances = map.instances(region).iter().map(|id| {
            let node = map.node(*id).expect("a map's references resolve");
            json!({ "node": id.0, "name": node.name, "peer_address": node.peer_address })
        });
        let enrolled = self.state.devices.get(&key);
        Ok(json!({
            "device": device,
            "key": key.to_string(),
            "slot": key.slot(),
            "region": self.region_name(region),
            "region_also": map.region_also(key).map(|region| self.region_name(region)),
            "by": if enrolled.is_some_and(|device| device.assigned.is_some()) { "enrolment" } else { "slot" },
            "instances": instances.collect::<Vec<_>>(),
            "version": map.id().version,
        }))
    }

    fn published(&self) -> Result<&Map, Refused> {
        let map = self.publication.current();
        map.map(|map| &**map)
            .ok_or_else(|| "there is no map yet: the first regions have to join".into())
    }

    /// Where an enrolled device stands.
    fn device(&self, key: DeviceKey) -> Value {
        let Some(device) = self.state.devices.get(&key) else {
            return json!({ "key": key.to_string() });
        };
        let interval_max_ms = self.config.initial_interval.max.as_millis() as u64;
        json!({
            "device": device.id,
            "key": key.to_string(),
            "region": device.assigned.map(|(region, _)| self.region_name(region)),
            "enrolled_ms": device.enrolled_ms,
            "move": self.move_of_device(key).map(|(id, _)| id),
            "assigned_ms": device.assigned.map(|(_, at_ms)| at_ms),
            "assign_by_ms": device.enrolled_ms + interval_max_ms,
        })
    }

    pub(super) fn region_name(&self, region: RegionId) -> &str {
        self.state.regions.get(&region).map_or("?", |region| &region.name)
    }

    pub(super) fn unknown_region(&self, name: &str) -> Refused {
        let names: BTreeSet<&str> = self.state.regions.values().map(|region| &region.name[..]).collect();
        let shown: Vec<&str> = names.into_iter().take(8).collect();
        format!("there is no region `{name}`; there are: {}", shown.join(", "))
    }
}

fn roles(roles: trunkline_wire::control::Roles) -> Vec<&'static str> {
    let all = [
        ("connection", roles.connection),
        ("messaging", roles.messaging),
        ("region", roles.region),
    ];
    all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

/// Entries of a list, as many as fit.
#[derive(Default)]
struct Page {
    entries: Vec<Value>,
    bytes: usize,
    /// Where the next page starts: after the last entry of this one.
    next: Value,
    last: Value,
}

impl Page {
    /// False if `entry` belongs to the next page.
    fn push(&mut self, entry: Value, name: Value) -> bool {
        self.bytes += entry.to_string().len() + 1;
        if self.bytes > PAGE_BYTES && !self.entries.is_empty() {
            self.next = std::mem::take(&mut self.last);
            return false;
        }
        self.entries.push(entry);
        self.last = name;
        true
    }
}
