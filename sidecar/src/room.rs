//! Memory for the bodies of requests, bounded over all connections: each body alone is bounded too, but there are many.

use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;

use crate::refusal::Refusal;

/// What a body may take even where there is no more room, up to a quarter beyond the limit: handshakes and probes are
/// small, and a caller that is turned away in one takes the server for another.
pub const SMALL_BYTES_MAX: usize = 16 << 10;

/// The room of all listeners. Clones are the same room.
#[derive(Clone, Debug)]
pub struct Room {
    held: Gauge<i64, AtomicI64>,
    max: i64,
}

/// The part of the room that one body has, until it is dropped.
#[derive(Debug)]
pub struct Held {
    room: Room,
    bytes: usize,
}

impl Room {
    /// `held` shows how much is taken.
    pub fn new(held: Gauge<i64, AtomicI64>, max: usize) -> Self {
        Self { held, max: signed(max) }
    }

    /// Room for nothing yet.
    pub fn hold(&self) -> Held {
        Held { room: self.clone(), bytes: 0 }
    }
}

impl Held {
    /// Takes room for so many bytes more.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let more = signed(bytes);
        let held = self.room.held.inner().fetch_add(more, Ordering::Relaxed) + more;
        self.bytes += bytes;
        let max = match self.bytes {
            ..=SMALL_BYTES_MAX => self.room.max + self.room.max / 4,
            _ => self.room.max,
        };
        // Refused, it is given back as this is dropped.
        if held > max { Err(Refusal::NoRoom) } else { Ok(()) }
    }

    /// The body with its room, which is free again when the last piece of it is dropped.
    pub fn with(self, body: Bytes) -> Bytes {
        struct Kept(Bytes, #[expect(dead_code, reason = "held until dropped")] Held);
        impl AsRef<[u8]> for Kept {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        Bytes::from_owner(Kept(body, self))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.held.inner().fetch_sub(signed(self.bytes), Ordering::Relaxed);
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(max: usize) -> (Room, impl Fn() -> i64) {
        let gauge = Gauge::default();
        (Room::new(gauge.clone(), max), move || gauge.get())
    }

    #[test]
    fn a_large_body_past_the_room_is_refused_and_takes_none() {
        let (room, held) = room(100_000);
        let mut first = room.hold();
        first.grow(60_000).unwrap();
        let mut second = room.hold();
        second.grow(30_000).unwrap();
        assert_eq!(second.grow(30_000), Err(Refusal::NoRoom));
        drop(second);
        assert_eq!(held(), 60_000);
        let mut third = room.hold();
        third.grow(40_000).unwrap();
        drop((first, third));
        assert_eq!(held(), 0);
    }

    #[test]
    fn a_small_body_is_taken_when_large_ones_fill_the_room() {
        let (room, _) = room(40_000);
        let mut large = room.hold();
        large.grow(40_000).unwrap();
        let mut small = room.hold();
        small.grow(10_000).unwrap();
        assert_eq!(room.hold().grow(10_000), Err(Refusal::NoRoom), "a quarter beyond the limit is the end");
    }

    #[test]
    fn the_room_is_free_again_with_the_last_piece_of_the_body() {
        let (room, held) = room(100);
        let mut body = room.hold();
        body.grow(5).unwrap();
        let body = body.with(Bytes::from_static(b"hello"));
        let piece = body.slice(1..3);
        drop(body);
        assert_eq!((&*piece, held()), (&b"el"[..], 5));
        drop(piece);
        assert_eq!(held(), 0);
    }
}
