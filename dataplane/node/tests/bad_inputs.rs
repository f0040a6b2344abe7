//! Whatever a stranger, a device, a peer or an operator gets wrong: it's named, counted, and costs nobody else anything.

mod common;

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use common::{ALL, Device, Plan, eventually, expect_count, free_address, hello, hello_frame, plan, preface, single};
use trunkline_node::config::Config;
use trunkline_node::run::Node;
use trunkline_wire::auth::{ClusterKeys, DeviceToken, LinkEnd, Secret};
use trunkline_wire::device::{DEVICE_BODY_BYTES_MAX, ErrorCode, Hello, Intend, Report, Send, Welcome};
use trunkline_wire::frame::{Encode, HEADER_BYTES, Header};
use trunkline_wire::handshake::Opener;
use trunkline_wire::id::{IdRef, Incarnation, NodeId};
use trunkline_wire::peer::{Forward, LinkHello};
use trunkline_wire::preface::{PREFACE_BYTES, Preface, Side, Versions};
use trunkline_wire::report::Outcome;

/// A node, and a device that has nothing to do with what goes wrong.
struct Scene {
    node: Node,
    plan: Plan,
    bystander: Device,
}

impl Scene {
    fn new() -> Scene {
        let (node, plan) = single();
        Scene::with(node, plan, b"")
    }

    fn with(node: Node, plan: Plan, credentials: &[u8]) -> Scene {
        let mut bystander = Device::connect(plan.device);
        bystander.raw(&hello("bystander", credentials));
        bystander.expect::<Welcome, _>(|_| ());
        Scene { node, plan, bystander }
    }

    /// A stranger that sends these bytes is told this, once, and counted under this name.
    fn refused(&mut self, bytes: &[u8], code: ErrorCode, says: &str, counter: &str) {
        let before = self.node.stats().sum(counter);
        let mut stranger = Device::connect(self.plan.device);
        stranger.raw(bytes);
        stranger.expect_failure(code, says);
        self.counted(counter, before + 1);
    }

    /// The same of a device that has been welcomed.
    fn thrown_out(&mut self, bytes: &[u8], code: ErrorCode, says: &str, counter: &str) {
        let before = self.node.stats().sum(counter);
        let mut device = Device::welcomed(self.plan.device, "culprit");
        device.raw(bytes);
        device.expect_failure(code, says);
        self.counted(counter, before + 1);
    }

    fn counted(&mut self, counter: &str, value: u64) {
        expect_count(&self.node, counter, value);
        self.bystander.assert_served();
    }

    fn end(mut self) {
        self.bystander.assert_served();
        let Scene { node, bystander, plan } = self;
        drop(bystander);
        eventually("no session is left", || {
            node.stats()
                .shards()
                .iter()
                .all(|s| s.sessions.load(std::sync::atomic::Ordering::Relaxed) == 0)
        });
        node.shutdown(Duration::ZERO);
        drop(plan);
    }
}

fn with_header(ty: u8, length: usize, body: &[u8]) -> Vec<u8> {
    let length = length as u32;
    let mut bytes = Header { ty, length }.encode().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

fn after_preface(frame: &[u8]) -> Vec<u8> {
    [preface(), frame.to_vec()].concat()
}

#[test]
fn strangers_are_refused_by_name() {
    let mut scene = Scene::new();
    // Wrong magic; one byte is enough.
    for wrong in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), b"X"] {
        scene.refused(
            wrong,
            ErrorCode::BadPreface,
            "does not start with TRKL",
            "refused_bad_preface",
        );
    }
    // Another port's protocol.
    let peer = Preface::new(Side::Peer).encode();
    scene.refused(
        &peer,
        ErrorCode::BadPreface,
        "this port is for devices",
        "refused_bad_preface",
    );
    // No common version.
    let mut newer = preface();
    (newer[5], newer[6]) = (200, 201);
    let code = ErrorCode::UnsupportedVersion;
    scene.refused(&newer, code, "offers 200 to 201", "refused_unsupported_version");
    // Ids of no byte, and of too many.
    for length in [0, 65, 255] {
        let mut bytes = hello("anna", b"");
        bytes[PREFACE_BYTES + HEADER_BYTES] = length;
        scene.refused(&bytes, ErrorCode::Malformed, "1 to 64 bytes", "refused_malformed");
    }
    // A hello that ends inside a field, and one with more than its fields.
    let hello = hello_frame("anna", b"");
    let body = &hello[HEADER_BYTES..];
    let short = after_preface(&with_header(Hello::TYPE, body.len() - 3, &body[..body.len() - 3]));
    scene.refused(&short, ErrorCode::Malformed, "inside a field", "refused_malformed");
    let long = after_preface(&with_header(Hello::TYPE, body.len() + 2, &[body, b"xx"].concat()));
    scene.refused(&long, ErrorCode::Malformed, "after its last field", "refused_malformed");
    // Too long, by its header alone.
    let huge = after_preface(&with_header(Hello::TYPE, 0xff_ffff, b""));
    scene.refused(&huge, ErrorCode::TooLong, "at most 1024 bytes", "refused_too_long");
    // Something else first.
    let send = after_preface(&with_header(Send::TYPE, 10, b""));
    scene.refused(&send, ErrorCode::OutOfTurn, "must be the hello", "refused_out_of_turn");
    scene.end();
}

