//! The kernel at the other end of a socket of netlink.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
};

use super::Error;
use super::netlink::{Answer, Batch, answers, question};

/// The kernel answers at once, or there is something wrong with it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// More than the kernel sends at once.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Pieces in which answers to one question may come.
const ANSWERS_MAX: usize = 1024;

pub(super) struct Kernel {
    socket: OwnedFd,
}

impl Kernel {
    pub(super) fn reach() -> Result<Self, Error> {
        let failed = refused("a socket of netlink");
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))
                .map_err(&failed)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT)).map_err(&failed)?;
        // Only the kernel is heard from here on.
        connect(&socket, &SocketAddrNetlink::new(0, 0)).map_err(&failed)?;
        Ok(Self { socket })
    }

    /// Says all of a batch, and hears each step of it confirmed.
    pub(super) fn set(&self, batch: &Batch) -> Result<(), Error> {
        send(&self.socket, &batch.bytes, SendFlags::empty()).map_err(refused("the rules"))?;
        let mut left = batch.steps.len();
        self.hear(|answer| {
            match answer {
                Answer::Done { errno: 0, .. } => left -= 1,
                Answer::Done { number, errno } => {
                    let step = usize::try_from(number).ok().and_then(|it| it.checked_sub(1));
                    let what = step.and_then(|it| batch.steps.get(it)).map_or("the rules", String::as_str);
                    return Err(refused(what)(Errno::from_raw_os_error(errno)));
                }
                Answer::Rule { .. } | Answer::End | Answer::Other => {}
            }
            Ok(left == 0)
        })
    }

    /// How many rules a chain has.
    pub(super) fn rules(&self, chain: &str) -> Result<usize, Error> {
        let failed = refused("to show its rules");
        send(&self.socket, &question(chain, 0), SendFlags::empty()).map_err(&failed)?;
        let mut found = 0;
        self.hear(|answer| match answer {
            Answer::Rule { chain: of } => {
                found += usize::from(of == chain.as_bytes());
                Ok(false)
            }
            Answer::Done { errno, .. } if errno != 0 => Err(failed(Errno::from_raw_os_error(errno))),
            Answer::End => Ok(true),
            Answer::Done { .. } | Answer::Other => Ok(false),
        })?;
        Ok(found)
    }

    /// Gives on each answer until one was the last.
    fn hear(&self, mut is_last: impl FnMut(Answer) -> Result<bool, Error>) -> Result<(), Error> {
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        for _ in 0..ANSWERS_MAX {
            let (read, _) = recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())
                .map_err(refused("to answer"))?;
            for answer in answers(&buffer[..read])? {
                if is_last(answer)? {
                    return Ok(());
                }
            }
        }
        Err(Error::Garbled)
    }
}

/// What an error of the kernel means to whoever runs this.
fn refused(what: &str) -> impl Fn(Errno) -> Error {
    move |source| match source {
        Errno::PERM | Errno::ACCESS => Error::NotAllowed,
        Errno::NOENT | Errno::OPNOTSUPP | Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT => {
            Error::Missing { what: what.to_owned(), source }
        }
        _ => Error::Refused { what: what.to_owned(), source },
    }
}
