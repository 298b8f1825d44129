//! Looks a name up as every program of Rust does, and connects to what it finds. For images that hold nothing else.

use std::io::Write as _;
use std::net::TcpStream;

fn main() {
    for place in std::env::args().skip(1) {
        match TcpStream::connect(&place).and_then(|mut to| to.write_all(b"found")) {
            Ok(()) => println!("{place} found"),
            Err(error) => println!("{place} {error}"),
        }
    }
}
