//! How large an `EpollDriver` is, and how it is tuned.

use crate::tuning::Tuning;

/// The bounds and the tuning of an [`super::EpollDriver`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Sockets at once, listeners not counted.
    pub sockets_max: u32,
    /// Of these, how many are kept from being accepted, for connects and adoptions: a full table of clients must not cut a node
    /// off from its peers.
    pub sockets_reserved: u32,
    /// Receive buffers that all devices share.
    pub device_buffers: u32,
    /// Size of each.
    pub device_buffer_bytes: u32,
    /// Receive buffers that all links share.
    pub link_buffers: u32,
    /// Size of each.
    pub link_buffer_bytes: u32,
    /// Connections that the kernel holds until they are accepted; it silently caps the number (`net.core.somaxconn`).
    pub backlog: i32,
    /// Bytes that the kernel queues for sending on a socket; its own choice if `None`.
    pub send_buffer_bytes: Option<usize>,
    /// Bytes that the kernel queues for reading on a socket; its own choice if `None`.
    pub receive_buffer_bytes: Option<usize>,
    /// Spinning, polling of network cards, options of sockets.
    pub tuning: Tuning,
}

impl Default for Options {
    /// 65,536 sockets; 1024 buffers of 8 KiB for devices (8 MiB), each as long as what a busy device sends at a time, 64 of 64 KiB for links (4 MiB).
    fn default() -> Options {
        Options {
            sockets_max: 65_536,
            sockets_reserved: 256,
            device_buffers: 1024,
            device_buffer_bytes: 8192,
            link_buffers: 64,
            link_buffer_bytes: 64 * 1024,
            backlog: 4096,
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
            tuning: Tuning::default(),
        }
    }
}
