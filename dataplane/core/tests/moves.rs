//! The claims about devices that move between regions: nothing is lost, and "offline" is not guessed, whatever map each node has.

mod cluster;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use cluster::{CONNECTION, Cluster, DeviceConn, INSTANCE, Told, map, node};
use trunkline_wire::affinity::AffinityVersion;
use trunkline_wire::control::Roles;
use trunkline_wire::frame::Encode;
use trunkline_wire::id::{DeviceKey, Epoch, RegionId};
use trunkline_wire::map::{Contents, Map};
use trunkline_wire::peer::{MapVersion, Register, Registered, Relay, Remember, SyncBegin};
use trunkline_wire::report::Outcome;

const A: usize = 0;
const B: usize = 1;
const R1: usize = 2;
const R2: usize = 3;
const S1: usize = 4;
const S2: usize = 5;
const ALL: [usize; 6] = [A, B, R1, R2, S1, S2];
const ROLES: [Roles; 6] = [CONNECTION, CONNECTION, INSTANCE, INSTANCE, INSTANCE, INSTANCE];
const REGIONS: [&[usize]; 2] = [&[R1, R2], &[S1, S2]];
const R: RegionId = RegionId(1);
const S: RegionId = RegionId(2);
const DELIVERED: Outcome = Outcome::Delivered { late: false };

/// Where the devices of R belong: at R; at both, found by R; at both, found by S; at S.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Before,
    Both,
    Switch,
    End,
}

fn map_at(step: Step, version: u64) -> Arc<Map> {
    // A map is checked and digested as a whole, which takes long in a build for tests.
    static MADE: Mutex<BTreeMap<(Step, u64), Arc<Map>>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap();
    Arc::clone(made.entry((step, version)).or_insert_with(|| make_map(step, version)))
}

fn make_map(step: Step, version: u64) -> Arc<Map> {
    let mut contents: Contents = map(&ROLES, &REGIONS, 1).contents();
    for slot in 0..=u16::MAX {
        if contents.slots[usize::from(slot)] != R {
            continue;
        }
        let (by, also) = match step {
            Step::Before => (R, None),
            Step::Both => (R, Some(S)),
            Step::Switch => (S, Some(R)),
            Step::End => (S, None),
        };
        contents.slots[usize::from(slot)] = by;
        contents.slots_also.extend(also.map(|also| (slot, also)));
    }
    Arc::new(Map::build(1, version, contents).unwrap())
}

fn cluster() -> Cluster {
    Cluster::new(&ROLES, &REGIONS)
}

/// A device that belongs to R before it moves.
fn in_r(cluster: &mut Cluster, stem: &str) -> String {
    let map = map_at(Step::Before, 1);
    let mut names = (0..).map(|n| format!("{stem}{n}"));
    names.find(|name| map.region_of(cluster.key(name)) == R).unwrap()
}

fn give(cluster: &mut Cluster, hosts: &[usize], step: Step, version: u64) {
    for &host in hosts {
        cluster.apply_map(host, map_at(step, version));
    }
}

fn known_at(cluster: &mut Cluster, host: usize, region: RegionId, device: &str) -> Option<Epoch> {
    let key = cluster.key(device);
    let all: Vec<(DeviceKey, Epoch)> = cluster.router(host).presence(region)?;
    all.into_iter().find(|(known, _)| *known == key).map(|(_, epoch)| epoch)
}

fn last_outcome(cluster: &Cluster, conn: DeviceConn) -> Option<Outcome> {
    cluster.reports(conn).last().map(|report| report.1)
}

#[test]
fn with_both_regions_in_the_map_sessions_are_registered_at_both() {
    let mut cluster = cluster();
    let device = in_r(&mut cluster, "old");
    let before = cluster.welcome(A, &device);
    give(&mut cluster, &ALL, Step::Both, 2);
    cluster.run_ms(10);
    let other = in_r(&mut cluster, "new");
    let after = cluster.welcome(B, &other);
    for (name, conn) in [(device, before), (other, after)] {
        for (host, region) in [(R1, R), (R2, R), (S1, S), (S2, S)] {
            assert_eq!(
                known_at(&mut cluster, host, region, &name),
                cluster.epoch(conn),
                "{name} at {host}"
            );
        }
    }
}

