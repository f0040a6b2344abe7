//! One device for programs that block: a thread of its own drives a [`Fleet`] of one.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use trunkline_net::driver::{Driver, Wake};
use trunkline_net::epoll::{EpollDriver, Options as EpollOptions};
use trunkline_wire::auth::random_bytes;
use trunkline_wire::device::{PingIntervalMs, Purpose};
use trunkline_wire::id::{DeviceId, Instance};
use trunkline_wire::report::TtlMs;
use trunkline_wire::time::Instant;

use crate::event::{
    Counts, Event, Guarantee, Loss, Message, MessageId, OptionsError, Report, SendError, StopReason, Welcomed,
};
use crate::fleet::{DeviceIndex, Fleet};
use crate::inbox::{Awaiting, Inbox, Standing};
use crate::options::DeviceOptions;

/// Who the device is, and where its servers are.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tried in turn, from a random one on.
    pub servers: Vec<SocketAddr>,
    /// The device's id.
    pub device: DeviceId,
    /// The device's token, or nothing.
    pub token: Vec<u8>,
    /// Whether it receives.
    pub purpose: Purpose,
    /// How often the server hears from it.
    pub ping_interval: PingIntervalMs,
}

impl Options {
    /// A device that sends and receives, without a token.
    pub fn new(servers: Vec<SocketAddr>, device: DeviceId) -> Options {
        Options {
            servers,
            device,
            token: Vec::new(),
            purpose: Purpose::Full,
            ping_interval: PingIntervalMs::default(),
        }
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Settings that can't work.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// No descriptor or no thread left.
    #[error("no resources for a client: {0}")]
    Resources(#[from] io::Error),
}

/// Why a client was not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// It has given up.
    #[error("{0}")]
    Stopped(StopReason),
    /// It still tries; the last attempt ended like this, if one has ended.
    #[error("not let in within {} ms{}", waited.as_millis(), last.as_ref().map(|loss| format!(": {loss}")).unwrap_or_default())]
    TimedOut {
        /// How long was waited.
        waited: Duration,
        /// Why the last connection ended.
        last: Option<Loss>,
    },
    /// It was closed, or its driver failed.
    #[error("the client has ended")]
    Ended,
}

/// One device, connected for as long as this lives. See the crate's text for an example.
///
/// All methods take `&self`: threads may share a client.
pub struct Client {
    requests: Sender<Request>,
    waker: Arc<dyn Wake>,
    inbox: Arc<Inbox>,
    instance: Instance,
    thread: Option<JoinHandle<()>>,
}

enum Request {
    Send {
        recipient: DeviceId,
        payload: Vec<u8>,
        ttl: TtlMs,
        guarantee: Guarantee,
        awaiting: Awaiting,
        answer: SyncSender<Result<MessageId, SendError>>,
    },
    Intend {
        recipient: DeviceId,
    },
    Counts {
        answer: SyncSender<Counts>,
    },
    Close,
}

impl Client {
    /// Starts to connect, in the background, and goes on doing so as long as this lives. [`Client::ready`] waits for the welcome;
    /// messages may be sent before.
    ///
    /// # Errors
    /// Settings that can't work, or no resources. That no server answers is not an error here.
    pub fn connect(options: Options) -> Result<Client, ConnectError> {
        let driver = EpollDriver::new(driver_options())?;
        let waker = driver.waker();
        let instance = Instance(u64::from_le_bytes(random_bytes()));
        let mut fleet = Fleet::new(driver, u64::from_le_bytes(random_bytes()));
        let device = fleet.add(DeviceOptions {
            credentials: options.token,
            purpose: options.purpose,
            ping_interval: options.ping_interval,
            ..DeviceOptions::new(options.servers.into(), options.device, instance)
        })?;
        let inbox = Arc::new(Inbox::default());
        let (requests, incoming) = channel();
        let worker = Worker {
            fleet,
            device,
            inbox: inbox.clone(),
            requests: incoming,
        };
        let thread = std::thread::Builder::new()
            .name("trunkline-client".into())
            .spawn(move || worker.run())?;
        Ok(Client {
            requests,
            waker,
            inbox,
            instance,
            thread: Some(thread),
        })
    }

    /// Waits until a server has let the device in.
    ///
    /// # Errors
    /// After `timeout`, with the reason why the last attempt failed; at once when it is certain that none will succeed.
    pub fn ready(&self, timeout: Duration) -> Result<Welcomed, NotReady> {
        match self.inbox.wait_decided(timeout) {
            Standing::Welcomed(welcomed) => Ok(welcomed),
            Standing::Stopped(reason) => Err(NotReady::Stopped(reason)),
            Standing::Ended => Err(NotReady::Ended),
            Standing::Apart => Err(NotReady::TimedOut {
                waited: timeout,
                last: None,
            }),
            Standing::Lost(loss) => Err(NotReady::TimedOut {
                waited: timeout,
                last: Some(loss),
            }),
        }
    }

    /// Sends a message. Of a confirmed one exactly one [`Event::Report`] follows.
    ///
    /// # Errors
    /// At once, if the message can't be taken. Then nothing is reported of it.
    pub fn send(
        &self,
        recipient: &DeviceId,
        payload: impl Into<Vec<u8>>,
        ttl: TtlMs,
        guarantee: Guarantee,
    ) -> Result<MessageId, SendError> {
        self.request(recipient, payload.into(), ttl, guarantee, Awaiting::Nothing)
    }

