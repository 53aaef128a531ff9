//! The suite that every coordinator passes: who hears of what, and when.
//!
//! `coordinator_suite!` names the cases; a coordinator brings a [`Harness`].

mod cases;
mod model;
pub(crate) mod peer;

pub(crate) use self::cases::*;
pub(crate) use self::model::*;
use super::Coordinator;

/// A coordinator under test.
pub(crate) trait Harness {
    /// Whether losses are remembered: a lost peer's tunnels outlive it, and a later goodbye of it is told.
    const REMEMBERS_LOSSES: bool;

    /// The coordinators that peers connect to: one, or several that share what they know.
    fn coordinators(&self) -> Vec<&dyn Coordinator>;

    /// The one that a peer connects to, always the same.
    fn coordinator_of(&self, number: u128) -> &dyn Coordinator {
        let coordinators = self.coordinators();
        coordinators[usize::try_from(number).unwrap() % coordinators.len()]
    }

    /// Waits until all that was asked so far has reached those whom it concerns.
    async fn settle(&self);

    /// Checks that nothing is left in memory of peers that are gone.
    fn assert_empty(&self);

    /// Forgets what outlives peers.
    async fn reset(&self);
}

/// Runs every case of the suite, or those that are named, against the harness that an expression makes, as the attribute
/// says.
macro_rules! coordinator_suite {
    (#[$test:meta] $harness:expr) => {
        $crate::coordinator::suite::coordinator_suite! { #[$test] $harness;
            tn_036_and_037_a_node_is_kept_without_any_tunnel
            tn_038_and_039_tunnel_peers_hear_of_each_other
            tn_040_a_returning_agent_gets_its_clients_at_once
            tn_041_of_a_burst_the_last_update_counts
            tn_042_and_043_a_second_connection_replaces_the_first_and_nobody_notices
            tn_044_tunnels_in_both_directions_tell_once
            tn_045_goodbye_is_disconnected_and_ends_without_an_error
            tn_046_a_cut_is_lost
            tn_047_who_was_never_told_of_a_peer_is_not_told_of_its_loss
            tn_048_an_unchanged_node_is_no_news
            tn_049_removing_a_tunnel_parts_both_ends
            tn_050_a_tunnel_may_come_before_its_other_end
            tn_051_readiness_carries_the_senders_id
            tn_052_without_a_tunnel_readiness_is_an_error_and_the_stream_stays_open
            tn_053_a_stranger_in_the_list_costs_the_others_nothing
            tn_054_goodbye_and_readiness_in_one_request
            tn_035_and_055_a_request_with_a_bad_id_changes_nothing
            tn_057_a_reader_that_stalls_finds_the_latest_state
            tn_058_two_stalled_peers_that_go_are_cleaned_up_once
            tn_059_readiness_for_a_stalled_client_costs_the_agent_nothing
            tn_060_closing_tells_of_losses_then_ends_every_stream_and_those_that_come_later
            tn_062_many_peers_come_in_several_responses
            a_peer_that_returns_unchanged_is_told_to_who_has_not_read_of_its_end
            who_comes_and_goes_unread_leaves_nothing_to_read
            a_node_over_the_limit_is_refused
            a_peer_has_a_bounded_number_of_tunnels
            errors_to_a_stalled_peer_are_bounded
            a_waiting_peer_is_woken
            random_histories_of_a_few_end_in_the_state_that_the_tunnels_say
            random_histories_of_many_end_in_the_state_that_the_tunnels_say
        }
    };
    (#[$test:meta] $harness:expr; $($case:ident)*) => {$(
        #[$test]
        async fn $case() {
            $crate::coordinator::suite::$case(&$harness).await;
        }
    )*};
}
pub(crate) use coordinator_suite;
