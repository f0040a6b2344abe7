use trunkline_wire::device::Purpose;
use trunkline_wire::id::DeviceId;

use super::*;
use crate::outbox::Conn;
use crate::session::{Opening, Sessions, State};

const R: DeviceKey = DeviceKey(7);
const OTHER: DeviceKey = DeviceKey(8);

struct Harness {
    table: Table,
    session: SessionRef,
    now: Instant,
}

impl Harness {
    fn new() -> Harness {
        let mut sessions = Sessions::default();
        let opening = Opening {
            conn: Conn(1),
            key: DeviceKey(1),
            id: DeviceId::new("sender").unwrap(),
            instance: Instance(1),
            version: 1,
            epoch: Epoch::NONE,
            purpose: Purpose::Full,
            idle_ms: 1_000,
            state: State::Open,
        };
        Harness {
            table: Table::new(1),
            session: sessions.insert(Instant::ZERO, opening),
            now: Instant::ZERO,
        }
    }

    fn send_with(&mut self, recipient: DeviceKey, number: u64, ttl_ms: u32, payload: &[u8]) -> Turn {
        self.insert(recipient, number, ttl_ms, payload, Acquaintance::Known)
    }

    fn insert(
        &mut self,
        recipient: DeviceKey,
        number: u64,
        ttl_ms: u32,
        payload: &[u8],
        acquaintance: Acquaintance,
    ) -> Turn {
        let id = id(recipient, number);
        let forward = Forward {
            recipient,
            target: Target::Region { gone: Epoch::NONE },
            trail: Trail::default(),
            sender_key: id.sender_key,
            sender: IdRef::new("sender").unwrap(),
            instance: id.instance,
            number: Number {
                number,
                confirmed: Some(0),
            },
            ttl: TtlMs::new(ttl_ms).unwrap(),
            payload: Tail(payload),
        };
        let name = IdRef::new("recipient").unwrap();
        let turn = self
            .table
            .insert(self.now, self.session, &forward, name, Way::Open, acquaintance);
        self.table.check().unwrap();
        turn
    }

    fn send(&mut self, recipient: DeviceKey, number: u64) -> Turn {
        self.send_with(recipient, number, 60_000, b"hello")
    }

    /// A sender of whom nothing has come to an end yet.
    fn send_new(&mut self, number: u64) -> Turn {
        self.insert(R, number, 60_000, b"hello", Acquaintance::New)
    }

    fn try_again(&mut self, number: u64) {
        self.table.answered(self.now, &id(R, number), false, true, 0);
        self.table.check().unwrap();
    }

    fn end(&mut self, number: u64, end: End) {
        assert!(self.table.remove(&id(R, number), end).is_some());
        self.table.check().unwrap();
    }

    /// The numbers that are tried, in this order, and those of them that never left before.
    fn due(&mut self) -> (Vec<u64>, Vec<u64>) {
        let (mut tried, mut new) = (Vec::new(), Vec::new());
        while let Some(due) = self.table.due(self.now) {
            let Due::Retry(place) = due else { continue };
            let message = self.table.at(place).unwrap();
            tried.push(message.id.number);
            new.extend((!message.has_left()).then_some(message.id.number));
            self.table.retried(self.now, place, Way::Open);
            self.table.check().unwrap();
        }
        (tried, new)
    }

    fn after_ms(&mut self, ms: u64) -> (Vec<u64>, Vec<u64>) {
        self.now = self.now + Duration::from_millis(ms);
        self.due()
    }
}

fn id(recipient: DeviceKey, number: u64) -> MessageId {
    MessageId {
        sender_key: DeviceKey(1),
        instance: Instance(1),
        recipient,
        number,
    }
}

#[test]
fn what_is_sent_after_one_that_is_to_be_tried_again_waits_behind_it_and_never_leaves_meanwhile() {
    let mut h = Harness::new();
    assert_eq!(h.send(R, 0), Turn::Now);
    h.try_again(0);
    for number in 1..4 {
        assert_eq!(h.send(R, number), Turn::Later);
    }
    assert_eq!(h.send(OTHER, 0), Turn::Now, "others don't wait");
    assert_eq!(h.after_ms(20), (vec![0], vec![]));
    h.try_again(0);
    assert_eq!(h.after_ms(39), (vec![], vec![]));
    assert_eq!(h.after_ms(1), (vec![0], vec![]));
    h.end(0, End::Answered);
    assert_eq!(h.due(), (vec![1, 2], vec![1, 2]));
    h.end(1, End::Answered);
    assert_eq!(h.due(), (vec![3], vec![3]));
    assert_eq!(h.send(R, 4), Turn::Now, "nobody waits any more");
}

#[test]
fn all_that_are_to_be_tried_again_go_behind_the_oldest_whoever_s_answer_comes_first() {
    let mut h = Harness::new();
    for number in 0..4 {
        assert_eq!(h.send(R, number), Turn::Now);
    }
    for number in [2, 0, 3, 1] {
        h.try_again(number);
    }
    // The first answer was about 2, which is ahead until it's answered again.
    assert_eq!(h.after_ms(20), (vec![2], vec![]));
    h.try_again(2);
    assert_eq!(h.after_ms(20), (vec![0], vec![]));
    h.end(0, End::Answered);
    assert_eq!(h.due(), (vec![1, 2], vec![]));
    h.end(1, End::Answered);
    assert_eq!(h.due(), (vec![3], vec![]));
}

