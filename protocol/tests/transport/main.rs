//! The transports over the loopback. What both must do stands in `suite` and runs over each.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod carriers;
mod floor;
mod idle;
mod narrow;
mod pki;
mod quic;
mod suite;
mod throughput;
mod urgent;
mod websocket;

/// Runs tests of the suite over both transports.
macro_rules! over_both {
    ($($test:ident),* $(,)?) => {
        mod over_quic {
            $(#[tokio::test]
            async fn $test() {
                crate::suite::$test::<crate::carriers::Quic>().await;
            })*
        }
        mod over_websocket {
            $(#[tokio::test]
            async fn $test() {
                crate::suite::$test::<crate::carriers::WebSocket>().await;
            })*
        }
    };
}

over_both!(
    a_nodes_name_key_and_expiry_come_from_its_certificate,
    a_half_closed_tunnel_still_carries_the_answer,
    another_ca_is_refused_by_either_side_and_named,
    a_clock_ahead_past_the_certificates_end_is_named_with_its_offset,
    an_expired_node_is_told_so,
    a_certificate_that_names_no_node_is_refused,
    a_resumed_session_still_has_its_identity,
    large_streams_arrive_whole_in_both_directions_at_once,
    streams_that_nobody_reads_stop_no_other,
    many_tunnels_are_open_at_once_and_their_places_come_back,
    each_class_is_counted_at_both_ends,
    a_class_that_is_held_to_a_rate_waits_and_no_other_does,
    who_closes_says_why,
    dropping_the_last_handle_closes_the_connection,
    a_reader_that_goes_away_stops_the_writer,
);

/// What is measured on links that are full.
mod printed {
    #[tokio::test]
    async fn each_class_that_waits_gets_its_floor_of_a_quic_link() {
        crate::floor::each_class_that_waits_gets_its_floor::<crate::carriers::Quic>().await;
    }

    #[tokio::test]
    async fn each_class_that_waits_gets_its_floor_of_a_websocket_link() {
        crate::floor::each_class_that_waits_gets_its_floor::<crate::carriers::WebSocket>().await;
    }

    #[tokio::test]
    async fn one_stream_uses_a_whole_quic_link() {
        crate::throughput::one_stream_uses_the_link::<crate::carriers::Quic>().await;
    }

    #[tokio::test]
    async fn one_stream_uses_a_whole_websocket_link() {
        crate::throughput::one_stream_uses_the_link::<crate::carriers::WebSocket>().await;
    }

    #[tokio::test]
    async fn beats_and_upserts_overtake_what_fills_a_quic_link() {
        crate::urgent::beats_and_upserts_overtake_what_fills_the_link::<crate::carriers::Quic>().await;
    }

    #[tokio::test]
    async fn beats_and_upserts_overtake_what_fills_a_websocket_link() {
        crate::urgent::beats_and_upserts_overtake_what_fills_the_link::<crate::carriers::WebSocket>().await;
    }
}