#[test]
fn a_session_that_ends_while_it_moves_is_unknown_at_both() {
    let mut cluster = cluster();
    let device = in_r(&mut cluster, "d");
    let conn = cluster.welcome(A, &device);
    give(&mut cluster, &ALL, Step::Both, 2);
    cluster.run_ms(10);
    cluster.disconnect(conn);
    cluster.run_ms(10);
    for (host, region) in [(R1, R), (R2, R), (S1, S), (S2, S)] {
        assert_eq!(known_at(&mut cluster, host, region, &device), None);
    }
}

#[test]
fn at_the_end_the_older_region_forgets_what_the_newer_one_knows() {
    let mut cluster = cluster();
    let device = in_r(&mut cluster, "d");
    let conn = cluster.welcome(A, &device);
    for (version, step) in [(2, Step::Both), (3, Step::Switch), (4, Step::End)] {
        give(&mut cluster, &ALL, step, version);
        cluster.run_ms(10);
    }
    assert_eq!(known_at(&mut cluster, S1, S, &device), cluster.epoch(conn));
    assert_eq!(known_at(&mut cluster, R1, R, &device), None);
}

#[test]
fn a_device_can_move_back_at_once() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "sender");
    let device = in_r(&mut cluster, "d");
    let conn = cluster.welcome(B, &device);
    let there = [(2, Step::Both), (3, Step::Switch), (4, Step::End)];
    let back = [(5, Step::Switch), (6, Step::Both), (7, Step::Before)];
    for (version, step) in there.into_iter().chain(back) {
        give(&mut cluster, &ALL, step, version);
        cluster.run_ms(10);
        cluster.send(from, &device, version);
        cluster.run_ms(10);
        assert_eq!(last_outcome(&cluster, from), Some(DELIVERED), "version {version}");
    }
    assert_eq!(known_at(&mut cluster, R1, R, &device), cluster.epoch(conn));
    assert_eq!(known_at(&mut cluster, S1, S, &device), None);
}

/// Every mixture of two neighbouring versions: nodes that have the newer one are drawn by bits.
#[test]
fn whichever_nodes_have_the_newer_map_every_message_is_delivered_at_once() {
    let steps = [(1, Step::Before), (2, Step::Both), (3, Step::Switch), (4, Step::End)];
    for at in 1..steps.len() {
        for newer in 0..1 << ALL.len() {
            let mut cluster = cluster();
            let from = cluster.welcome(A, "sender");
            let device = in_r(&mut cluster, "d");
            cluster.welcome(B, &device);
            for &(version, step) in &steps[1..at] {
                give(&mut cluster, &ALL, step, version);
                cluster.run_ms(10);
            }
            let (version, step) = steps[at];
            let hosts: Vec<usize> = ALL.into_iter().filter(|host| newer >> host & 1 == 1).collect();
            give(&mut cluster, &hosts, step, version);
            cluster.run_ms(10);
            cluster.send(from, &device, 0);
            // One that connects in the midst of it, too.
            let fresh = in_r(&mut cluster, "fresh");
            cluster.welcome(B, &fresh);
            cluster.send(from, &fresh, 0);
            cluster.run_ms(100);
            let outcomes: Vec<Outcome> = cluster.reports(from).iter().map(|report| report.1).collect();
            assert_eq!(outcomes, [DELIVERED, DELIVERED], "version {version} at {hosts:?}");
        }
    }
}

