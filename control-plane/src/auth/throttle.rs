//! Slows down whoever keeps failing to authenticate, by address. A good key passes all the same: a neighbour behind the
//! same address must not be able to lock an operator out, and 256 random bits cannot be guessed at any speed.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row that are answered as such.
const BURST: u32 = 10;
/// Time after which one more failure is.
const REFILL: Duration = Duration::from_secs(6);
/// Most addresses that are remembered; beyond that, new ones share one allowance.
const ADDRESSES_MAX: usize = 10_000;

/// Failed attempts by address.
#[derive(Debug, Default)]
pub struct Throttle {
    /// When each address will have been forgiven everything.
    forgiven_at: Mutex<HashMap<IpAddr, Instant>>,
}

impl Throttle {
    /// Notes a failed attempt; an error says how long to stay away.
    pub fn failed(&self, from: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let mut forgiven_at = self.forgiven_at.lock().unwrap_or_else(PoisonError::into_inner);
        let mut from = from.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), network);
        if forgiven_at.len() >= ADDRESSES_MAX && !forgiven_at.contains_key(&from) {
            forgiven_at.retain(|_, at| *at > now);
            if forgiven_at.len() >= ADDRESSES_MAX {
                from = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            }
        }
        let entry = forgiven_at.entry(from).or_insert(now);
        let next = (*entry).max(now) + REFILL;
        match next.duration_since(now).checked_sub(REFILL * BURST) {
            None | Some(Duration::ZERO) => {
                *entry = next;
                Ok(())
            }
            Some(wait) => Err(wait),
        }
    }
}

/// Whoever has one IPv6 address has its whole network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn failures_beyond_the_burst_are_told_to_wait_each_address_for_itself() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(throttle.failed(v4(1), now), Ok(()));
        }
        assert_eq!(throttle.failed(v4(1), now), Err(REFILL));
        assert_eq!(throttle.failed(v4(1), now + REFILL / 2), Err(REFILL / 2));
        assert_eq!(throttle.failed(v4(2), now), Ok(()));
        assert_eq!(throttle.failed(v4(1), now + REFILL), Ok(()));
        assert_eq!(throttle.failed(v4(1), now + REFILL), Err(REFILL));
    }

    #[test]
    fn addresses_of_one_network_share_their_allowance() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for host in 0..u16::try_from(BURST).unwrap() {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, host);
            assert_eq!(throttle.failed(Some(address.into()), now), Ok(()));
        }
        let address = |net| Some(Ipv6Addr::new(0x2001, 0xdb8, 0, net, 9, 9, 9, 9).into());
        assert!(throttle.failed(address(1), now).is_err());
        assert!(throttle.failed(address(2), now).is_ok());
    }

    #[test]
    fn the_number_of_addresses_is_bounded() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for number in 0..u32::try_from(ADDRESSES_MAX).unwrap() + 50 {
            let _ = throttle.failed(Some(IpAddr::from(number.to_be_bytes())), now);
        }
        let remembered = |throttle: &Throttle| throttle.forgiven_at.lock().unwrap().len();
        assert!(remembered(&throttle) <= ADDRESSES_MAX + 1);
        assert!(throttle.failed(Some(IpAddr::from([250, 0, 0, 1])), now).is_err(), "shared allowance");
        assert_eq!(throttle.failed(Some(IpAddr::from([250, 0, 0, 1])), now + REFILL * 2), Ok(()));
        assert!(remembered(&throttle) <= 2);
    }
}
