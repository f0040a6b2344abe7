//! The steps that are measured: criterion takes their time, callgrind counts their instructions.
//!
//! A step is prepared once and then runs any number of times, each time the same work on other data, so that what two counts differ
//! by is the work of the runs by which they differ.

mod predictor;
mod router;
mod size;
mod tables;
mod wire;

use crate::BATCH;

/// Something on a message's way, prepared.
pub trait Step {
    /// Does it once.
    fn run(&mut self);

    /// Done before each run, and no part of it.
    fn prepare_run(&mut self) {}

    /// Asserts that the runs did what they are said to do.
    fn check(&self) {}
}

impl<F: FnMut()> Step for F {
    fn run(&mut self) {
        self();
    }
}

/// A step's name and how it is prepared.
pub struct Entry {
    /// What it belongs to, such as `router/step`.
    pub group: &'static str,
    /// Its name in the group.
    pub name: &'static str,
    /// How many messages, or look-ups, one run is for.
    pub messages: u64,
    /// Whether something is done before each run that is no part of it.
    pub prepares_runs: bool,
    /// Whether its instructions are counted, too: a table of millions takes minutes to prepare under valgrind.
    pub counted: bool,
    prepare: fn() -> Box<dyn Step>,
}

impl Entry {
    const fn new(group: &'static str, name: &'static str, prepare: fn() -> Box<dyn Step>) -> Entry {
        Entry {
            group,
            name,
            messages: 1,
            prepares_runs: false,
            counted: true,
            prepare,
        }
    }

    /// A run is a turn's messages.
    const fn turn(group: &'static str, name: &'static str, prepare: fn() -> Box<dyn Step>) -> Entry {
        let mut entry = Entry::new(group, name, prepare);
        entry.messages = BATCH as u64;
        entry
    }

    const fn prepared(mut self) -> Entry {
        self.prepares_runs = true;
        self
    }

    const fn timed_only(mut self) -> Entry {
        self.counted = false;
        self
    }

    /// Group and name.
    pub fn id(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }

    /// Makes it ready to run.
    pub fn prepare(&self) -> Box<dyn Step> {
        (self.prepare)()
    }
}

/// All steps.
pub fn all() -> impl Iterator<Item = &'static Entry> {
    [wire::ALL, tables::ALL, size::ALL, predictor::ALL, router::ALL]
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_step_does_what_it_is_said_to_do() {
        let mut ids: Vec<String> = super::all().map(|entry| entry.id()).collect();
        for entry in super::all().filter(|entry| entry.counted) {
            let mut step = entry.prepare();
            for _ in 0..3 {
                step.prepare_run();
                step.run();
            }
            step.check();
        }
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), super::all().count(), "a name means one step");
    }
}