#[test]
fn those_that_follow_grow_in_number_as_they_are_answered_and_their_bytes_are_bounded() {
    let mut h = Harness::new();
    let payload = [0; 10_000];
    h.send_with(R, 0, 60_000, &payload);
    h.try_again(0);
    for number in 1..100 {
        h.send_with(R, number, 60_000, &payload);
    }
    h.after_ms(20);
    let mut under_way = std::collections::VecDeque::from([0]);
    let mut most = 0;
    while let Some(number) = under_way.pop_front() {
        h.end(number, End::Answered);
        under_way.extend(h.due().0);
        most = most.max(under_way.len());
    }
    assert!(h.table.is_empty());
    assert_eq!(most, 7, "a quarter of what a device's queue takes");
}

#[test]
fn a_recipient_that_is_lost_again_holds_the_rest_back_again() {
    let mut h = Harness::new();
    h.send(R, 0);
    h.try_again(0);
    for number in 1..10 {
        h.send(R, number);
    }
    h.after_ms(20);
    h.end(0, End::Answered);
    assert_eq!(h.due().0, [1, 2]);
    h.try_again(1);
    h.try_again(2);
    assert_eq!(h.after_ms(30).0, [1], "and 2 waits behind it, as all others");
    h.end(1, End::Answered);
    assert_eq!(h.due().0, [2, 3]);
}

#[test]
fn when_one_that_is_ahead_ends_without_reaching_anybody_the_next_goes() {
    let mut h = Harness::new();
    h.send_with(R, 0, 500, b"");
    h.try_again(0);
    h.send(R, 1);
    h.send(R, 2);
    h.after_ms(20);
    h.try_again(0);
    // Its time is over.
    assert_eq!(h.after_ms(480).0.last(), Some(&1));
    h.end(1, End::Failed);
    assert_eq!(h.due().0, [2]);
}

#[test]
fn the_end_of_one_that_never_went_does_not_hold_up_the_others() {
    let mut h = Harness::new();
    h.send(R, 0);
    h.try_again(0);
    for number in 1..20 {
        let ttl_ms = if number == 10 { 100 } else { 60_000 };
        h.send_with(R, number, ttl_ms, b"");
    }
    h.after_ms(20);
    h.end(0, End::Answered);
    assert_eq!(h.due().0, [1, 2]);
    h.end(1, End::Answered);
    assert_eq!(h.due().0, [3, 4, 5]);
    // The time of the tenth is over.
    assert_eq!(h.after_ms(80).0, []);
    assert!(h.table.find(&id(R, 10)).is_none());
    h.end(2, End::Answered);
    assert_eq!(h.due().0, [6, 7, 8, 9, 11], "again twice as many");
}

#[test]
fn when_nobody_answers_one_that_is_ahead_others_try_as_well_but_not_all() {
    let mut h = Harness::new();
    h.send(R, 0);
    h.try_again(0);
    for number in 1..100 {
        h.send(R, number);
    }
    assert_eq!(h.after_ms(20).0, [0]);
    let mut tried = BTreeMap::new();
    for _ in 0..40 {
        for number in h.after_ms(500).0 {
            *tried.entry(number).or_insert(0) += 1;
        }
    }
    assert_eq!(tried.keys().copied().collect::<Vec<u64>>(), [0, 1, 2, 3]);
    assert!(tried.values().all(|times| *times > 1), "{tried:?}");
}

#[test]
fn one_that_waits_behind_others_expires_in_time_and_no_copy_of_it_is_about() {
    let mut h = Harness::new();
    h.send(R, 0);
    h.try_again(0);
    h.send_with(R, 1, 100, b"");
    h.now = h.now + Duration::from_millis(100);
    let mut expired = Vec::new();
    while let Some(due) = h.table.due(h.now) {
        match due {
            Due::Expired(message) => expired.push((message.id.number, message.maybe_delivered)),
            Due::Retry(place) => h.table.retried(h.now, place, Way::Open),
        }
    }
    assert_eq!(expired, [(1, false)]);
    h.table.check().unwrap();
}

#[test]
fn what_a_newcomer_sends_begins_with_a_few_and_grows_as_they_are_answered() {
    let mut h = Harness::new();
    assert_eq!(h.send_new(0), Turn::Now);
    for number in 1..100 {
        assert_eq!(h.send_new(number), Turn::Later);
    }
    assert_eq!(h.due(), (vec![1, 2, 3], vec![1, 2, 3]));
    h.end(0, End::Answered);
    assert_eq!(h.due().0, [4, 5, 6, 7, 8], "twice as many are under way");
    for number in 1..99 {
        h.end(number, End::Answered);
        h.due();
    }
    assert_eq!(h.send(R, 100), Turn::Now, "nobody waits any more");
}

#[test]
fn of_a_newcomer_s_messages_to_one_who_is_away_few_leave_and_few_need_a_retry() {
    let mut h = Harness::new();
    for number in 0..200 {
        h.send_new(number);
    }
    assert_eq!(h.due().1, [1, 2, 3], "beside the first");
    for number in 0..4 {
        h.try_again(number);
    }
    assert_eq!(h.due().0, Vec::<u64>::new());
    h.after_ms(30);
    h.end(0, End::Answered);
    let mut under_way = std::collections::VecDeque::new();
    let (mut tried, mut new) = h.due();
    under_way.extend(tried.drain(..));
    while let Some(number) = under_way.pop_front() {
        h.end(number, End::Answered);
        let (tried, more) = h.due();
        under_way.extend(tried);
        new.extend(more);
    }
    assert!(h.table.is_empty());
    assert_eq!(new.len(), 196, "all others had never left");
}

#[test]
fn a_newcomer_who_sends_one_at_a_time_is_not_held_back() {
    let mut h = Harness::new();
    for number in 0..3 {
        assert_eq!(h.send_new(number), Turn::Now);
        h.end(number, End::Answered);
    }
    assert_eq!(h.send_new(3), Turn::Now);
    h.try_again(3);
    assert_eq!(h.send_new(4), Turn::Later);
    assert_eq!(h.after_ms(30).0, [3]);
}
