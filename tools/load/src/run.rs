//! The rounds of a run: each target in turn, and again.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::connects;
use crate::error::Error;
use crate::ledger::Faults;
use crate::plan::{Plan, Work};
use crate::protocol::{Floor, Kind, Mqtt, Native, Nats, Protocol, Redis};
use crate::server::{Process, Time, kernel_bytes, segments_sent};
use crate::shared::{Counts, Shared};
use crate::target::Target;
use crate::worker::{Part, Tally, Worker, histogram};

/// What one round found at one target.
#[derive(Clone, Debug)]
pub struct Round {
    /// How long was measured, in seconds.
    pub seconds: f64,
    /// Messages sent while it measured.
    pub sent: u64,
    /// Messages delivered while it measured; connections, at [`Work::Connects`].
    pub delivered: u64,
    /// Nanoseconds.
    pub latency: Histogram<u64>,
    /// The server's processor time, in nanoseconds.
    pub server_ns: Option<u64>,
    /// The generator's own.
    pub generator_ns: Option<u64>,
    /// Frames, messages and answers, a system call of the generator's that wrote or read.
    pub frames_per_send: f64,
    /// See there.
    pub frames_per_receive: f64,
    /// TCP segments that this host sent, acknowledgements included, for each message.
    pub segments_per_message: Option<f64>,
    /// What went wrong, warm-up included.
    pub faults: Faults,
    /// Confirmed messages that were reported, but not as delivered.
    pub refused: u64,
    /// Connections that were held.
    pub connections: usize,
    /// The server's resident memory before the connections came and at the end, in bytes.
    pub resident_bytes: Option<(u64, u64)>,
    /// The memory that the kernel's objects took of this host, likewise.
    pub kernel_bytes: Option<(u64, u64)>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Whose turn it is.
    pub target: &'a Target,
    /// Of how many steps: a target and round each.
    pub steps: usize,
    /// How many are done.
    pub done: usize,
    /// How much of this step is over, from 0 to 1.
    pub part: f64,
}

