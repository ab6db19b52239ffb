//! Messages with file descriptors between two processes on one machine: a pair of `SOCK_SEQPACKET` sockets, one
//! protobuf message a packet.
//!
//! A packet holds at most [`PACKET_BYTES`] and [`PACKET_DESCRIPTORS`] descriptors; a larger message is an error at
//! the sender. Descriptors that arrive are close-on-exec.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use prost::Message;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Largest message, in bytes.
pub const PACKET_BYTES: usize = 128 << 10;
/// Most descriptors with one message.
pub const PACKET_DESCRIPTORS: usize = 64;

/// One end of the pair.
#[derive(Debug)]
pub struct Channel {
    // Only for its registration with the runtime: packets go through sendmsg and recvmsg, which keep their borders.
    socket: UnixStream,
}

/// Makes a connected pair. The second end is meant for a child process: it is close-on-exec like the first, so it
/// is handed over as one of the child's standard descriptors.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

impl Channel {
    /// Takes one end. Needs a tokio runtime. The descriptor is made non-blocking.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: UnixStream::from_std(socket)?,
        })
    }

    /// Sends one message and its descriptors. Waits while the peer's queue is full.
    pub async fn send<M: Message>(
        &self,
        message: &M,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let bytes = message.encode_to_vec();
        if bytes.len() > PACKET_BYTES || descriptors.len() > PACKET_DESCRIPTORS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "message of {} bytes and {} descriptors is too large",
                    bytes.len(),
                    descriptors.len()
                ),
            ));
        }
        self.socket
            .async_io(Interest::WRITABLE, || {
                let mut space =
                    [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_DESCRIPTORS))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                if !descriptors.is_empty()
                    && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors))
                {
                    return Err(io::Error::other(
                        "descriptors do not fit the control buffer",
                    ));
                }
                rustix::net::sendmsg(
                    self.socket.as_fd(),
                    &[IoSlice::new(&bytes)],
                    &mut ancillary,
                    SendFlags::NOSIGNAL,
                )?;
                Ok(())
            })
            .await
    }

    /// Receives one message; `None` when the peer has closed.
    ///
    /// # Errors
    /// `InvalidData` for bytes that are no such message or a packet that was cut short.
    pub async fn receive<M: Message + Default>(&self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let mut buffer = vec![0; PACKET_BYTES];
        self.socket
            .async_io(Interest::READABLE, || {
                let mut space =
                    [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_DESCRIPTORS))];
                let mut ancillary = RecvAncillaryBuffer::new(&mut space);
                let got = rustix::net::recvmsg(
                    self.socket.as_fd(),
                    &mut [IoSliceMut::new(&mut buffer)],
                    &mut ancillary,
                    RecvFlags::CMSG_CLOEXEC,
                )?;
                let descriptors: Vec<OwnedFd> = ancillary
                    .drain()
                    .filter_map(|message| match message {
                        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
                        _ => None,
                    })
                    .flatten()
                    .collect();
                if got.bytes == 0 {
                    return Ok(None);
                }
                let invalid = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
                if got
                    .flags
                    .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
                {
                    return Err(invalid("packet was cut short".to_owned()));
                }
                let message =
                    M::decode(&buffer[..got.bytes]).map_err(|error| invalid(error.to_string()))?;
                Ok(Some((message, descriptors)))
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    #[tokio::test]
    async fn messages_and_descriptors_arrive_in_order() {
        let (one, two) = pair().unwrap();
        let (one, two) = (Channel::new(one).unwrap(), Channel::new(two).unwrap());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"artifact").unwrap();
        file.rewind().unwrap();
        for target in 1..=3 {
            let message = proto::SetTarget {
                uid: "u".to_owned(),
                target,
            };
            one.send(&message, &[file.as_fd()]).await.unwrap();
        }
        for target in 1..=3 {
            let (message, descriptors): (proto::SetTarget, _) =
                two.receive().await.unwrap().unwrap();
            assert_eq!(message.target, target);
            assert_eq!(descriptors.len(), 1);
            let mut file = File::from(descriptors.into_iter().next().unwrap());
            file.rewind().unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "artifact");
        }
        drop(one);
        assert!(two.receive::<proto::SetTarget>().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_message_that_is_too_large_is_refused_at_the_sender() {
        let (one, _two) = pair().unwrap();
        let one = Channel::new(one).unwrap();
        let message = proto::SetTarget {
            uid: "u".repeat(PACKET_BYTES + 1),
            target: 0,
        };
        assert_eq!(
            one.send(&message, &[]).await.unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
}
