//! The kernel's table of TCP sockets, as text. Those that listen come first, however many others there are.

use std::io::{self, BufRead};
use std::net::{IpAddr, SocketAddr};

/// How the table calls a socket that listens.
const LISTENING: &str = "0A";
/// Sockets that listen, at most; a row is of 150 bytes, or 180.
const ROWS_MAX: usize = 4096;
const BYTES_MAX: u64 = 1 << 20;

/// Where sockets listen.
pub(super) fn listening(table: impl BufRead) -> io::Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    for row in table.take(BYTES_MAX).lines().skip(1).take(ROWS_MAX) {
        let row = row?;
        let mut words = row.split_ascii_whitespace().skip(1);
        let (Some(local), Some(state)) = (words.next(), words.nth(1)) else { continue };
        if state != LISTENING {
            break;
        }
        found.extend(address(local));
    }
    Ok(found)
}

/// An address and a port in hexadecimal; of the address, words of 32 bits as the machine has them.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let octets: [u8; 16] = words.concat().try_into().ok()?;
            IpAddr::from(octets).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn whoever_listens_is_found_in_the_kernel_s_own_table() {
        for (ip, path) in
            [("127.0.0.1", "/proc/net/tcp"), ("0.0.0.0", "/proc/net/tcp"), ("::1", "/proc/net/tcp6")]
        {
            let socket = TcpListener::bind((ip, 0)).unwrap();
            let at = socket.local_addr().unwrap();
            let table = io::BufReader::new(std::fs::File::open(path).unwrap());
            assert!(listening(table).unwrap().contains(&at), "{at}");
        }
    }

    #[test]
    fn only_what_listens_is_read_and_what_is_no_row_is_passed_over() {
        let table = "  sl  local_address rem_address   st\n\
                        0: 0100007F:1F90 00000000:0000 0A 0\n\
                     \n\
                     no row\n\
                        1: 0100007G:1F90 00000000:0000 0A 0\n\
                        2: 00000000000000000000000000000000:2328 00000000:0000 0A 0\n\
                        3: 0000000000000000FFFF00000100007F:2329 00000000:0000 0A 0\n\
                        4: 0100007F:2328 0100007F:0001 01 0\n\
                        5: 00000000:0050 00000000:0000 0A 0\n";
        let found = listening(table.as_bytes()).unwrap();
        #[cfg(target_endian = "little")]
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["127.0.0.1:8080", "[::]:9000", "127.0.0.1:9001"]
        );
    }
}