#[test]
fn a_node_with_an_older_map_is_relayed_also_what_it_said_before() {
    let mut cluster = cluster();
    let early = in_r(&mut cluster, "early");
    let one = cluster.welcome(B, &early);
    // B is cut off from control: it keeps its map through the whole move.
    give(&mut cluster, &[A, R1, R2, S1, S2], Step::Both, 2);
    cluster.run_ms(10);
    let late = in_r(&mut cluster, "late");
    let two = cluster.welcome(B, &late);
    cluster.run_ms(10);
    for (name, conn) in [(&early, one), (&late, two)] {
        assert_eq!(known_at(&mut cluster, S1, S, name), cluster.epoch(conn), "{name}");
    }
    for (version, step) in [(3, Step::Switch), (4, Step::End)] {
        give(&mut cluster, &[A, R1, R2, S1, S2], step, version);
        cluster.run_ms(10);
    }
    let last = in_r(&mut cluster, "last");
    cluster.welcome(B, &last);
    let from = cluster.welcome(A, "sender");
    for (number, name) in [early, late.clone(), last].iter().enumerate() {
        cluster.send(from, name, number as u64);
        cluster.run_ms(20);
        assert_eq!(last_outcome(&cluster, from), Some(DELIVERED), "{name}");
    }
    // And back: B's own way leads to R, which knows where the device is.
    let answer = cluster.welcome(B, "answers");
    let new = in_r(&mut cluster, "new");
    cluster.welcome(A, &new);
    cluster.send(answer, &new, 0);
    cluster.run_ms(20);
    assert_eq!(last_outcome(&cluster, answer), Some(DELIVERED));
    // What B ends is ended everywhere.
    cluster.disconnect(two);
    cluster.run_ms(20);
    assert_eq!(known_at(&mut cluster, S1, S, &late), None);
    // When it catches up, R has nothing left of it.
    give(&mut cluster, &[B], Step::End, 4);
    cluster.run_ms(20);
    assert_eq!(cluster.router(R1).presence(R).unwrap(), []);
    // Forgotten, not ended: whoever counts what leaves its table finds each of them.
    let counters = cluster.router(R1).counters();
    let left = counters.presence_unregistered + counters.presence_dropped + counters.presence_withdrawn;
    assert!(counters.presence_withdrawn > 0);
    assert_eq!(left, counters.presence_registered);
}

#[test]
fn what_was_relayed_and_ended_unheard_is_dropped_when_its_server_has_the_same_map() {
    let mut cluster = cluster();
    let (ends, stays) = (in_r(&mut cluster, "ends"), in_r(&mut cluster, "stays"));
    let conn = cluster.welcome(B, &ends);
    let other = cluster.welcome(B, &stays);
    give(&mut cluster, &[A, R1, R2, S1, S2], Step::Both, 2);
    cluster.run_ms(10);
    assert_eq!(known_at(&mut cluster, S1, S, &ends), cluster.epoch(conn));
    // B can't tell the region that it knows of, whose instances miss the session in its next stream.
    for instance in [R1, R2] {
        cluster.link_down(B, instance);
    }
    cluster.disconnect(conn);
    cluster.run_ms(10);
    for instance in [R1, R2] {
        cluster.link_up(B, instance);
    }
    cluster.run_ms(10);
    give(&mut cluster, &[B], Step::Both, 2);
    cluster.run_ms(10);
    for (host, region) in [(R1, R), (R2, R), (S1, S), (S2, S)] {
        assert_eq!(known_at(&mut cluster, host, region, &ends), None, "at {host}");
        assert_eq!(
            known_at(&mut cluster, host, region, &stays),
            cluster.epoch(other),
            "at {host}"
        );
    }
}

#[test]
fn a_stream_of_an_older_map_s_node_does_not_drop_what_was_relayed() {
    let mut cluster = cluster();
    let device = in_r(&mut cluster, "d");
    let conn = cluster.welcome(B, &device);
    give(&mut cluster, &[A, R1, R2, S1, S2], Step::Both, 2);
    give(&mut cluster, &[A, R1, R2, S1, S2], Step::Switch, 3);
    cluster.run_ms(10);
    cluster.link_down(B, S1);
    cluster.link_up(B, S1);
    cluster.run_ms(10);
    assert_eq!(known_at(&mut cluster, S1, S, &device), cluster.epoch(conn));
}