    /// Sends a confirmed message and waits for its report, which comes two seconds after the end of its time to live at the
    /// latest. It does not show up among the events.
    ///
    /// # Errors
    /// At once, if the message can't be taken; later only if the client is closed meanwhile.
    pub fn send_and_wait(
        &self,
        recipient: &DeviceId,
        payload: impl Into<Vec<u8>>,
        ttl: TtlMs,
    ) -> Result<Report, SendError> {
        let id = self.request(recipient, payload.into(), ttl, Guarantee::Confirmed, Awaiting::Report)?;
        self.inbox.wait_report(&id).ok_or(SendError::Stopped)
    }

    /// Says to the server whom the user is about to write to, when a chat is opened, say: its way there may be ready before the message. It
    /// costs nothing but a frame if no message follows, and is never answered. At most four a second are said, the newest first; the
    /// last one is said again after a reconnect, until a message has followed or half a minute has passed.
    pub fn intend(&self, recipient: &DeviceId) {
        self.post(Request::Intend {
            recipient: recipient.clone(),
        });
    }

    /// The next message, waiting for at most `timeout`. Other events are left for [`Client::events`].
    pub fn recv_timeout(&self, timeout: Duration) -> Option<Message> {
        let message = self.inbox.wait_message(timeout);
        self.feed();
        message
    }

    /// The next event of any kind, waiting for at most `timeout`.
    pub fn event_timeout(&self, timeout: Duration) -> Option<Event> {
        let event = self.inbox.wait_event(timeout);
        self.feed();
        event
    }

    /// The events that wait, oldest first, without waiting for more.
    pub fn events(&self) -> Vec<Event> {
        let events = self.inbox.take_all();
        self.feed();
        events
    }

    /// The random number of this start: with the device and a number it names a message.
    pub fn instance(&self) -> Instance {
        self.instance
    }

    /// What was counted so far; `None` if the client has ended.
    pub fn counts(&self) -> Option<Counts> {
        let (answer, counts) = sync_channel(1);
        self.post(Request::Counts { answer });
        counts.recv().ok()
    }

    /// Ends the session. What was sent is written first, for at most a second; reports that are still due will not come.
    pub fn close(mut self) {
        self.end();
    }

    fn request(
        &self,
        recipient: &DeviceId,
        payload: Vec<u8>,
        ttl: TtlMs,
        guarantee: Guarantee,
        awaiting: Awaiting,
    ) -> Result<MessageId, SendError> {
        let (answer, result) = sync_channel(1);
        self.post(Request::Send {
            recipient: recipient.clone(),
            payload,
            ttl,
            guarantee,
            awaiting,
            answer,
        });
        result.recv().unwrap_or(Err(SendError::Stopped))
    }

    /// An ended thread drops the request, and with it the sender of its answer.
    fn post(&self, request: Request) {
        if self.requests.send(request).is_ok() {
            self.waker.wake();
        }
    }

    /// Tells the thread that events were taken, if it waits for that.
    fn feed(&self) {
        if self.inbox.starved() {
            self.waker.wake();
        }
    }

    fn end(&mut self) {
        self.post(Request::Close);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed by it; there is nothing to add.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end();
    }
}

/// The thread's side.
struct Worker {
    fleet: Fleet<EpollDriver>,
    device: DeviceIndex,
    inbox: Arc<Inbox>,
    requests: Receiver<Request>,
}

impl Worker {
    fn run(mut self) {
        let mut close_by = None;
        loop {
            while let Ok(request) = self.requests.try_recv() {
                match request {
                    Request::Send {
                        recipient,
                        payload,
                        ttl,
                        guarantee,
                        awaiting,
                        answer,
                    } => {
                        let result = self
                            .fleet
                            .send(self.device, recipient.borrow(), payload, ttl, guarantee);
                        if let (Ok(id), Awaiting::Report) = (&result, awaiting) {
                            self.inbox.await_report(id);
                        }
                        // Who asked may have gone.
                        let _ = answer.send(result);
                    }
                    Request::Intend { recipient } => self.fleet.intend(self.device, recipient.borrow()),
                    Request::Counts { answer } => drop(answer.send(self.fleet.counts())),
                    Request::Close => close_by = Some(self.fleet.driver().now() + CLOSE_TIMEOUT),
                }
            }
            while let Some((_, event)) = self.fleet.next_event() {
                self.inbox.put(event);
            }
            self.fleet.set_backlog_beyond(self.inbox.backlog());
            if close_by.is_some_and(|by| self.is_flushed() || self.fleet.driver().now() >= by) {
                break;
            }
            if self.fleet.turn(close_by).is_err() {
                break;
            }
        }
        self.fleet.remove(self.device);
        // One turn for the driver to close the socket.
        let _ = self.fleet.turn(Some(Instant::ZERO));
        self.inbox.end();
    }

    fn is_flushed(&self) -> bool {
        let stopped = self
            .fleet
            .session(self.device)
            .is_none_or(|session| session.is_stopped());
        stopped || self.fleet.unsent(self.device) == (0, 0)
    }
}

/// One connection, and a second one while the first closes.
fn driver_options() -> EpollOptions {
    EpollOptions {
        sockets_max: 8,
        sockets_reserved: 0,
        device_buffers: 4,
        device_buffer_bytes: 64 * 1024,
        link_buffers: 1,
        link_buffer_bytes: 1,
        ..EpollOptions::default()
    }
}

/// How long closing waits for what was sent to be written.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
