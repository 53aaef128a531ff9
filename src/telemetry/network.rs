//! What becomes of network events: they are counted, and told to who reads debug logs. Nothing leaves the machine.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::batch::network_events::{NetworkEvent, Sink};

/// Both are from fixed sets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct NetworkLabels {
    client_type: &'static str,
    status: &'static str,
}

/// Counts events and logs them.
#[derive(Debug)]
pub struct NetworkSink(Family<NetworkLabels, Counter>);

impl NetworkSink {
    pub(super) fn new(counts: Family<NetworkLabels, Counter>) -> Self {
        Self(counts)
    }
}

impl Sink for NetworkSink {
    fn report(&self, batch: &[NetworkEvent]) {
        for event in batch {
            let labels = NetworkLabels {
                client_type: event.client_type,
                status: event.status,
            };
            self.0.get_or_create(&labels).inc();
            tracing::debug!(
                id = %event.id,
                time = ?event.time,
                application = &*event.application,
                status = event.status,
                client_type = event.client_type,
                client_version = &*event.client_version,
                node_id_self = event.node_id_self,
                node_id_remote = event.node_id_remote,
                is_direct = event.is_direct,
                home_derp = event.home_derp,
                connection_age = ?event.connection_age,
                connection_setup = ?event.connection_setup,
                p2p_setup = ?event.p2p_setup,
                derp_latency = ?event.derp_latency,
                p2p_latency = ?event.p2p_latency,
                throughput_mbits = ?event.throughput_mbits,
                "network event"
            );
        }
    }
}
