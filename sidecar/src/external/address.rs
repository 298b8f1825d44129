//! Which addresses are public ones: those that mean the same everywhere, and lead to nothing of this network or machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is a public one.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(it: Ipv4Addr) -> bool {
    let [a, b, c, _] = it.octets();
    let has_a_meaning_of_its_own = it.is_private()
        || it.is_loopback()
        || it.is_link_local()
        || it.is_documentation()
        || it.is_multicast()
        // This network, shared by providers, of protocols, 6to4 relays, benchmarks, and reserved with broadcast.
        || a == 0
        || (a == 100 && (64..128).contains(&b))
        || (a, b, c) == (192, 0, 0)
        || (a, b, c) == (192, 88, 99)
        || (a == 198 && (b == 18 || b == 19))
        || a >= 240;
    !has_a_meaning_of_its_own
}

/// Of what is allotted, without what only wraps an address of the other family or is set aside.
fn is_public_v6(it: Ipv6Addr) -> bool {
    let segments = it.segments();
    let is_allotted = segments[0] & 0xe000 == 0x2000;
    // Protocols with Teredo and benchmarks, documentation twice, 6to4.
    let is_set_aside = (segments[0] == 0x2001 && segments[1] < 0x0200)
        || (segments[0], segments[1]) == (0x2001, 0x0db8)
        || segments[0] == 0x3fff
        || segments[0] == 0x2002;
    is_allotted && !is_set_aside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_means_the_same_everywhere_is_public() {
        for public in ["1.1.1.1", "9.9.9.9", "100.128.0.1", "2606:4700::1111", "2a00:1450:4001::1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for other in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:1.1.1.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:a00:1::",
            "3fff::1",
        ] {
            assert!(!is_public(other.parse().unwrap()), "{other}");
        }
    }
}