#[test]
fn a_hello_that_never_comes_is_not_waited_for() {
    let mut scene = Scene::new();
    let begun = Instant::now();
    let mut mute = Device::connect(scene.plan.device);
    let mut slow = Device::connect(scene.plan.device);
    let mut writer = slow.stream.try_clone().unwrap();
    // A byte now and then doesn't move the deadline.
    let drip = std::thread::spawn(move || {
        for byte in hello("slowloris-slowloris-slowloris-slowloris", b"") {
            std::thread::sleep(Duration::from_millis(200));
            if writer.write_all(&[byte]).is_err() {
                return;
            }
        }
    });
    mute.expect_failure(ErrorCode::HelloTimeout, "no hello within 5 seconds");
    slow.expect_failure(ErrorCode::HelloTimeout, "no hello within 5 seconds");
    assert!(begun.elapsed() >= Duration::from_secs(5) && begun.elapsed() < Duration::from_secs(8));
    scene.counted("refused_hello_timeout", 2);
    // And who hangs up before is not worth a word.
    drop(Device::connect(scene.plan.device));
    scene.counted("hellos_incomplete", 1);
    drop((mute, slow));
    drip.join().unwrap();
    scene.end();
}

#[test]
fn a_device_s_bad_frames_cost_it_its_session() {
    let mut scene = Scene::new();
    let second = hello_frame("culprit", b"");
    scene.thrown_out(&second, ErrorCode::OutOfTurn, "", "devices_out_of_turn");
    let unknown = with_header(0x3f, 4, b"xxxx");
    scene.thrown_out(
        &unknown,
        ErrorCode::Malformed,
        "unknown frame type 0x3f",
        "devices_malformed",
    );
    let truncated = with_header(Send::TYPE, 3, &[5, b'a', b'b']);
    scene.thrown_out(&truncated, ErrorCode::Malformed, "inside a field", "devices_malformed");
    for bad in [&b"\0"[..], b"\x04bob", b"\x41", b"\x02\xff\xfe", b"\x03bob!"] {
        let intent = with_header(Intend::TYPE, bad.len(), bad);
        scene.thrown_out(&intent, ErrorCode::Malformed, "", "devices_malformed");
    }
    let huge = with_header(Send::TYPE, DEVICE_BODY_BYTES_MAX + 1, b"");
    scene.thrown_out(&huge, ErrorCode::TooLong, "where 65792 are allowed", "devices_too_long");
    // What may be ignored is ignored.
    let mut device = Device::welcomed(scene.plan.device, "culprit");
    device.raw(&with_header(0x9f, 4, b"xxxx"));
    device.assert_served();
    // And half a frame waits for its rest, then goes with its connection.
    device.raw(&with_header(Send::TYPE, 100, b"half"));
    drop(device);
    scene.end();
}

#[test]
fn a_flood_of_hints_is_counted_and_costs_nobody_anything() {
    let mut scene = Scene::new();
    let mut culprit = Device::welcomed(scene.plan.device, "culprit");
    let nobodies = (0..20_000).map(|n| format!("nobody-{n}"));
    let hint = |id: &String| {
        let recipient = IdRef::new(id).unwrap();
        Intend { recipient }.to_vec()
    };
    culprit.raw(&nobodies.flat_map(|id| hint(&id)).collect::<Vec<u8>>());
    culprit.assert_served();
    scene.bystander.assert_served();
    let counted = || ["hints_taken", "hints_refused"].map(|name| scene.node.stats().sum(name));
    eventually("all are counted", || counted().iter().sum::<u64>() == 20_000);
    // A few seconds' worth, however slow the host is.
    assert!(counted()[0] <= 4 * 15, "{:?}", counted());
    drop(culprit);
    scene.end();
}