#[test]
fn an_instance_that_missed_what_was_relayed_gets_it_on_its_next_link() {
    let mut cluster = cluster();
    let device = in_r(&mut cluster, "d");
    let conn = cluster.welcome(B, &device);
    cluster.cut_off(S1);
    give(&mut cluster, &[A, R1, R2, S1, S2], Step::Switch, 2);
    cluster.run_ms(10);
    assert_eq!(known_at(&mut cluster, S1, S, &device), None);
    cluster.join_again(S1);
    cluster.run_ms(10);
    assert_eq!(known_at(&mut cluster, S1, S, &device), cluster.epoch(conn));
}

#[test]
fn before_the_new_region_says_offline_it_asks_the_old_one() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "sender");
    give(&mut cluster, &ALL, Step::Switch, 2);
    cluster.run_ms(10);
    let map = map_at(Step::Switch, 2);
    let mut names = (0..).map(|n| format!("gone{n}"));
    let gone = names.find(|name| map.region_also(cluster.key(name)).is_some()).unwrap();
    // Whether R1 knows the device can't be said.
    cluster.hold(R1, S1);
    cluster.hold(R1, S2);
    cluster.send(from, &gone, 0);
    cluster.run_ms(900);
    assert_eq!(cluster.reports(from), []);
    cluster.let_go(R1, S1);
    cluster.let_go(R1, S2);
    cluster.run_ms(2_000);
    let offline = Outcome::Offline {
        unreachable: false,
        maybe_delivered: false,
    };
    assert_eq!(last_outcome(&cluster, from), Some(offline));
}

#[test]
fn an_instance_that_knows_of_a_newer_map_says_retry_and_not_offline() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "sender");
    let gone = in_r(&mut cluster, "gone");
    give(&mut cluster, &[S1], Step::Both, 2);
    cluster.run_ms(10);
    cluster.send(from, &gone, 0);
    cluster.run_ms(3_000);
    assert_eq!(cluster.reports(from), []);
    let behind: u64 = [R1, R2].map(|r| cluster.router(r).counters().retry_behind).iter().sum();
    assert!(behind > 0);
    give(&mut cluster, &[A, B, R1, R2, S2], Step::Both, 2);
    cluster.run_ms(2_000);
    assert!(matches!(last_outcome(&cluster, from), Some(Outcome::Offline { .. })));
}

#[test]
fn a_newer_session_wins_also_where_the_older_one_was_relayed() {
    let mut cluster = cluster();
    let device = in_r(&mut cluster, "d");
    let old = cluster.welcome(B, &device);
    give(&mut cluster, &[A, R1, R2, S1, S2], Step::Both, 2);
    give(&mut cluster, &[A, R1, R2, S1, S2], Step::Switch, 3);
    give(&mut cluster, &[A, R1, R2, S1, S2], Step::End, 4);
    cluster.run_ms(10);
    // A registers at S alone; B, which knows of R alone, is told all the same.
    let new = cluster.welcome(A, &device);
    cluster.run_ms(10);
    assert!(
        cluster
            .told(old)
            .contains(&Told::Superseded(cluster.epoch(new).unwrap()))
    );
    assert!(cluster.is_open(new));
}

#[test]
fn an_older_session_that_is_relayed_too_late_is_told_that_it_has_lost() {
    let mut cluster = cluster();
    let device = in_r(&mut cluster, "d");
    give(&mut cluster, &[A, R1, R2, S1, S2], Step::End, 4);
    cluster.run_ms(10);
    cluster.set_wall_ahead(A, 60_000);
    let new = cluster.welcome(A, &device);
    let old = cluster.connect(B, &device);
    cluster.run_ms(300);
    // B's session is the later one in truth, but its clock is behind: it's raised above, or it loses. One stays.
    let open = [old, new].iter().filter(|conn| cluster.is_open(**conn)).count();
    assert_eq!(open, 1);
}

