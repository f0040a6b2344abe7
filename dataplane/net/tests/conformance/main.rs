//! Holds every driver to the text of `trunkline_net::driver`, sentence by sentence.
//!
//! A case is a function over a [`rig::Rig`] and says nothing of the driver's kind; it returns a [`harness::Failure`] rather than
//! panic, so that a planted bug can be shown to fail it (`mutant.rs`). A further driver joins by one file like `epoll.rs`: a
//! [`harness::Harness`], and a line with `conformance!`.
//!
//! Beyond what a case asserts, the rig keeps a model of every token and checks each completion against it, and after each case it
//! closes everything and sees that nothing is left.

mod cases {
    pub mod accepting;
    pub mod buffers;
    pub mod chaos;
    pub mod closing;
    pub mod ends;
    pub mod handover;
    pub mod streams;
    pub mod tokens;
    pub mod wakeups;
}
mod epoll;
mod harness;
mod mutant;
mod os;
mod rig;
mod sim;
mod uring;

use harness::{Harness, Outcome};
use rig::Rig;

/// Runs a case with each of the harness's seeds, and the clean-up that is part of each.
pub fn check<H: Harness>(case: fn(&mut Rig<H>) -> Outcome) {
    if let Some(why) = H::unusable() {
        println!("skipped: {why}");
        return;
    }
    for seed in H::SEEDS {
        if let Err(failure) = outcome::<H>(case, seed) {
            panic!("{}, seed {seed}: {failure}", H::NAME);
        }
    }
}

/// What becomes of a case with one seed.
pub fn outcome<H: Harness>(case: fn(&mut Rig<H>) -> Outcome, seed: u64) -> Outcome {
    let mut rig = Rig::<H>::new(seed);
    case(&mut rig)?;
    rig.clean_up()
}

/// A test for each case, over one harness.
macro_rules! conformance {
    ($harness:ty: $($module:ident: $($case:ident),* ;)*) => {
        $($(
            #[test]
            fn $case() {
                crate::check::<$harness>(crate::cases::$module::$case);
            }
        )*)*
    };
    ($harness:ty) => {
        conformance! { $harness:
            streams:
                streams_are_byte_exact_under_short_reads_short_sends_and_slow_readers,
                a_send_larger_than_all_buffers_completes_whole,
                a_second_send_in_flight_panics,
                nothing_is_read_before_receive,
                a_single_receive_brings_one_piece_and_arms_nothing,
                arming_what_is_armed_does_nothing,
                a_flood_on_one_connection_does_not_hold_up_another;
            ends:
                data_that_comes_with_the_fin_is_delivered_before_eof,
                the_last_data_before_an_end_that_has_come_says_that_it_is_followed,
                after_eof_sending_is_still_possible,
                a_reset_in_the_middle_of_a_send_fails_the_send,
                a_reset_fails_an_armed_receive,
                a_refused_connect_fails_and_leaves_the_token_to_close,
                a_send_before_the_connect_is_through_fails;
            closing:
                close_answers_every_pending_operation_once,
                what_was_sent_before_the_close_is_delivered,
                closing_twice_closes_once;
            tokens:
                operations_on_a_dead_token_do_nothing,
                a_slot_is_not_another_s_before_the_end_of_its_token_was_looked_at,
                a_reused_slot_bumps_its_generation_and_the_old_token_cannot_reach_it,
                open_counts_sockets_until_they_are_closed;
            accepting:
                a_full_table_stops_accepting_before_anyone_is_refused,
                reserved_sockets_are_kept_for_connects,
                a_full_table_refuses_to_connect,
                unlisten_refuses_newcomers_and_keeps_the_accepted,
                each_driver_has_its_own_listener_on_a_shared_address;
            buffers:
                when_all_buffers_are_out_reading_waits_and_nothing_is_lost,
                links_are_read_while_the_devices_have_no_buffer,
                a_lent_buffer_is_not_written_to;
            wakeups:
                one_driver_wakes_another_also_itself_and_not_who_is_gone,
                no_wake_is_lost_in_a_race,
                a_wake_before_the_wait_ends_it,
                wait_lasts_until_its_deadline;
            handover:
                a_socket_moves_with_what_arrives_before_during_and_after,
                a_socket_dropped_in_transit_is_closed,
                a_full_table_gives_the_socket_back,
                handing_over_what_is_armed_or_in_flight_panics,
                after_a_hand_over_the_token_is_dead_without_a_close;
            chaos:
                random_operations_keep_every_promise;
        }
    };
}
use conformance;
