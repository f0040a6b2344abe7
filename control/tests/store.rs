//! Nothing that was published is lost: by a kill at any point, by a failing disk; and copies of the store.

mod support;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Node, Running, one_region, secret};
use trunkline_control::admin::Admin;
use trunkline_control::state::State;
use trunkline_control::store::{
    Batch, Force, MemoryStore, RESTORE_VERSION_STEP, RedbStore, STORE_FILE, Store, StoreError,
};
use trunkline_control::store::{backup, restore};
use trunkline_wire::id::NodeId;
use trunkline_wire::map::MapId;

const CHILD: &str = "TRUNKLINE_TEST_CONTROL_DATA";

/// Not a test by itself: what the next one kills. Serves the data directory that is named in the environment.
#[test]
fn child_serves_until_it_is_killed() {
    let Some(data) = std::env::var_os(CHILD) else { return };
    let control = Running::on_disk(Path::new(&data), one_region());
    std::fs::write(Path::new(&data).join("address.new"), control.address.to_string()).unwrap();
    std::fs::rename(Path::new(&data).join("address.new"), Path::new(&data).join("address")).unwrap();
    // Until the parent kills this process, or is gone itself.
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}

fn spawn(data: &Path) -> (Child, std::net::SocketAddr) {
    let _ = std::fs::remove_file(data.join("address"));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_serves_until_it_is_killed"])
        .env(CHILD, data)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..1000 {
        if let Ok(address) = std::fs::read_to_string(data.join("address")) {
            return (child, address.parse().unwrap());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    panic!("the child does not start: {:?}", child.wait());
}

#[test]
fn a_kill_at_any_point_loses_no_published_version() {
    let seed = 11;
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let data = tempfile::tempdir().unwrap();
    let mut seen = MapId::default();
    let mut node_id = NodeId::NONE;
    let mut enrolled = Vec::new();
    for round in 0..12 {
        let (mut child, address) = spawn(data.path());
        // Keeps the store busy until the kill; remembers what was acknowledged to it.
        let tool = std::thread::spawn(move || {
            let mut done = Vec::new();
            let Ok(mut admin) = Admin::connect(address, &secret()) else {
                return done;
            };
            for device in 0.. {
                let device = format!("device-{round}-{device}");
                match admin.request(&json!({ "op": "enroll", "device": device })) {
                    Ok(_) => done.push(device),
                    Err(_) => return done,
                }
            }
            done
        });
        let watcher = std::thread::spawn(move || {
            // A node that sees every version until the kill.
            let outcome = std::panic::catch_unwind(|| {
                let mut node = Node::dial(address, &secret(), node_id, 1).unwrap();
                let joined = node.try_join("r1", &["eu"], MapId::default()).unwrap();
                (node, joined)
            });
            let Ok((mut node, joined)) = outcome else { return None };
            let mut last = MapId::default();
            while let Ok(map) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| node.take().map)) {
                last = map;
            }
            Some((joined.node, joined.lineage, last))
        });
        std::thread::sleep(Duration::from_millis(random.u64(1..600)));
        child.kill().unwrap();
        child.wait().unwrap();
        enrolled.extend(tool.join().unwrap());
        if let Some((id, lineage, last)) = watcher.join().unwrap() {
            assert!(node_id == NodeId::NONE || id == node_id, "the node's id has changed");
            assert!(seen.version == 0 || lineage == seen.lineage, "the lineage has changed");
            assert!(
                last.version == 0 || last.version >= seen.version,
                "version {} after {}",
                last.version,
                seen.version
            );
            node_id = id;
            if last.version > 0 {
                seen = last;
            }
        }
        let state = State::from_records(&RedbStore::open(data.path()).unwrap().load().unwrap()).unwrap();
        assert!(
            state.version >= seen.version,
            "version {} on disk, {} was published",
            state.version,
            seen.version
        );
        assert!(seen.version == 0 || state.lineage == seen.lineage);
        let on_disk: Vec<&str> = state.devices.values().map(|device| &device.id[..]).collect();
        for device in &enrolled {
            assert!(
                on_disk.contains(&&device[..]),
                "`{device}` was acknowledged, and is lost"
            );
        }
    }
    assert!(
        seen.version > 3 && enrolled.len() > 3,
        "the rounds were too short to mean anything"
    );
}

/// A disk that stops taking writes, perhaps in the midst of one, and loses what was not synced.
#[derive(Debug, Default)]
struct Disk {
    durable: Vec<u8>,
    /// Written since the last sync: offset and bytes, or a new length.
    volatile: Vec<Write>,
    current: Vec<u8>,
    /// Operations until the power goes.
    left: u64,
}