#[test]
fn a_device_that_never_reads_is_the_only_one_to_suffer() {
    let mut scene = Scene::new();
    let deaf = Device::welcomed(scene.plan.device, "deaf");
    // Before its first report, a device's messages wait for the recipient's answers rather than in the recipient's queue.
    scene.bystander.message("nobody", 0, b"");
    scene.bystander.expect::<Report<'_>, _>(|body| {
        let report = Report::decode_body(body).unwrap();
        assert!(matches!(report.outcome, Outcome::Offline { .. }), "{report:?}");
    });
    let payload = vec![7; 60_000];
    // More than the kernel's buffers and the queue's bound take.
    let mut busy = 0;
    for number in 0..400 {
        scene.bystander.message("deaf", number, &payload);
        let before = Instant::now();
        scene.bystander.send(&trunkline_wire::common::Ping { token: number });
        // Reports come in between.
        loop {
            let (ty, body) = scene.bystander.next().unwrap();
            if ty == trunkline_wire::common::Pong::TYPE {
                break;
            }
            if ty == Report::TYPE {
                let report = Report::decode_body(&body).unwrap();
                assert!(format!("{:?}", report.outcome).contains("Busy"), "{report:?}");
                busy += 1;
            }
        }
        assert!(
            before.elapsed() < Duration::from_secs(2),
            "the others are served meanwhile"
        );
    }
    assert!(busy > 0, "messages beyond the bound are refused");
    // The last of them may still be on their way between the shards.
    let node = &scene.node;
    eventually("each message has found its place, or none", || {
        node.stats().sum("messages_delivered") + node.stats().sum("rejected_busy") >= 400
    });
    while busy < scene.node.stats().sum("rejected_busy") {
        scene.bystander.expect::<trunkline_wire::device::Report<'_>, _>(|_| ());
        busy += 1;
    }
    expect_count(&scene.node, "rejected_busy", busy);
    let shards = scene.node.stats().shards();
    assert!(shards.iter().all(|shard| shard.value("devices_overflowed") == 0));
    drop(deaf);
    let Scene { node, plan, .. } = scene;
    let mut other = Device::welcomed(plan.device, "other");
    other.assert_served();
    node.shutdown(Duration::ZERO);
}

#[test]
fn tokens_are_asked_for_and_checked() {
    let key_text = "the key that signs tokens";
    let planned = plan(&[ALL]).pop().unwrap();
    let key_file = planned.data.path().join("token-key");
    std::fs::write(&key_file, key_text).unwrap();
    let mut config = planned.config();
    config.node.token_key_file = Some(key_file);
    let node = Node::start(config).unwrap();
    let key = Secret::new(key_text.as_bytes()).unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let token = |id: &str, expiry| DeviceToken::sign(&key, IdRef::new(id).unwrap(), expiry);
    let mut scene = Scene::with(node, planned, token("bystander", now + 60).bytes());
    let code = ErrorCode::Unauthorized;
    let counter = "refused_unauthorized";
    scene.refused(&hello("anna", b""), code, "asks for a device token", counter);
    scene.refused(
        &hello("anna", token("anna", now - 1).bytes()),
        code,
        "has expired",
        counter,
    );
    let of_another = hello("anna", token("bert", now + 60).bytes());
    scene.refused(&of_another, code, "not valid for this device", counter);
    scene.refused(&hello("anna", b"nonsense"), code, "not valid for this device", counter);
    scene.end();
}

