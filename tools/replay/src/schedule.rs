//! What happens when a trace is played, in the order of time: who attaches where, and which message is sent. The model and a real
//! cluster play the same.
//!
//! A device attaches at a random server 10 s before its first appearance; a sender that last sent more than 1,800 s ago attaches at a
//! random one anew 2 s before its next message. Which ones is a matter of the seed alone.

use fastrand::Rng;

use crate::trace::Trace;

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// In Unix seconds.
    pub at: u64,
    /// What.
    pub act: Act,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// A device attaches.
    Attach {
        /// Which, as a place in [`Trace::devices`].
        device: usize,
        /// At which server, counted from 0.
        node: usize,
        /// Why.
        why: Why,
    },
    /// A message is sent.
    Message {
        /// Which, as a place in [`Trace::messages`].
        index: usize,
        /// Whether its sender has just come back.
        after: After,
    },
}

/// Why a device attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It appears for the first time.
    First,
    /// It was silent for long, and is about to send.
    Back,
}

/// What a message's sender did before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It sent, a while ago at most; or never.
    Activity,
    /// It was silent for long: this is the first message after an idle spell.
    Silence,
}

/// The trace's schedule with so many servers (at least 1). Who attaches at a message's second is there before it.
pub fn schedule(trace: &Trace, nodes: usize, seed: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    let attach = |device, why, at: u64| Step {
        at,
        act: Act::Attach { device, node: 0, why },
    };
    let mut last_sent: Vec<Option<u64>> = vec![None; trace.devices().len()];
    let mut appeared = vec![false; trace.devices().len()];
    for (index, (&(sender, recipient), &at)) in trace.messages().iter().zip(trace.times()).enumerate() {
        for device in [sender, recipient] {
            if !std::mem::replace(&mut appeared[device], true) {
                steps.push(attach(device, Why::First, at.saturating_sub(FIRST_ATTACH_SECONDS)));
            }
        }
        let silent = last_sent[sender].is_some_and(|last| at - last > SILENT_SECONDS);
        if silent {
            steps.push(attach(sender, Why::Back, at.saturating_sub(ATTACH_SECONDS)));
        }
        last_sent[sender] = Some(at);
        let after = if silent { After::Silence } else { After::Activity };
        let act = Act::Message { index, after };
        steps.push(Step { at, act });
    }
    steps.sort_by_key(|step| (step.at, matches!(step.act, Act::Message { .. })));
    let mut rng = Rng::with_seed(seed);
    for step in &mut steps {
        if let Act::Attach { node, .. } = &mut step.act {
            *node = rng.usize(..nodes);
        }
    }
    steps
}

/// A device attaches so long before its first appearance.
const FIRST_ATTACH_SECONDS: u64 = 10;
/// A sender that was silent for longer attaches anew,
pub const SILENT_SECONDS: u64 = 1_800;
/// so long before its next message.
const ATTACH_SECONDS: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> Trace {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"a b 1000\nb a 1001\na b 2801\na b 2900\n").unwrap();
        Trace::read(file.path()).unwrap()
    }

    #[test]
    fn devices_attach_before_they_appear_and_silent_senders_anew() {
        let steps = schedule(&trace(), 1, 1);
        let attaches = steps.iter().filter_map(|step| match step.act {
            Act::Attach { device, why, .. } => Some((step.at, device, why)),
            Act::Message { .. } => None,
        });
        let attaches: Vec<_> = attaches.collect();
        // After 1,801 s of silence anew; b, which only hears, stays.
        assert_eq!(
            attaches,
            [(990, 0, Why::First), (990, 1, Why::First), (2799, 0, Why::Back)]
        );
        let afters = steps.iter().filter_map(|step| match step.act {
            Act::Message { after, .. } => Some(after),
            Act::Attach { .. } => None,
        });
        assert_eq!(
            afters.collect::<Vec<_>>(),
            [After::Activity, After::Activity, After::Silence, After::Activity]
        );
    }

    #[test]
    fn a_seed_gives_the_same_places_again() {
        let trace = Trace::synthetic(1, 50, 500);
        assert_eq!(schedule(&trace, 8, 1), schedule(&trace, 8, 1));
        assert_ne!(schedule(&trace, 8, 1), schedule(&trace, 8, 2));
    }
}
