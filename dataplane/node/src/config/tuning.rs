//! Settings by which a node is fitted to its host: how threads wait, what sockets are set to, whose memory they have.
//!
//! Every default is what suits a host that nobody has looked at; `trunkline tune` measures whether others suit it better.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use trunkline_net::epoll::Options;
use trunkline_net::tuning::{Asked, Tuning};

use super::LimitsSection;

/// See the module's text.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TuningSection {
    /// How long a thread looks for work before it sleeps, in microseconds; 0: it sleeps at once.
    pub spin_us: u32,
    /// How long the kernel polls the network cards before a thread sleeps, in microseconds; 0: it doesn't.
    pub busy_poll_us: u32,
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// SO_INCOMING_CPU: a connection is accepted by the thread on whose processor its packets come in.
    pub incoming_cpu: bool,
    /// Whose memory a thread has.
    pub memory: Memory,
    /// SO_SNDBUF of devices and links; the kernel's own choice, which grows as needed, without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_buffer_bytes: Option<u32>,
    /// SO_RCVBUF likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_buffer_bytes: Option<u32>,
    /// Receive buffers that the devices of a thread share.
    pub device_buffers: u32,
    /// Bytes of each.
    pub device_buffer_bytes: u32,
}

/// Whose memory a thread has, where a host has several NUMA nodes.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Memory {
    /// Its processor's node's, while that has some.
    #[default]
    Local,
    /// As the process was started, for example by numactl.
    Inherited,
}

impl Default for TuningSection {
    fn default() -> TuningSection {
        let options = Options::default();
        TuningSection {
            spin_us: 0,
            busy_poll_us: 0,
            nodelay: options.tuning.nodelay,
            incoming_cpu: false,
            memory: Memory::Local,
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
            device_buffers: options.device_buffers,
            device_buffer_bytes: options.device_buffer_bytes,
        }
    }
}

impl TuningSection {
    /// What is wrong with it, if anything; it names the setting.
    pub(super) fn check(&self) -> Result<(), String> {
        for (setting, us) in [("spin_us", self.spin_us), ("busy_poll_us", self.busy_poll_us)] {
            if us > WAIT_US_MAX {
                return Err(format!("`tuning.{setting}`: at most {WAIT_US_MAX} microseconds"));
            }
        }
        let (buffers, bytes) = (self.device_buffers, self.device_buffer_bytes);
        if !(DEVICE_BUFFERS_MIN..=DEVICE_BUFFERS_MAX).contains(&buffers) {
            let range = format!("{DEVICE_BUFFERS_MIN} to {DEVICE_BUFFERS_MAX}");
            return Err(format!("`tuning.device_buffers`: {range}, not {buffers}"));
        }
        if !(DEVICE_BUFFER_BYTES_MIN..=DEVICE_BUFFER_BYTES_MAX).contains(&bytes) {
            let range = format!("{DEVICE_BUFFER_BYTES_MIN} to {DEVICE_BUFFER_BYTES_MAX}");
            return Err(format!("`tuning.device_buffer_bytes`: {range}, not {bytes}"));
        }
        let sizes = [
            ("send_buffer_bytes", self.send_buffer_bytes),
            ("receive_buffer_bytes", self.receive_buffer_bytes),
        ];
        for (setting, bytes) in sizes {
            if bytes.is_some_and(|bytes| bytes < SOCKET_BUFFER_BYTES_MIN) {
                return Err(format!("`tuning.{setting}`: at least {SOCKET_BUFFER_BYTES_MIN}"));
            }
        }
        Ok(())
    }

    /// For a driver on the processor `core`, or for what all have in common.
    pub fn options(&self, limits: &LimitsSection, core: Option<usize>) -> Options {
        Options {
            sockets_max: limits.sockets_max,
            device_buffers: self.device_buffers,
            device_buffer_bytes: self.device_buffer_bytes,
            send_buffer_bytes: self.send_buffer_bytes.map(|bytes| bytes as usize),
            receive_buffer_bytes: self.receive_buffer_bytes.map(|bytes| bytes as usize),
            tuning: Tuning {
                spin: Duration::from_micros(self.spin_us.into()),
                busy_poll: Duration::from_micros(self.busy_poll_us.into()),
                nodelay: self.nodelay,
                incoming_cpu: core.filter(|_| self.incoming_cpu),
            },
            ..Options::default()
        }
    }

    /// The setting by which something was asked for.
    pub fn setting(asked: Asked) -> &'static str {
        match asked {
            Asked::SendBuffer => "send_buffer_bytes",
            Asked::ReceiveBuffer => "receive_buffer_bytes",
            Asked::BusyPoll => "busy_poll_us",
            Asked::IncomingCpu => "incoming_cpu",
            Asked::Nodelay => "nodelay",
        }
    }
}

/// Longer waits than these are not for messages to come, but for nothing to come.
const WAIT_US_MAX: u32 = 10_000;
/// Fewer, and a burst of a few devices makes all wait.
const DEVICE_BUFFERS_MIN: u32 = 64;
/// A ring of buffers has no more.
const DEVICE_BUFFERS_MAX: u32 = 32_768;
/// A frame of a short message.
const DEVICE_BUFFER_BYTES_MIN: u32 = 256;
/// As much as a link's.
const DEVICE_BUFFER_BYTES_MAX: u32 = 65_536;
/// A page: below it the kernel takes its own minimum.
const SOCKET_BUFFER_BYTES_MIN: u32 = 4096;
