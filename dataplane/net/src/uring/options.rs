//! How large a `UringDriver` is.

use crate::epoll;

/// The bounds of a [`super::UringDriver`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Sockets, buffers, backlog: what every driver over the system is bounded by.
    pub bounds: epoll::Options,
    /// Operations that can be started before the kernel has to be entered; a power of two.
    pub submissions: u32,
    /// Completions that the kernel can post before it must set some aside; a power of two, not below `submissions`.
    pub completions: u32,
}

impl Default for Options {
    /// 1024 operations and 16,384 completions, which take 64 KiB and 256 KiB.
    fn default() -> Options {
        Options {
            bounds: epoll::Options::default(),
            submissions: 1024,
            completions: 16_384,
        }
    }
}

impl From<epoll::Options> for Options {
    fn from(bounds: epoll::Options) -> Options {
        Options {
            bounds,
            ..Options::default()
        }
    }
}
