//! The one interface between Trunkline and sockets: operations are started, completions come back.
//!
//! The shape is that of io_uring, so that a readiness-based implementation (`epoll`) and a virtual one (`sim`) fit under
//! the same caller. What a caller may rely on, with every implementation (the conformance suite checks each sentence):
//!
//! - **Tokens.** A [`Token`] names one socket for its whole life. After [`Completion::Closed`] it is dead; its slot may come
//!   back under another generation, but not before the next [`Driver::wait`]: until then the caller may not have looked at the
//!   completion that ended it. An operation on a dead token does nothing: no panic, no completion.
//! - **Receive.** Nothing is read before [`Driver::receive`]. The bytes of [`Completion::Received`] are in stream order, none
//!   twice, none missing. Data that arrives together with the peer's FIN comes first, then one [`Completion::Eof`]; of the last of
//!   it [`Buffer::is_followed`] says so.
//!   A [`Buffer`] is the caller's until [`Driver::give_back`]; the driver never writes to it meanwhile. When all buffers are
//!   out, reading waits; nothing is lost and nothing spins.
//! - **Send.** At most one send is in flight per token: starting a second before the first's [`Completion::Sent`] is a defect of the
//!   caller and panics. A send completes whole or not at all: short writes are the driver's business. The buffer comes back.
//! - **Close.** [`Driver::close`] may be called at any time after the token was made known, against every pending operation.
//!   A pending send comes back as `Sent` with an error, then exactly one `Closed` follows: the token's last completion.
//!   Nothing else is told of the token by a later `wait`: nothing is received, no connect succeeds. (What the batch at hand
//!   still holds for it is the caller's to drop, its buffer to be given back.)
//! - **Errors** are per token. A connection whose send or receive failed stays the caller's to close.
//! - **Accept.** A full table, or a process out of descriptors, stops accepting *before* a client is accepted and refused by a reset;
//!   accepting resumes by itself when there is room. [`Completion::AcceptPaused`] tells of it, once per pause.
//! - **Wake-ups.** A [`Wake::wake`] that happens before or during [`Driver::wait`] makes that wait or the next one return with
//!   [`Completion::Woken`]; none is lost; several may fold into one. So does a [`Driver::wake`] of another driver's.
//! - **Spinning.** A driver may look for so long as it was told to before it sleeps; all of the above holds alike.
//! - **Hand-over.** A token with nothing armed and nothing in flight moves to another driver of the same kind: [`Driver::hand_over`] is
//!   answered by [`Completion::HandedOver`] with a socket that the other driver's thread passes to [`Driver::adopt`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use trunkline_wire::time::Instant;

/// Names one socket within one driver: a slot of its table and the generation of that slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    /// Index into the driver's table; small and dense, fit to index a table of the caller's.
    pub slot: u32,
    /// How often the slot was reused; a completion for an older generation never reaches the caller.
    pub generation: u32,
}

/// Names a listener: the caller's own number, given to [`Driver::listen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub u32);

/// How long a receive stays armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveMode {
    /// One `Received`, `Eof` or `ReceiveFailed`; afterwards nothing is armed. Used before a hand-over.
    Once,
    /// Until `Eof`, `ReceiveFailed` or `close`.
    Stream,
}

/// Which pool of buffers a receive draws from: devices share one, so that a storm of them can't starve the links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferGroup {
    /// Many connections, small buffers.
    Device,
    /// Few connections, large buffers.
    Link,
}

/// Received bytes, lent by the driver: read them with [`Driver::bytes`], then [`Driver::give_back`].
///
/// Neither `Clone` nor `Copy`: each buffer has exactly one owner.
#[derive(Debug, PartialEq, Eq)]
pub struct Buffer {
    pub(crate) group: BufferGroup,
    pub(crate) index: u32,
    pub(crate) length: u32,
    pub(crate) followed: bool,
}

impl Buffer {
    /// How many bytes were received; never 0.
    pub fn length(&self) -> usize {
        self.length as usize
    }

    /// Whether more was there for certain when these bytes were read: further ones, or the end of the stream. The next receive brings it
    /// without waiting for the peer. Where this is false there may be more all the same: what has only just come isn't always noticed.
    pub fn is_followed(&self) -> bool {
        self.followed
    }
}

/// What happened. `S` is the driver's form of a socket on its way to another thread.
#[derive(Debug)]
pub enum Completion<S> {
    /// A client was accepted. Nothing is armed.
    Accepted {
        /// The listener it came to.
        listener: ListenerId,
        /// The new socket.
        token: Token,
        /// The client's address.
        peer: SocketAddr,
    },
    /// Accepting stopped until there is room: the table is full (`None`), or the kernel said why (`Some`).
    AcceptPaused {
        /// The listener that pauses.
        listener: ListenerId,
        /// The kernel's error, such as EMFILE.
        error: Option<io::Error>,
    },
    /// A connect succeeded. Nothing is armed.
    Connected {
        /// The token that [`Driver::connect`] returned.
        token: Token,
    },
    /// A connect failed. The token is still the caller's to close.
    ConnectFailed {
        /// The token that [`Driver::connect`] returned.
        token: Token,
        /// Why.
        error: io::Error,
    },
    /// Bytes arrived.
    Received {
        /// The socket.
        token: Token,
        /// The bytes, lent.
        buffer: Buffer,
    },
    /// The peer will send no more. Nothing is armed any more; sending is still possible.
    Eof {
        /// The socket.
        token: Token,
    },
    /// Receiving failed, for example by a reset. Nothing is armed any more.
    ReceiveFailed {
        /// The socket.
        token: Token,
        /// Why.
        error: io::Error,
    },
    /// A send ended, and its buffer comes back.
    Sent {
        /// The socket.
        token: Token,
        /// The buffer given to [`Driver::send`], unchanged.
        bytes: Vec<u8>,
        /// `Ok` when the kernel took all of it; after an error the stream is broken and the caller must close.
        result: io::Result<()>,
    },
    /// The last completion of a token.
    Closed {
        /// The token, dead from now on.
        token: Token,
    },
    /// The answer to [`Driver::hand_over`]. With `Ok` the token is dead (no `Closed` follows); with `Err` it stays as it was.
    HandedOver {
        /// The token that left, or stayed.
        token: Token,
        /// The socket in transit, for [`Driver::adopt`] on the other side.
        result: io::Result<S>,
    },
    /// Somebody called [`Wake::wake`].
    Woken,
}