/// Plays `rounds` rounds to each of `targets`, in turn, and returns each target's. `watch` is told now and then how far it is, and may
/// end it: what was measured by then counts.
///
/// # Errors
/// A target that can't be used; or the end came before each target had a round.
pub fn run(
    plan: &Plan,
    targets: &[Target],
    rounds: usize,
    watch: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Vec<Vec<Round>>, Error> {
    let steps = rounds * targets.len();
    let mut found = vec![Vec::new(); targets.len()];
    for done in 0..steps {
        let place = done % targets.len();
        let target = &targets[place];
        let mut stopped = false;
        let round = one(plan, target, run_number(), &mut |part| {
            let progress = Progress {
                target,
                steps,
                done,
                part,
            };
            stopped |= watch(progress).is_break();
            if stopped {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        match round {
            Ok(round) => found[place].push(round),
            Err(Error::Interrupted) if found.iter().all(|rounds| !rounds.is_empty()) => return Ok(found),
            Err(error) => return Err(error),
        }
        if stopped {
            let all = found.iter().all(|rounds| !rounds.is_empty());
            return if all { Ok(found) } else { Err(Error::Interrupted) };
        }
    }
    Ok(found)
}

/// Tells this round's connections from those of others, which the server may still know.
fn run_number() -> u32 {
    fastrand::u32(..)
}

type Watch<'a> = dyn FnMut(f64) -> ControlFlow<()> + 'a;

fn one(plan: &Plan, target: &Target, number: u32, watch: &mut Watch<'_>) -> Result<Round, Error> {
    match target.protocol {
        Kind::Native => with(&Native::new(number), plan, target, watch),
        Kind::Floor => with(&Floor::new(number), plan, target, watch),
        Kind::Nats => with(&Nats::new(number), plan, target, watch),
        Kind::Redis => with(&Redis::new(number), plan, target, watch),
        Kind::Mqtt => with(&Mqtt::new(number), plan, target, watch),
    }
}

fn with<P: Protocol>(protocol: &P, plan: &Plan, target: &Target, watch: &mut Watch<'_>) -> Result<Round, Error> {
    let memory_before = Memory::now(target)?;
    let threads = plan.threads.clamp(1, plan.connections.max(1));
    let shared = Shared::new(threads);
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for worker in 0..threads {
            let (first, next) = (
                plan.connections * worker / threads,
                plan.connections * (worker + 1) / threads,
            );
            let part = Part {
                worker,
                first,
                connections: next - first,
                rate: match plan.work {
                    Work::Open { rate, .. } => rate / threads as f64,
                    Work::Closed { .. } | Work::Idle | Work::Connects => 0.0,
                },
            };
            let core = (!plan.cores.is_empty()).then(|| plan.cores[worker % plan.cores.len()]);
            let shared = &shared;
            workers.push(scope.spawn(move || {
                let result = work(protocol, plan, shared, target, part, core);
                if result.is_err() {
                    shared.failed.store(true, Relaxed);
                }
                result
            }));
        }
        let measured = conduct(plan, target, &shared, watch);
        if measured.is_err() {
            shared.failed.store(true, Relaxed);
        }
        let mut tallies = Vec::new();
        for worker in workers {
            tallies.push(worker.join().expect("a worker has no reason to panic"));
        }
        // A worker's own reason says more than that it failed.
        let tallies: Vec<Tally> = tallies.into_iter().collect::<Result<_, _>>()?;
        let (before, after, memory_after) = measured?;
        Ok(round(plan, &before, &after, tallies, memory_before, memory_after))
    })
}

fn work<P: Protocol>(
    protocol: &P,
    plan: &Plan,
    shared: &Shared,
    target: &Target,
    part: Part,
    core: Option<usize>,
) -> Result<Tally, Error> {
    if let Some(core) = core {
        pin(core)?;
    }
    let tally = match plan.work {
        Work::Connects => connects::run(protocol, shared, target.address, part),
        Work::Closed { .. } | Work::Open { .. } | Work::Idle => {
            Worker::new(protocol, plan, shared, target, part)?.run()
        }
    }?;
    while !shared.looked.load(Relaxed) && !shared.is_failed() {
        thread::sleep(LOOK);
    }
    Ok(tally)
}

/// One moment of a run, and all that is counted up to it.
struct Moment {
    now_ns: u64,
    counts: Counts,
    server: Option<Time>,
    /// `None` where the kernel doesn't account it so.
    generator: Option<Time>,
    segments: Option<u64>,
}

impl Moment {
    fn now(target: &Target, shared: &Shared) -> Result<Moment, Error> {
        let mut server = None;
        for &pid in &target.pids {
            server.get_or_insert_with(Time::default).join(Process(pid).time()?);
        }
        Ok(Moment {
            now_ns: shared.now_ns(),
            counts: shared.counts(),
            server,
            generator: Process(std::process::id()).time().ok(),
            segments: segments_sent(),
        })
    }
}

/// What is taken at one moment, in bytes.
#[derive(Clone, Copy)]
struct Memory {
    /// By all processes of a server; `None` if none is named.
    resident: Option<u64>,
    kernel: Option<u64>,
}

impl Memory {
    fn now(target: &Target) -> Result<Memory, Error> {
        let mut resident = None;
        for &pid in &target.pids {
            *resident.get_or_insert(0) += Process(pid).resident_bytes()?;
        }
        Ok(Memory {
            resident,
            kernel: kernel_bytes(),
        })
    }
}

type Measured = (Moment, Moment, Memory);

/// Waits for all to be welcomed, begins, and looks at both ends of the interval.
fn conduct(plan: &Plan, target: &Target, shared: &Shared, watch: &mut Watch<'_>) -> Result<Measured, Error> {
    let connecting_until = shared.now_ns() + CONNECT_MAX.as_nanos() as u64;
    while shared.welcomed.load(Relaxed) < plan.connections {
        if shared.is_failed() || watch(0.0).is_break() {
            return Err(Error::Interrupted);
        }
        if shared.now_ns() > connecting_until {
            return Err(Error::NotWelcomed {
                address: target.address,
                welcomed: shared.welcomed.load(Relaxed),
                connections: plan.connections,
                seconds: CONNECT_MAX.as_secs(),
            });
        }
        thread::sleep(LOOK);
    }
    let begun_ns = shared.now_ns();
    let from_ns = begun_ns + plan.warm_up.as_nanos() as u64;
    let to_ns = from_ns + plan.measured.as_nanos() as u64;
    shared.begin(from_ns, to_ns);
    let mut before: Option<Moment> = None;
    loop {
        let now_ns = shared.now_ns();
        if shared.is_failed() {
            return Err(Error::Interrupted);
        }
        let started = match &before {
            None if now_ns >= from_ns => before.insert(Moment::now(target, shared)?).counts.delivered,
            None => u64::MAX,
            Some(moment) => moment.counts.delivered,
        };
        let enough = before.is_some()
            && plan
                .messages_max
                .is_some_and(|most| shared.counts().delivered.saturating_sub(started) >= most);
        let part = (now_ns - begun_ns) as f64 / (to_ns - begun_ns) as f64;
        if watch(part.min(1.0)).is_break() || enough || now_ns >= to_ns {
            break;
        }
        let next_ns = if before.is_none() { from_ns } else { to_ns };
        thread::sleep(LOOK.min(Duration::from_nanos(next_ns - now_ns)));
    }
    let after = Moment::now(target, shared)?;
    shared.end(after.now_ns.max(1));
    shared.looked.store(true, Relaxed);
    let before = before.ok_or(Error::Interrupted)?;
    let memory = Memory::now(target)?;
    Ok((before, after, memory))
}

fn round(
    plan: &Plan,
    before: &Moment,
    after: &Moment,
    tallies: Vec<Tally>,
    memory_before: Memory,
    memory_after: Memory,
) -> Round {
    let mut latency = histogram();
    let (mut faults, mut refused) = (Faults::default(), 0);
    for tally in tallies {
        latency.add(&tally.latency).expect("all have the same bounds");
        faults.add(tally.faults);
        refused += tally.refused;
    }
    let delivered = after.counts.delivered - before.counts.delivered;
    let per = |of: fn(&Counts) -> u64, each: fn(&Counts) -> u64| {
        let each = each(&after.counts) - each(&before.counts);
        (of(&after.counts) - of(&before.counts)) as f64 / each.max(1) as f64
    };
    let used = |of: fn(&Moment) -> &Option<Time>| {
        let (before, after) = of(before).as_ref().zip(of(after).as_ref())?;
        Some(after.since(before))
    };
    let segments = before.segments.zip(after.segments).filter(|_| delivered > 0);
    Round {
        seconds: (after.now_ns - before.now_ns) as f64 / 1e9,
        sent: after.counts.sent - before.counts.sent,
        delivered,
        latency,
        server_ns: used(|moment| &moment.server),
        generator_ns: used(|moment| &moment.generator),
        frames_per_send: per(|counts| counts.frames_out, |counts| counts.sends),
        frames_per_receive: per(|counts| counts.frames_in, |counts| counts.receives),
        segments_per_message: segments.map(|(before, after)| (after - before) as f64 / delivered as f64),
        faults,
        refused,
        connections: plan.connections,
        resident_bytes: memory_before.resident.zip(memory_after.resident),
        kernel_bytes: memory_before.kernel.zip(memory_after.kernel),
    }
}

/// Raises the number of sockets that this process may have, as far as it is allowed.
///
/// # Errors
/// It isn't allowed so many.
pub fn raise_descriptors(connections: usize) -> Result<(), Error> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let wanted = connections as u64 + DESCRIPTORS_MORE;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| Error::system("limits")(error.into()))?;
    if soft >= wanted {
        return Ok(());
    }
    if hard < wanted {
        return Err(Error::Descriptors {
            connections,
            limit: hard,
        });
    }
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).map_err(|error| Error::system("limits")(error.into()))
}

#[cfg(target_os = "linux")]
fn pin(core: usize) -> Result<(), Error> {
    use nix::sched::{CpuSet, sched_setaffinity};
    let mut set = CpuSet::new();
    set.set(core)
        .and_then(|()| sched_setaffinity(nix::unistd::Pid::from_raw(0), &set))
        .map_err(|error| Error::system("--core")(error.into()))
}

#[cfg(not(target_os = "linux"))]
fn pin(_core: usize) -> Result<(), Error> {
    Err(Error::system("--core")(std::io::ErrorKind::Unsupported.into()))
}

/// Between two looks at how far it is; also how late a signal is noticed.
const LOOK: Duration = Duration::from_millis(10);
/// How long all connections together may take to be welcomed.
const CONNECT_MAX: Duration = Duration::from_secs(60);
/// What a process has open besides.
const DESCRIPTORS_MORE: u64 = 64;
