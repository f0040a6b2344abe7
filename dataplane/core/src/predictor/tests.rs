use super::*;

const fn key(n: u64) -> PartnerKey {
    PartnerKey(n)
}

const ANN: PartnerKey = key(1);
const BOB: PartnerKey = key(2);

fn worth_of(foresights: &[Foresight], device: PartnerKey) -> Worth {
    let found = foresights.iter().find(|foresight| foresight.device == device);
    found.map_or(Worth::NONE, |foresight| foresight.worth)
}

#[test]
fn who_has_no_history_has_no_future() {
    let mut out = Vec::new();
    Predictor::new().attached(1_000, &mut Habits::default(), &mut out);
    assert_eq!(out, []);
}

#[test]
fn a_message_that_was_delivered_foretells_its_answer() {
    let (mut predictor, mut habits, mut out) = (Predictor::new(), Habits::default(), Vec::new());
    predictor.delivered(1_000, &mut habits, ANN, &mut out);
    assert!(worth_of(&out, ANN) >= FORESEEN);
    let waiting = worth_of(&out, ANN);
    // Once answered, it is less likely than while it waits.
    out.clear();
    predictor.sent(1_010, &mut habits, ANN, &mut out);
    predictor.detached(1_011, &mut habits, &mut Vec::new());
    let explained = predictor.explain(1_012, &habits);
    assert_eq!((explained[0].device, explained[0].origin), (ANN, Origin::Session));
    let answered = explained[0].worth;
    assert!(answered < waiting);
}

#[test]
fn history_foretells_from_the_first_second_at_another_node() {
    let (mut here, mut habits) = (Predictor::new(), Habits::default());
    for n in 0..20 {
        here.sent(
            1_000 + n * 60,
            &mut habits,
            if n % 4 == 0 { BOB } else { ANN },
            &mut Vec::new(),
        );
    }
    let (mut there, mut moved, mut out) = (Predictor::new(), Habits::default(), Vec::new());
    let version = |counter| AffinityVersion { clock: 1, counter };
    let told = Affinity::recall(&habits.affinity().digest());
    assert!(moved.recall(version(1), &told));
    // Each instance of the region tells the same.
    assert!(!moved.recall(version(1), &told) && !moved.recall(version(0), &told));
    // An older session told its region late, which completed the list.
    let mut completed = told.clone();
    completed.sent(90, PartnerKey(77));
    assert!(moved.clone().recall(version(1), &completed) && moved.clone().recall(version(0), &completed));
    there.attached(4_000, &mut moved, &mut out);
    assert!(worth_of(&out, ANN) > worth_of(&out, BOB));
    assert!(worth_of(&out, ANN) >= FORESEEN);
}

#[test]
fn who_connects_may_write_to_any_of_its_partners_the_likely_ones_are_named_first() {
    let (mut predictor, mut habits, mut out) = (Predictor::new(), Habits::default(), Vec::new());
    for n in 0..10 {
        predictor.sent(1_000, &mut habits, key(100 + n), &mut Vec::new());
    }
    for day in 1..200 {
        predictor.sent(1_000 + day * 86_400, &mut habits, ANN, &mut Vec::new());
    }
    predictor.attached(18_000_000, &mut habits, &mut out);
    assert_eq!((out.len(), out[0].device), (11, ANN), "each of them once");
    assert!(out.is_sorted_by_key(|foresight| std::cmp::Reverse(foresight.worth)));
    let unlikely = out.iter().filter(|foresight| foresight.worth < FORESEEN);
    assert!((1..=10).contains(&unlikely.count()));
    // That isn't "no longer".
    assert!(out.iter().all(|foresight| foresight.worth > Worth::NONE));
}

#[test]
fn another_habit_is_learnt() {
    let (mut predictor, mut habits) = (Predictor::new(), Habits::default());
    let mut now = 1_000;
    // Strict turns: after one of them always the other.
    for n in 0..200 {
        now += 3_600;
        predictor.sent(now, &mut habits, if n % 2 == 0 { ANN } else { BOB }, &mut Vec::new());
    }
    let mut out = Vec::new();
    predictor.sent(now + 3_600, &mut habits, ANN, &mut out);
    assert!(worth_of(&out, BOB) > Worth::per_mille(800), "{out:?}");
    assert!(worth_of(&out, ANN) < Worth::per_mille(200), "{out:?}");
}

#[test]
fn who_leaves_takes_along_what_was_expected() {
    let (mut predictor, mut habits, mut out) = (Predictor::new(), Habits::default(), Vec::new());
    predictor.delivered(1_000, &mut habits, ANN, &mut out);
    predictor.hinted(1_000, &mut habits, BOB, &mut out);
    out.clear();
    predictor.detached(1_005, &mut habits, &mut out);
    let none = |device| Foresight {
        device,
        worth: Worth::NONE,
    };
    assert_eq!(out, [none(ANN), none(BOB)]);
    assert_eq!(habits.affinity().partners().len(), 1);
}