/// System calls that a driver has made on messages' ways, since it was made: what its thread alone counts, with plain additions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Entries for completions or reports: io_uring_enter, epoll_wait.
    pub enters: u64,
    /// Reads of sockets; over io_uring none, since they are operations of an entry.
    pub reads: u64,
    /// Writes to sockets; over io_uring none.
    pub writes: u64,
    /// Waits that went to sleep: of the entries, those that could block. Waits that found something while they span are the others.
    pub sleeps: u64,
}

/// Wakes a driver from another thread.
pub trait Wake: Send + Sync {
    /// Makes the current or the next [`Driver::wait`] return. Cheap enough to call per batch, not per message.
    fn wake(&self);
}

/// Sockets of one thread. See the module's text for what each operation guarantees.
pub trait Driver {
    /// A socket between two drivers of this kind. Dropping it closes the socket.
    type Socket: Send + std::fmt::Debug;
    /// Where hand-overs and wake-ups go to: another driver of this kind.
    type Address: Clone + Send + 'static;

    /// Time on this driver's monotonic clock. All drivers of a process share one origin.
    fn now(&self) -> Instant;

    /// Milliseconds since the Unix epoch, by a wall clock that may jump.
    fn wall_ms(&self) -> u64;

    /// This driver's address, for hand-overs to it.
    fn address(&self) -> Self::Address;

    /// A handle that wakes this driver, from any thread.
    fn waker(&self) -> Arc<dyn Wake>;

    /// Wakes the driver at `at`, as its [`Driver::waker`] would, when this one enters [`Driver::wait`] at the latest: for those who have
    /// work of their own to submit then, and need no system call more.
    fn wake(&mut self, at: &Self::Address);

    /// Listens on `address` (SO_REUSEPORT where the system has it, so that each thread has its own listener) and accepts from
    /// then on. Returns the bound address; port 0 picks one.
    ///
    /// # Errors
    /// What the system said, for example that the port is in use by a process of another user.
    fn listen(&mut self, address: SocketAddr, listener: ListenerId) -> io::Result<SocketAddr>;

    /// Stops accepting at `listener` and closes it. Clients that were accepted already stay.
    fn unlisten(&mut self, listener: ListenerId);

    /// Starts to connect; answered by `Connected` or `ConnectFailed`.
    ///
    /// # Errors
    /// A full table, or no descriptor left: nothing was started.
    fn connect(&mut self, address: SocketAddr) -> io::Result<Token>;

    /// Arms receiving. Arming what is armed, has ended, or is not connected does nothing.
    fn receive(&mut self, token: Token, mode: ReceiveMode, group: BufferGroup);

    /// Starts to send all of `bytes` (not empty). Where nothing can be sent (not connected yet, or broken by an earlier failure) it
    /// is answered by `Sent` with an error.
    ///
    /// # Panics
    /// If a send is in flight on `token`: one is until its `Sent` was delivered, even if the kernel took it at once.
    fn send(&mut self, token: Token, bytes: Vec<u8>);

    /// Ends the socket. What the kernel has already taken is still delivered if the peer reads it, also when bytes of the peer's
    /// were left unread (up to 64 KiB of them: a peer that floods may be reset).
    fn close(&mut self, token: Token);

    /// Moves the socket to the driver at `to`. Until `HandedOver` with `Ok` is delivered the socket counts here, and further
    /// operations on the token do nothing.
    ///
    /// # Panics
    /// If anything is armed or in flight on `token`, a connect included.
    fn hand_over(&mut self, token: Token, to: &Self::Address);

    /// Takes in a socket that another driver handed over. Nothing is armed.
    ///
    /// # Errors
    /// A full table: the socket comes back, and dropping it closes it.
    fn adopt(&mut self, socket: Self::Socket) -> Result<Token, (io::Error, Self::Socket)>;

    /// The bytes of a lent buffer.
    fn bytes<'a>(&'a self, buffer: &'a Buffer) -> &'a [u8];

    /// Returns a lent buffer.
    fn give_back(&mut self, buffer: Buffer);

    /// Submits what was started, waits until something completes or `until` has passed, and appends all that completed.
    /// With `until` in the past it doesn't wait.
    ///
    /// # Errors
    /// Only what makes the driver unusable; everything that concerns one socket is a completion.
    fn wait(&mut self, until: Option<Instant>, completions: &mut Vec<Completion<Self::Socket>>) -> io::Result<()>;

    /// How many sockets (listeners not counted) are open: for tests of leaks, and for metrics.
    fn open(&self) -> usize;

    /// What it asked of the system so far: for metrics.
    fn calls(&self) -> Calls;
}
