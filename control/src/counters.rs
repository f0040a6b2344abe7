//! What the control plane counts, under the names that its metrics have.

macro_rules! counters {
    ($( $(#[doc = $doc:literal])* $name:ident ),* $(,)?) => {
        /// Counts since the start of the process. Each only goes up.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $( $(#[doc = $doc])* pub $name: u64, )*
        }

        impl Counters {
            /// Name, help text and value of each.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [ $( (
                    concat!("trunkline_control_", stringify!($name), "_total"),
                    concat!($($doc),*).trim_ascii(),
                    self.$name,
                ), )* ].into_iter()
            }
        }
    };
}

counters! {
    /// Connections accepted.
    connections,
    /// Connections refused because there were too many.
    connections_refused,
    /// Connections closed for the fault of who opened them.
    connections_failed,
    /// Handshakes refused for the cluster secret.
    secrets_refused,
    /// Joins that were granted.
    joins,
    /// Joins that were refused.
    joins_refused,
    /// Signs of life.
    renewals,
    /// Nodes that left by their own word.
    leaves,
    /// Members that left the map after a long silence.
    expiries,
    /// Commits to the store.
    commits,
    /// Commits to the store, and loads from it, that failed.
    store_failures,
    /// Versions of the map that were published.
    versions,
    /// Maps sent as a difference.
    deltas_sent,
    /// Maps sent whole.
    snapshots_sent,
    /// Maps that nodes have taken.
    map_acks,
    /// Maps that nodes have refused.
    map_nacks,
    /// Requests of operators.
    requests,
    /// Requests of operators that were refused.
    requests_refused,
    /// Devices that were assigned a region by their enrolment.
    assignments,
    /// Of these, how many later than the initial interval allows.
    assignments_late,
    /// Moves between regions that were begun.
    moves_begun,
    /// Moves that came to their end.
    moves_done,
    /// Moves that were given up.
    moves_aborted,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_prometheus_wants_them() {
        let counters = Counters {
            joins: 3,
            ..Counters::default()
        };
        let joins = counters
            .all()
            .find(|(name, ..)| *name == "trunkline_control_joins_total")
            .unwrap();
        assert_eq!((joins.1, joins.2), ("Joins that were granted.", 3));
    }
}