#[test]
fn what_came_true_is_counted_by_what_it_was_foreseen_after() {
    let (mut predictor, mut habits) = (Predictor::new(), Habits::default());
    let mut out = Vec::new();
    predictor.delivered(1_000, &mut habits, ANN, &mut out);
    predictor.sent(1_010, &mut habits, ANN, &mut out);
    predictor.sent(1_020, &mut habits, ANN, &mut out);
    predictor.attached(1_030, &mut habits, &mut out);
    predictor.sent(1_040, &mut habits, ANN, &mut out);
    // Nobody had heard of this one.
    predictor.sent(1_050, &mut habits, BOB, &mut out);
    predictor.learn();
    let counted = predictor.counters();
    let by_kind = (
        counted.predictions_right_reply,
        counted.predictions_right_send,
        counted.predictions_right_attach,
    );
    assert_eq!(by_kind, (1, 1, 1));
    assert_eq!(
        (
            counted.predictions_right,
            counted.predictions_wrong,
            counted.predictions_new
        ),
        (3, 0, 1)
    );
}

#[test]
fn what_is_put_off_is_learnt_alike_also_by_who_never_has_time() {
    const DEVICES: usize = 3 * LESSONS_MAX;
    let run = |messages_a_turn: usize| {
        let (mut predictor, mut rng) = (Predictor::new(), fastrand::Rng::with_seed(9));
        let mut devices = vec![Habits::default(); DEVICES];
        for device in &mut devices {
            for n in 0..6 {
                device.affinity.sent(1_000 + n, key(rng.u64(0..6)));
            }
            predictor.attached(2_000, device, &mut Vec::new());
        }
        for (n, device) in devices.iter_mut().enumerate() {
            predictor.sent(2_010, device, key(rng.u64(0..7)), &mut Vec::new());
            if (n + 1) % messages_a_turn == 0 {
                predictor.learn();
            }
        }
        let before = predictor.explain(2_020, &devices[0]);
        predictor.learn();
        (
            before,
            predictor.explain(2_020, &devices[0]),
            predictor.counters().clone(),
        )
    };
    let (at_once, by_turns, never) = (run(1), run(LESSONS_MAX), run(usize::MAX));
    let lessons =
        |counted: &PredictorCounters| counted.predictions_right + counted.predictions_wrong + counted.predictions_new;
    assert_eq!(lessons(&at_once.2), DEVICES as u64);
    assert_eq!((&at_once.1, &at_once.2), (&by_turns.1, &by_turns.2));
    assert_eq!((&at_once.1, &at_once.2), (&never.1, &never.2));
    assert_eq!(at_once.0, at_once.1, "nothing was left to learn");
    assert_ne!(never.0, never.1, "the last ones waited");
}

#[test]
fn a_program_that_sends_to_everybody_costs_eight_decisions_a_second() {
    let (mut predictor, mut habits, mut out) = (Predictor::new(), Habits::default(), Vec::new());
    for n in 0..10_000 {
        predictor.sent(1_000, &mut habits, key(n), &mut out);
    }
    assert_eq!(predictor.counters().predictions, 8);
    assert_eq!(predictor.counters().predictions_skipped, 9_992);
    assert!(habits.affinity().partners().len() <= PARTNERS_MAX);
    predictor.sent(1_001, &mut habits, ANN, &mut out);
    assert_eq!(predictor.counters().predictions, 9);
}

#[test]
fn hints_are_believed_as_far_as_they_come_true_and_a_flood_of_them_is_refused() {
    let (mut predictor, mut habits, mut out) = (Predictor::new(), Habits::default(), Vec::new());
    assert!(predictor.hinted(1_000, &mut habits, ANN, &mut out));
    let first = worth_of(&out, ANN);
    assert!(first > Worth::per_mille(800));
    let taken = (0..1_000).filter(|n| predictor.hinted(1_000, &mut habits, key(100 + n), &mut out));
    assert_eq!(taken.count(), usize::from(HINTS_A_SECOND) - 1);
    for n in 0..200 {
        predictor.hinted(2_000 + n, &mut habits, ANN, &mut out);
        predictor.sent(2_000 + n, &mut habits, BOB, &mut out);
    }
    out.clear();
    predictor.hinted(3_000, &mut habits, ANN, &mut out);
    assert!(worth_of(&out, ANN) < Worth::per_mille(100), "{out:?}");
}

#[test]
fn the_same_messages_make_the_same_predictions_and_clocks_that_jump_do_no_harm() {
    let run = || {
        let (mut predictor, mut out) = (Predictor::new(), Vec::new());
        let mut devices: Vec<Habits> = (0..20).map(|_| Habits::default()).collect();
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..20_000 {
            let now = rng.u32(..);
            let (one, other) = (rng.usize(0..20), rng.u64(0..40));
            match rng.u8(0..4) {
                0 => predictor.attached(now, &mut devices[one], &mut out),
                1 => predictor.sent(now, &mut devices[one], key(other), &mut out),
                2 => predictor.delivered(now, &mut devices[one], key(other), &mut out),
                _ => predictor.detached(now, &mut devices[one], &mut out),
            }
        }
        out
    };
    let one = run();
    assert!(one.len() > 10_000);
    assert_eq!(one, run());
}