#[test]
fn a_registration_that_has_no_place_by_the_map_of_both_is_forgotten() {
    let mut cluster = cluster();
    let device = cluster.device_in(1, "d");
    let conn = cluster.welcome(A, &device);
    let epoch = cluster.epoch(conn).unwrap();
    let key = cluster.key(&device);
    let carried = cluster.carried.len();
    cluster.inject(
        A,
        R1,
        &Register {
            region: R,
            device: key,
            epoch,
        },
    );
    cluster.run_ms(5);
    // Its server may have a newer map, for all that is known.
    assert_eq!(known_at(&mut cluster, R1, R, &device), Some(epoch));
    let (version, newest) = (1, 1);
    cluster.inject(A, R1, &MapVersion { version, newest });
    cluster.run_ms(5);
    assert_eq!(known_at(&mut cluster, R1, R, &device), None);
    let answered = (node(R1), node(A), Registered::TYPE);
    assert!(cluster.carried[carried..].contains(&answered));
}

#[test]
fn nobody_relays_what_a_node_with_the_same_map_says() {
    let mut cluster = cluster();
    give(&mut cluster, &ALL, Step::Both, 2);
    cluster.run_ms(10);
    let device = in_r(&mut cluster, "d");
    cluster.welcome(A, &device);
    let relayed = cluster.carried.iter().filter(|(.., ty)| *ty == Relay::TYPE).count();
    assert_eq!(relayed, 0);
}

#[test]
fn a_move_is_settled_at_an_instance_once_the_others_have_the_map() {
    let mut cluster = cluster();
    give(&mut cluster, &[A, B, S1, S2], Step::Both, 2);
    cluster.run_ms(10);
    assert!(cluster.settled(A));
    assert!(!cluster.settled(S1), "what R has to relay isn't here");
    give(&mut cluster, &[R1, R2], Step::Both, 2);
    cluster.run_ms(10);
    for host in ALL {
        assert!(cluster.settled(host));
    }
}

/// The map in which R's second instance is a standby; or, with none of that, the usual one.
fn with_standby(version: u64) -> Arc<Map> {
    let mut contents = map(&ROLES, &REGIONS, 1).contents();
    let instances = &mut contents.regions.get_mut(&R).unwrap().instances;
    instances.retain(|instance| *instance != node(R2));
    contents.standbys.insert(R, vec![node(R2)]);
    Arc::new(Map::build(1, version, contents).unwrap())
}

#[test]
fn a_standby_is_told_of_every_session_and_asked_by_nobody() {
    let mut cluster = cluster();
    let names = [in_r(&mut cluster, "before"), in_r(&mut cluster, "after")];
    let before = cluster.welcome(A, &names[0]);
    let standby = with_standby(2);
    ALL.iter()
        .for_each(|&host| cluster.apply_map(host, Arc::clone(&standby)));
    cluster.run_ms(10);
    let after = cluster.welcome(A, &names[1]);
    for (name, conn) in [(&names[0], before), (&names[1], after)] {
        assert_eq!(known_at(&mut cluster, R2, R, name), cluster.epoch(conn));
    }
    let from = cluster.welcome(B, "sender");
    cluster.link_down(A, B);
    let unknown = in_r(&mut cluster, "unknown");
    for number in 0..20 {
        cluster.send(from, &names[number as usize % 2], number / 2);
        cluster.run_ms(2);
    }
    cluster.send(from, &unknown, 0);
    cluster.run_ms(10);
    assert_eq!((cluster.deliveries(before), cluster.deliveries(after)), (10, 10));
    assert!(matches!(last_outcome(&cluster, from), Some(Outcome::Offline { .. })));
    let counters = cluster.router(R2).counters().clone();
    assert_eq!((counters.forwards_from_region, counters.locates_answered), (0, 0));
    cluster.disconnect(before);
    cluster.run_ms(10);
    assert_eq!(
        known_at(&mut cluster, R2, R, &names[0]),
        None,
        "it is told of the end, too"
    );
}

