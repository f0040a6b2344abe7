//! Which driver a process runs on over the operating system: chosen once, at its start, by trying.

use std::fmt;
use std::str::FromStr;

use crate::epoll;

/// What the operator asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// io_uring if it works here, else epoll; the log says which and why.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll.
    Epoll,
}

/// What it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// `uring::UringDriver`.
    Uring,
    /// [`crate::epoll::EpollDriver`].
    Epoll,
}

impl fmt::Display for Chosen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Chosen::Uring => "uring",
            Chosen::Epoll => "epoll",
        })
    }
}

/// io_uring was asked for and can't be had.
#[derive(Debug, thiserror::Error)]
#[error("{0}; or use \"auto\", which falls back to epoll")]
pub struct Unavailable(String);

impl Backend {
    /// Tries what has to be tried, for a process with a driver of these bounds in each of its `threads`, and logs what was chosen and
    /// why.
    ///
    /// # Errors
    /// If io_uring was asked for by name and doesn't work here: it isn't replaced behind the operator's back.
    pub fn choose(self, threads: usize, bounds: &epoll::Options) -> Result<Chosen, Unavailable> {
        match self {
            Backend::Epoll => {
                tracing::info!("back end: epoll, as was asked for");
                Ok(Chosen::Epoll)
            }
            Backend::Uring => {
                try_uring(threads, bounds).map_err(Unavailable)?;
                tracing::info!("back end: io_uring, as was asked for");
                Ok(Chosen::Uring)
            }
            Backend::Auto => match try_uring(threads, bounds) {
                Ok(()) => {
                    tracing::info!("back end: io_uring, which passed its self-test");
                    Ok(Chosen::Uring)
                }
                Err(why) => {
                    tracing::warn!("back end: epoll, at a higher cost a message: {why}");
                    Ok(Chosen::Epoll)
                }
            },
        }
    }
}

#[cfg(target_os = "linux")]
fn try_uring(threads: usize, bounds: &epoll::Options) -> Result<(), String> {
    crate::uring::probe_for(threads, &bounds.clone().into()).map_err(|why| why.to_string())
}

#[cfg(not(target_os = "linux"))]
fn try_uring(_threads: usize, _bounds: &epoll::Options) -> Result<(), String> {
    Err("io_uring is Linux's, and this is another system".to_owned())
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Backend, String> {
        match text {
            "auto" => Ok(Backend::Auto),
            "uring" => Ok(Backend::Uring),
            "epoll" => Ok(Backend::Epoll),
            other => Err(format!(
                "`{other}` is no back end: choose among \"auto\", \"uring\", \"epoll\""
            )),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Backend::Auto => "auto",
            Backend::Uring => "uring",
            Backend::Epoll => "epoll",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_alike() {
        for backend in [Backend::Auto, Backend::Uring, Backend::Epoll] {
            assert_eq!(backend.to_string().parse(), Ok(backend));
        }
        assert!("kqueue".parse::<Backend>().unwrap_err().contains("`kqueue`"));
    }

    #[test]
    fn auto_never_fails_and_uring_never_degrades() {
        let bounds = epoll::Options::default();
        let auto = Backend::Auto.choose(2, &bounds).unwrap();
        match Backend::Uring.choose(2, &bounds) {
            Ok(chosen) => assert_eq!((chosen, auto), (Chosen::Uring, Chosen::Uring)),
            Err(error) => {
                assert_eq!(auto, Chosen::Epoll);
                assert!(error.to_string().contains("io_uring"), "{error}");
            }
        }
        assert_eq!(Backend::Epoll.choose(2, &bounds).unwrap(), Chosen::Epoll);
    }
}