#[derive(Debug, Clone)]
enum Write {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

fn write(to: &mut Vec<u8>, write: &Write) {
    match write {
        Write::Bytes(offset, bytes) => {
            if to.len() < offset + bytes.len() {
                to.resize(offset + bytes.len(), 0);
            }
            to[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        Write::Length(length) => to.resize(*length, 0),
    }
}

#[derive(Debug, Clone)]
struct Backend(Arc<Mutex<Disk>>);

impl Backend {
    /// The power goes: of what was not synced, each write is there, or in part, or not at all.
    fn power_cut(&self, random: &mut fastrand::Rng) {
        let mut disk = self.0.lock().unwrap();
        let mut after = disk.durable.clone();
        for volatile in std::mem::take(&mut disk.volatile) {
            match (random.u8(0..3), volatile) {
                (0, _) => {}
                (1, Write::Bytes(offset, mut bytes)) => {
                    bytes.truncate(random.usize(0..=bytes.len()));
                    write(&mut after, &Write::Bytes(offset, bytes));
                }
                (_, whole) => write(&mut after, &whole),
            }
        }
        disk.durable = after.clone();
        disk.current = after;
        disk.left = u64::MAX;
    }

    fn spend(disk: &mut Disk) -> io::Result<()> {
        if disk.left == 0 {
            return Err(io::Error::other("the disk is gone"));
        }
        disk.left -= 1;
        Ok(())
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disk = self.0.lock().unwrap();
        let offset = offset as usize;
        let bytes = disk
            .current
            .get(offset..offset + out.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        Backend::spend(&mut disk)?;
        let change = Write::Length(length as usize);
        write(&mut disk.current, &change);
        disk.volatile.push(change);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        Backend::spend(&mut disk)?;
        disk.volatile.clear();
        disk.durable = disk.current.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        Backend::spend(&mut disk)?;
        let change = Write::Bytes(offset as usize, data.to_vec());
        write(&mut disk.current, &change);
        disk.volatile.push(change);
        Ok(())
    }
}

#[test]
fn a_power_cut_in_any_write_keeps_what_was_committed() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let disk = Backend(Arc::new(Mutex::new(Disk {
            left: u64::MAX,
            ..Disk::default()
        })));
        let mut committed = BTreeMap::new();
        let mut store = RedbStore::with_backend({
            let disk = disk.clone();
            move || disk.clone()
        })
        .unwrap();
        store.load().unwrap();
        for _ in 0..5 {
            disk.0.lock().unwrap().left = random.u64(0..60);
            let mut pending = committed.clone();
            // A commit takes several operations: far fewer than these go through before the disk is gone.
            for _ in 0..100 {
                let mut batch = Batch::new();
                for _ in 0..random.usize(1..20) {
                    let key = vec![random.u8(..)];
                    let value = random.bool().then(|| vec![random.u8(..); random.usize(0..3000)]);
                    match &value {
                        Some(value) => pending.insert(key.clone(), value.clone()),
                        None => pending.remove(&key),
                    };
                    batch.insert(key, value);
                }
                match store.commit(&batch) {
                    Ok(()) => committed = pending.clone(),
                    Err(_) => break,
                }
            }
            assert!(
                store.commit(&Batch::new()).is_err(),
                "seed {seed}: a failed store takes commits"
            );
            // Dropped with the disk gone: nothing of what it does then may count.
            disk.0.lock().unwrap().left = 0;
            drop(store);
            disk.power_cut(&mut random);
            store = RedbStore::with_backend({
                let disk = disk.clone();
                move || disk.clone()
            })
            .unwrap();
            let found = store.load().unwrap();
            // The commit that failed may be there, whole; nothing else may.
            assert!(
                found == committed || found == pending,
                "seed {seed}: neither the last commit nor the one that failed"
            );
            committed = found;
        }
    }
}

/// Waits until a control plane whose store failed has its store back, and speaks with tools again.
fn admitted_again(address: std::net::SocketAddr) {
    let end = Instant::now() + Duration::from_secs(10);
    while let Err(error) =
        Admin::connect(address, &secret()).and_then(|mut admin| admin.request(&json!({ "op": "status" })))
    {
        assert!(Instant::now() < end, "the store does not come back: {error}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_failed_commit_is_neither_published_nor_acknowledged_and_the_control_plane_recovers() {
    for reaches_disk in [false, true] {
        let store = MemoryStore::new();
        let control = Running::with(store.clone(), one_region());
        let mut node = Node::join(control.address, "r1", &["eu"]);
        let before = node.take().map;
        let mut admin = Admin::connect(control.address, &secret()).unwrap();
        store.fail_commit(0, reaches_disk);
        let error = admin
            .request(&json!({ "op": "enroll", "device": "d" }))
            .unwrap_err()
            .to_string();
        assert!(error.contains("store fails"), "{error}");
        // It may answer with a failure, never with a map.
        match node.hear() {
            support::Heard::Failure(_, text) => assert!(text.contains("store fails"), "{text}"),
            other => panic!("{other:?}"),
        }
        admitted_again(control.address);
        let mut back = node.rejoin(control.address, "r1", &["eu"], 1);
        let mut admin = Admin::connect(control.address, &secret()).unwrap();
        admin.request(&json!({ "op": "enroll", "device": "d" })).unwrap();
        if back.map.overrides() == 0 {
            back.take_until(|map| map.overrides() == 1);
        }
        assert_eq!(back.map.id().lineage, before.lineage);
        assert!(back.map.id().version > before.version);
        assert_eq!(control.stop().store_failures, 1);
    }
}

fn one_node_cluster(data: &Path) -> (Running, Node) {
    let control = Running::on_disk(data, one_region());
    let mut node = Node::join(control.address, "r1", &["eu"]);
    node.take();
    (control, node)
}

#[test]
fn a_backup_taken_while_it_runs_is_restored_above_its_version() {
    let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = elsewhere.path().join("backup");
    let (control, mut node) = one_node_cluster(data.path());
    let mut admin = Admin::connect(control.address, &secret()).unwrap();
    admin.request(&json!({ "op": "enroll", "device": "d" })).unwrap();
    let asked = json!({ "op": "backup", "path": path.to_str().unwrap() });
    admin.request(&asked).unwrap();
    node.take();
    let at_backup = node.map.id();
    // It replaces nothing.
    assert!(
        admin
            .request(&asked)
            .unwrap_err()
            .to_string()
            .contains("replaces nothing")
    );
    // The cluster goes on for a while; then its host is lost.
    for device in ["e", "f"] {
        admin.request(&json!({ "op": "enroll", "device": device })).unwrap();
        node.take();
    }
    control.stop();

    let restored = restore(&path, &elsewhere.path().join("data"), Force::No).unwrap();
    assert_eq!(restored.version_backup, at_backup.version);
    assert_eq!(restored.version, at_backup.version + RESTORE_VERSION_STEP);
    assert_eq!(restored.lineage, at_backup.lineage);
    let control = Running::on_disk(&elsewhere.path().join("data"), one_region());
    // A node with a version from after the backup takes the restored one.
    let mut back = node.rejoin(control.address, "r1", &["eu"], 1);
    assert_eq!(back.take().map.version, restored.version);
    assert_eq!(back.map.overrides(), 1);
    assert_eq!(back.id, node.id);
}

#[test]
fn a_store_that_was_copied_back_by_hand_is_found_out() {
    let (data, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (control, node) = one_node_cluster(data.path());
    control.stop();
    std::fs::copy(data.path().join(STORE_FILE), copy.path().join(STORE_FILE)).unwrap();
    let control = Running::on_disk(data.path(), one_region());
    let mut node = node.rejoin(control.address, "r1", &["eu"], 2);
    node.take();
    control.stop();
    let control = Running::on_disk(copy.path(), one_region());
    let mut back = Node::dial(control.address, &secret(), node.id, 3).unwrap();
    let (_, text) = back.try_join("r1", &["eu"], node.map.id()).unwrap_err();
    assert!(
        text.contains("never published") && text.contains("control restore") && text.len() < 255,
        "{text}"
    );
}

#[test]
fn a_restore_replaces_a_store_by_force_only_and_never_a_running_one() {
    let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = elsewhere.path().join("backup");
    let (control, _) = one_node_cluster(data.path());
    let error = restore(Path::new("/nowhere/backup"), data.path(), Force::Yes).unwrap_err();
    assert!(matches!(error, StoreError::File { .. }), "{error}");
    let mut admin = Admin::connect(control.address, &secret()).unwrap();
    admin
        .request(&json!({ "op": "backup", "path": path.to_str().unwrap() }))
        .unwrap();
    let error = restore(&path, data.path(), Force::Yes).unwrap_err();
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
    control.stop();
    let error = restore(&path, data.path(), Force::No).unwrap_err();
    assert!(
        matches!(error, StoreError::Occupied(_)) && error.to_string().contains("--force"),
        "{error}"
    );
    restore(&path, data.path(), Force::Yes).unwrap();
    assert!(data.path().join("control.redb.replaced").exists());
    assert!(
        State::from_records(&RedbStore::open(data.path()).unwrap().load().unwrap())
            .unwrap()
            .version
            > RESTORE_VERSION_STEP
    );
}

#[test]
fn a_damaged_backup_is_refused_before_anything_is_touched() {
    let elsewhere = tempfile::tempdir().unwrap();
    let path = elsewhere.path().join("backup");
    let data = elsewhere.path().join("data");
    let mut records = State {
        lineage: 3,
        version: 0,
        ..State::default()
    }
    .records();
    records.insert(b"r\0\x01".to_vec(), b"\x02eu\x01\0\0\0".to_vec());
    backup(&records, &path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert!(restore(&path, &data, Force::No).is_err(), "byte {at}");
        std::fs::write(&path, &whole[..at]).unwrap();
        assert!(restore(&path, &data, Force::No).is_err(), "length {at}");
    }
    assert!(!data.exists());
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(restore(&path, &data, Force::No).unwrap().lineage, 3);
}

#[test]
fn two_control_planes_never_share_a_data_directory() {
    let data = tempfile::tempdir().unwrap();
    let _first = RedbStore::open(data.path()).unwrap();
    let error = RedbStore::open(data.path()).unwrap_err();
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
}

#[test]
fn a_file_that_is_not_a_store_is_named() {
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join(STORE_FILE), vec![7; 10_000]).unwrap();
    let error = RedbStore::open(data.path()).unwrap_err().to_string();
    assert!(error.contains(STORE_FILE) && error.contains("restore"), "{error}");
}