#[test]
fn that_a_standby_knows_a_device_lets_nobody_find_it() {
    let mut cluster = cluster();
    let name = in_r(&mut cluster, "d");
    let standby = with_standby(2);
    ALL.iter()
        .for_each(|&host| cluster.apply_map(host, Arc::clone(&standby)));
    cluster.run_ms(10);
    cluster.hold(A, R1);
    let conn = cluster.connect(A, &name);
    cluster.run_ms(1_000);
    assert!(known_at(&mut cluster, R2, R, &name).is_some());
    assert_eq!(cluster.epoch(conn), None, "the instance has not heard of it");
    cluster.let_go(A, R1);
    cluster.run_ms(10);
    assert!(cluster.epoch(conn).is_some());
}

#[test]
fn a_standby_answers_whoever_has_another_map_and_knows_all_when_it_becomes_an_instance() {
    let mut cluster = cluster();
    let name = in_r(&mut cluster, "d");
    let to = cluster.welcome(A, &name);
    let from = cluster.welcome(B, "sender");
    cluster.link_down(A, B);
    // B still asks both.
    let standby = with_standby(2);
    [A, R1, R2, S1, S2]
        .iter()
        .for_each(|&host| cluster.apply_map(host, Arc::clone(&standby)));
    cluster.run_ms(10);
    cluster.link_down(B, R1);
    cluster.send(from, &name, 0);
    cluster.run_ms(10);
    assert_eq!(last_outcome(&cluster, from), Some(DELIVERED));
    cluster.link_up(B, R1);
    cluster.apply_map(B, Arc::clone(&standby));
    let registered = cluster.router(R2).counters().presence_registered;
    give(&mut cluster, &ALL, Step::Before, 3);
    cluster.run_ms(10);
    cluster.link_down(B, R1);
    cluster.send(from, &name, 1);
    cluster.run_ms(10);
    assert_eq!(cluster.deliveries(to), 2);
    assert_eq!(
        cluster.router(R2).counters().presence_registered,
        registered,
        "nothing is said again"
    );
}

#[test]
fn who_is_no_instance_any_more_forgets_each_server_s_sessions_once_it_has_the_same_map() {
    let mut cluster = cluster();
    let names = [in_r(&mut cluster, "a"), in_r(&mut cluster, "b")];
    cluster.welcome(A, &names[0]);
    cluster.welcome(B, &names[1]);
    let mut contents = map(&ROLES, &REGIONS, 1).contents();
    let instances = &mut contents.regions.get_mut(&R).unwrap().instances;
    instances.retain(|instance| *instance != node(R2));
    let without = Arc::new(Map::build(1, 2, contents).unwrap());
    cluster.apply_map(R2, Arc::clone(&without));
    cluster.run_ms(10);
    assert!(
        known_at(&mut cluster, R2, R, &names[0]).is_some(),
        "A may be the one that is right"
    );
    cluster.apply_map(A, Arc::clone(&without));
    cluster.run_ms(10);
    assert_eq!(known_at(&mut cluster, R2, R, &names[0]), None);
    assert!(known_at(&mut cluster, R2, R, &names[1]).is_some());
    cluster.apply_map(B, without);
    cluster.run_ms(10);
    assert_eq!(cluster.router(R2).presence(R), None);
}

#[test]
fn a_stream_by_a_newer_map_is_not_taken_for_what_is_stale() {
    let mut cluster = cluster();
    let name = in_r(&mut cluster, "d");
    let conn = cluster.welcome(A, &name);
    let mut contents = map(&ROLES, &REGIONS, 1).contents();
    let instances = &mut contents.regions.get_mut(&R).unwrap().instances;
    instances.retain(|instance| *instance != node(R2));
    let without = Arc::new(Map::build(1, 2, contents).unwrap());
    ALL.iter()
        .for_each(|&host| cluster.apply_map(host, Arc::clone(&without)));
    cluster.run_ms(10);
    // A has a third version, in which R2 is to be told again; its announcement comes behind its stream.
    let (region, device, epoch) = (R, cluster.key(&name), cluster.epoch(conn).unwrap());
    cluster.inject(A, R2, &SyncBegin { region, sync: 77 });
    cluster.inject(A, R2, &Register { region, device, epoch });
    let (version, newest) = (2, 2);
    cluster.inject(B, R2, &MapVersion { version, newest });
    cluster.run_ms(10);
    assert_eq!(known_at(&mut cluster, R2, R, &name), Some(epoch));
}

