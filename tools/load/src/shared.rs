//! What the workers of a run share with its conductor: counters, and when it measures.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

/// One for each run.
#[derive(Debug)]
pub struct Shared {
    origin: Instant,
    /// Nanoseconds since `origin`; 0 until all connections are there.
    from_ns: AtomicU64,
    to_ns: AtomicU64,
    /// Connections that were welcomed.
    pub welcomed: AtomicUsize,
    /// A worker failed: the others need not go on.
    pub failed: AtomicBool,
    /// The last look at the counters is over: what a thread has used is gone with the thread.
    pub looked: AtomicBool,
    workers: Vec<Counters>,
}

/// What one worker has counted; on a cache line of its own, so that workers don't slow each other.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// Messages written to a connection's buffer.
    pub sent: AtomicU64,
    /// Messages that arrived; at [`crate::plan::Work::Connects`], connections that were welcomed.
    pub delivered: AtomicU64,
    /// Frames, messages and answers, both ways.
    pub frames_out: AtomicU64,
    /// See there.
    pub frames_in: AtomicU64,
    /// System calls.
    pub sends: AtomicU64,
    /// See there.
    pub receives: AtomicU64,
}

/// The sums of all workers' counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// See [`Counters`], here and below.
    pub sent: u64,
    #[allow(missing_docs)]
    pub delivered: u64,
    #[allow(missing_docs)]
    pub frames_out: u64,
    #[allow(missing_docs)]
    pub frames_in: u64,
    #[allow(missing_docs)]
    pub sends: u64,
    #[allow(missing_docs)]
    pub receives: u64,
}

impl Counters {
    /// Shows what was counted by now. Only its own worker writes, so that nothing has to be added atomically.
    pub fn publish(&self, counts: &Counts) {
        self.sent.store(counts.sent, Relaxed);
        self.delivered.store(counts.delivered, Relaxed);
        self.frames_out.store(counts.frames_out, Relaxed);
        self.frames_in.store(counts.frames_in, Relaxed);
        self.sends.store(counts.sends, Relaxed);
        self.receives.store(counts.receives, Relaxed);
    }
}

impl Shared {
    /// For so many workers.
    pub fn new(workers: usize) -> Shared {
        Shared {
            origin: Instant::now(),
            from_ns: AtomicU64::new(0),
            to_ns: AtomicU64::new(0),
            welcomed: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            looked: AtomicBool::new(false),
            workers: (0..workers).map(|_| Counters::default()).collect(),
        }
    }

    /// Nanoseconds since the run began.
    pub fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// Lets the workers begin, and says when it measures.
    pub fn begin(&self, from_ns: u64, to_ns: u64) {
        self.from_ns.store(from_ns, Relaxed);
        self.to_ns.store(to_ns, std::sync::atomic::Ordering::Release);
    }

    /// Measuring ends now, if it has not yet.
    pub fn end(&self, now_ns: u64) {
        self.to_ns.fetch_min(now_ns, Relaxed);
    }

    /// From when to when it measures; `None` until all connections are there.
    pub fn interval(&self) -> Option<(u64, u64)> {
        match self.to_ns.load(std::sync::atomic::Ordering::Acquire) {
            0 => None,
            to_ns => Some((self.from_ns.load(Relaxed), to_ns)),
        }
    }

    /// One worker's counters.
    pub fn counters(&self, worker: usize) -> &Counters {
        &self.workers[worker]
    }

    /// All that was counted by now.
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for worker in &self.workers {
            sum.sent += worker.sent.load(Relaxed);
            sum.delivered += worker.delivered.load(Relaxed);
            sum.frames_out += worker.frames_out.load(Relaxed);
            sum.frames_in += worker.frames_in.load(Relaxed);
            sum.sends += worker.sends.load(Relaxed);
            sum.receives += worker.receives.load(Relaxed);
        }
        sum
    }

    /// Whether a worker failed.
    pub fn is_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }
}
