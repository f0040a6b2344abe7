//! The ring itself: how it's set up, how operations go in and completions come out.
//!
//! With deferred task work nothing completes but in a call by the thread that owns the ring, and such a call runs at most some twenty
//! deferred completions. So whoever takes completions out asks [`Ring::has_more`], and enters again.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{IoUring, Submitter, cqueue, squeue};
use nix::errno::Errno;

/// What became of an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    pub(super) key: u64,
    /// A count or a descriptor; negative, an error.
    pub(super) result: i32,
    /// The operation goes on.
    pub(super) more: bool,
    /// Of a receive: the socket has further bytes, or its end has come.
    pub(super) followed: bool,
    /// The buffer that the kernel chose.
    pub(super) buffer: Option<u16>,
}

impl Outcome {
    /// The error, if it is one.
    pub(super) fn error(&self) -> Option<Errno> {
        (self.result < 0).then(|| Errno::from_raw(-self.result))
    }
}

/// An io_uring of one thread.
pub(super) struct Ring {
    inner: IoUring,
    /// What had no room in the submission queue.
    overflow: VecDeque<squeue::Entry>,
    enters: u64,
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

impl Ring {
    /// Must be called by the thread that will use it.
    ///
    /// # Errors
    /// What `io_uring_setup` said: EPERM, ENOSYS, ENOMEM, EINVAL.
    pub(super) fn new(submissions: u32, completions: u32) -> io::Result<Ring> {
        assert!(
            submissions <= completions,
            "each operation has a completion: not more of the former than of the latter"
        );
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(completions)
            .setup_clamp()
            .dontfork();
        let plain = builder.clone();
        // Spares the kernel one indirection; not in every kernel that has the rest.
        let inner = match builder.setup_no_sqarray().build(submissions) {
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => plain.build(submissions)?,
            result => result?,
        };
        Ok(Ring {
            inner,
            overflow: VecDeque::new(),
            enters: 0,
        })
    }

    /// Another descriptor of it, as the address of messages to it.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        // SAFETY: the ring stays open while it's borrowed.
        unsafe { BorrowedFd::borrow_raw(self.inner.as_raw_fd()) }.try_clone_to_owned()
    }

    /// For registrations.
    pub(super) fn submitter(&self) -> Submitter<'_> {
        self.inner.submitter()
    }

    /// How often the kernel was entered.
    pub(super) fn enters(&self) -> u64 {
        self.enters
    }

    /// Starts an operation, at the next entry to the kernel at the latest.
    ///
    /// # Safety
    /// All memory that `entry` points to must stay valid, where it is, until the last completion of the operation was taken out or
    /// the ring was [quieted](Ring::quiet); and nobody may touch what the kernel writes to meanwhile.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        if self.overflow.is_empty() {
            // SAFETY: the caller's promise.
            if unsafe { self.inner.submission().push(&entry) }.is_ok() {
                return;
            }
            // Full: the kernel takes what is there. Should it be short of memory, the rest waits here, in order.
            self.enters += 1;
            let _ = self.inner.submit();
            // SAFETY: the caller's promise.
            if unsafe { self.inner.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.overflow.push_back(entry);
    }

    /// Submits, and waits for at least one completion, for `timeout` at most (`None`: as long as it takes).
    ///
    /// # Errors
    /// What makes the ring unusable.
    pub(super) fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.refill();
        if timeout == Some(Duration::ZERO) {
            // Nothing to submit and nothing to fetch: the call would only cost.
            if self.inner.submission().is_empty() && !self.has_more() {
                return Ok(());
            }
            return self.submit();
        }
        self.enters += 1;
        let submitter = self.inner.submitter();
        let result = match timeout {
            None => submitter.submit_and_wait(1),
            Some(timeout) => {
                let timeout = Timespec::from(timeout);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
            }
        };
        forgive(result)
    }

    /// Submits without waiting; deferred and set-aside completions come out, some at a time.
    ///
    /// # Errors
    /// What makes the ring unusable.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        self.refill();
        self.enters += 1;
        // Asks for completions by itself when task work is pending or completions were set aside.
        forgive(self.inner.submit())
    }

    /// Whether another entry would bring more: deferred task work, completions that had no room, operations that had none.
    pub(super) fn has_more(&mut self) -> bool {
        let submission = self.inner.submission();
        submission.taskrun() || submission.cq_overflow() || !self.overflow.is_empty()
    }

    /// Whether completions are there to be taken out.
    pub(super) fn has_completions(&mut self) -> bool {
        !self.inner.completion().is_empty()
    }

    /// Takes out all completions that are there.
    pub(super) fn take(&mut self, outcomes: &mut Vec<Outcome>) {
        outcomes.extend(self.inner.completion().map(|entry| {
            let flags = entry.flags();
            Outcome {
                key: entry.user_data(),
                result: entry.result(),
                more: cqueue::more(flags),
                followed: cqueue::sock_nonempty(flags),
                buffer: cqueue::buffer_select(flags),
            }
        }));
    }

    /// Cancels everything, and returns when nothing is under way any more. False if the kernel would not.
    pub(super) fn quiet(&mut self) -> bool {
        let submitted = self.submit().is_ok() && self.inner.submission().is_empty() && self.overflow.is_empty();
        let timeout = Timespec::from(QUIET_TIMEOUT);
        let cancelled = self
            .submitter()
            .register_sync_cancel(Some(timeout), CancelBuilder::any());
        submitted && cancelled.is_ok_or_not_found()
    }

    /// What had no room goes first.
    fn refill(&mut self) {
        while let Some(entry) = self.overflow.front() {
            // SAFETY: the promise of `push`'s caller holds until the operation completes, which it can't before this.
            if unsafe { self.inner.submission().push(entry) }.is_err() {
                return;
            }
            self.overflow.pop_front();
        }
    }
}

trait CancelResult {
    fn is_ok_or_not_found(&self) -> bool;
}

impl CancelResult for io::Result<()> {
    fn is_ok_or_not_found(&self) -> bool {
        match self {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// Errors of an entry that say nothing against the next one.
fn forgive(result: io::Result<usize>) -> io::Result<()> {
    let Err(error) = result else { return Ok(()) };
    match error.raw_os_error().map(Errno::from_raw) {
        // The time is over; a signal; completions must be taken out first; no memory for a request just now.
        Some(Errno::ETIME | Errno::EINTR | Errno::EBUSY | Errno::EAGAIN) => Ok(()),
        _ => Err(error),
    }
}

/// Cancelling takes microseconds; a kernel that takes longer is not waited for.
const QUIET_TIMEOUT: Duration = Duration::from_secs(1);