/// A device of region R, of which its region remembers that it wrote to `b`, and which is not connected any more.
fn away_with_a_history(cluster: &mut Cluster) -> (String, DeviceKey) {
    let device = in_r(cluster, "d");
    let conn = cluster.welcome(A, &device);
    cluster.welcome(B, "b");
    cluster.send(conn, "b", 0);
    cluster.run_ms(20);
    cluster.disconnect(conn);
    cluster.run_ms(20);
    let key = cluster.key(&device);
    (device, key)
}

#[test]
fn whom_a_device_has_to_do_with_moves_along_also_of_one_that_is_away() {
    let mut cluster = cluster();
    let (device, key) = away_with_a_history(&mut cluster);
    assert!(cluster.remembers(R1, &device) && !cluster.remembers(S1, &device));
    // One of the new region's instances can't be reached at first.
    cluster.cut_off(S2);
    give(&mut cluster, &ALL, Step::Both, 2);
    cluster.run_ms(50);
    assert!(cluster.remembers(S1, &device) && !cluster.remembers(S2, &device));
    cluster.join_again(S2);
    cluster.run_ms(50);
    assert!(cluster.remembers(S2, &device));
    for (version, step) in [(3, Step::Switch), (4, Step::End)] {
        give(&mut cluster, &ALL, step, version);
        cluster.run_ms(50);
    }
    assert!(
        !cluster.remembers(R1, &device) && !cluster.remembers(R2, &device),
        "it has no place there any more"
    );
    // What a server tells that has not heard of the move's end: the new region is told as well, and the old one keeps nothing.
    let (version, known) = cluster.router(S1).remembered(key).expect("it has moved");
    let late = Remember {
        device: key,
        version: AffinityVersion {
            counter: version.counter + 1,
            ..version
        },
        list: known.digest(),
    };
    cluster.inject(A, R1, &late);
    assert!(!cluster.remembers(R1, &device));
    cluster.cut_off(R1);
    cluster.cut_off(R2);
    cluster.welcome(A, &device);
    let b = cluster.key("b").partner();
    assert_eq!(cluster.router(A).explain(key).expected[0].device, b);
}

#[test]
fn a_history_that_is_told_by_a_newer_map_is_not_kept_if_that_map_is_skipped() {
    let mut cluster = cluster();
    // S has not heard of the move when it is told, and never will: it was given up.
    give(&mut cluster, &[A, B, R1, R2], Step::Both, 2);
    cluster.run_ms(10);
    let (device, _) = away_with_a_history(&mut cluster);
    assert!(cluster.remembers(S1, &device) && cluster.remembers(S2, &device));
    give(&mut cluster, &ALL, Step::Before, 3);
    cluster.run_ms(50);
    assert!(!cluster.remembers(S1, &device) && !cluster.remembers(S2, &device));
    assert!(cluster.remembers(R1, &device) && cluster.remembers(R2, &device));
}

#[test]
fn a_history_that_finds_no_link_is_kept_while_its_move_lasts_and_no_longer() {
    let mut cluster = cluster();
    let (device, _) = away_with_a_history(&mut cluster);
    cluster.cut_off(S1);
    cluster.cut_off(S2);
    for (version, step) in [(2, Step::Both), (3, Step::Switch)] {
        give(&mut cluster, &ALL, step, version);
        cluster.run_ms(50);
        assert!(cluster.remembers(R1, &device), "it may still find one");
    }
    give(&mut cluster, &ALL, Step::End, 4);
    cluster.run_ms(50);
    assert!(!cluster.remembers(R1, &device) && !cluster.remembers(R2, &device));
}