#[test]
fn a_peer_with_another_secret_or_bad_frames_is_refused_by_name() {
    let mut scene = Scene::new();
    let keys = |secret: &[u8]| ClusterKeys::new(&Secret::new(secret).unwrap());
    let opening = |keys: &ClusterKeys, node| {
        let me = LinkEnd {
            node: NodeId(node),
            incarnation: Incarnation(1),
            nonce: [3; 32],
        };
        let (opener, hello) = Opener::new(keys, me, Versions::BUILD);
        let mut bytes = Preface::new(Side::Peer).encode().to_vec();
        hello.encode(&mut bytes);
        (opener, bytes)
    };
    let other = keys(b"another secret altogether");
    let mut peer = Device::connect(scene.plan.peer);
    peer.raw(&opening(&other, 9).1);
    peer.expect_failure(ErrorCode::WrongSecret, "the cluster secrets differ");
    scene.counted("links_refused_secret", 1);
    // Knows the key check, from having listened, and not the secret.
    let good = keys(common::SECRET.as_bytes());
    let mut peer = Device::connect(scene.plan.peer);
    peer.raw(&opening(&good, 9).1);
    peer.next().expect("a challenge");
    peer.send(&trunkline_wire::peer::LinkProof { proof: [0; 32] });
    peer.expect_failure(ErrorCode::WrongSecret, "the proof of the cluster secret failed");
    scene.counted("links_refused_secret", 2);
    // A message before the proof, and a frame that is too long for a handshake.
    for frame in [
        with_header(Forward::TYPE, 3, b"xxx"),
        with_header(Forward::TYPE, 60_000, b""),
    ] {
        let mut peer = Device::connect(scene.plan.peer);
        peer.raw(&opening(&good, 9).1);
        peer.next().expect("a challenge");
        peer.raw(&frame);
        let (_, body) = peer.next().expect("a failure");
        let failure = trunkline_wire::common::Failure::decode_body(&body).unwrap();
        assert!(
            matches!(failure.code, ErrorCode::OutOfTurn | ErrorCode::TooLong),
            "{failure:?}"
        );
    }
    scene.counted("links_malformed", 2);
    // Proven, and then nonsense.
    let (opener, bytes) = opening(&good, 9);
    let mut peer = Device::connect(scene.plan.peer);
    peer.raw(&bytes);
    let (_, challenge) = peer.next().expect("a challenge");
    let challenge = trunkline_wire::peer::LinkChallenge::decode_body(&challenge).unwrap();
    peer.send(&opener.challenge(&good, &challenge).unwrap().0);
    peer.next().expect("ready");
    peer.raw(&with_header(Forward::TYPE, 3, b"xxx"));
    loop {
        let (ty, body) = peer.next().expect("a failure");
        if ty == trunkline_wire::common::Failure::TYPE {
            let failure = trunkline_wire::common::Failure::decode_body(&body).unwrap();
            assert_eq!(failure.code, ErrorCode::Malformed);
            break;
        }
    }
    scene.counted("links_malformed", 3);
    // The node's own name, and nobody's.
    let mut peer = Device::connect(scene.plan.peer);
    peer.raw(&opening(&good, 1).1);
    peer.expect_failure(ErrorCode::NotServed, "both ends of the link are node 1");
    let mut peer = Device::connect(scene.plan.peer);
    peer.raw(&opening(&good, 0).1);
    peer.expect_failure(ErrorCode::Malformed, "`node`");
    assert_eq!(LinkHello::TYPE, Hello::TYPE, "told apart by the preface");
    scene.end();
}

fn start_error(config: Config) -> String {
    let error = match Node::start(config) {
        Ok(_) => panic!("it starts"),
        Err(error) => error.to_string(),
    };
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn a_port_in_use_is_named_whoever_uses_it() {
    let planned = plan(&[ALL]).pop().unwrap();
    let node = planned.start();
    let other = plan(&[ALL]).pop().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    type Place = fn(&mut Config) -> &mut std::net::SocketAddr;
    let settings: [(&str, Place); 3] = [
        ("`listen.device`", |config| &mut config.listen.device),
        ("`listen.peer`", |config| &mut config.listen.peer),
        ("`listen.http`", |config| &mut config.listen.http),
    ];
    for (setting, address) in settings {
        let mut config = other.config();
        *address(&mut config) = taken.local_addr().unwrap();
        let error = start_error(config);
        assert!(error.starts_with(setting) && error.contains("can't be used"), "{error}");
    }
    // Another node of the same user, which shares its port among its own threads only.
    let mut config = other.config();
    config.listen.device = planned.device;
    assert!(start_error(config).starts_with("`listen.device`"));
    // The same node twice.
    let mut config = planned.config();
    (config.listen.device, config.listen.peer) = (free_address(), free_address());
    assert!(start_error(config).contains("another process uses this data directory"));
    Device::welcomed(planned.device, "bystander").assert_served();
    node.shutdown(Duration::ZERO);
}

#[test]
fn what_is_missing_at_start_is_named() {
    let planned = plan(&[ALL]).pop().unwrap();
    std::fs::remove_file(planned.data.path().join("secret")).unwrap();
    let error = start_error(planned.config());
    assert!(
        error.contains("no cluster secret; copy it from another node"),
        "{error}"
    );
    std::fs::write(planned.data.path().join("secret"), "short").unwrap();
    assert!(start_error(planned.config()).contains("at least 16 bytes"));
    std::fs::write(planned.data.path().join("secret"), common::SECRET).unwrap();
    let mut config = planned.config();
    config.node.token_key_file = Some("/nowhere/key".into());
    assert!(start_error(config).contains("/nowhere/key"));
    let mut config = planned.config();
    config.node.data_dir = "/proc/nowhere".into();
    let error = start_error(config);
    assert!(
        error.contains("/proc/nowhere: the data directory can't be used"),
        "{error}"
    );
    // A new node, and nobody to give it an id.
    std::fs::remove_file(planned.data.path().join("node-id")).unwrap();
    let mut config = planned.config();
    config.limits.join_timeout_s = 1;
    let error = start_error(config);
    assert!(error.contains("gave no id to this new node (127.0.0.1:1)"), "{error}");
}
