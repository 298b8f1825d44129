use std::fmt::Write as _;

use super::netlink::{Answer, answers, batch, question};
use super::*;

/// What `nft -f` of nftables 1.0.6 told the kernel of [`SHOWN`], as `strace -e write=3` saw it: of each chain and rule the
/// kind of its message, and the message after its header.
const AS_NFT: &str = include_str!("as-nft.hex");

/// As `nft list table inet weft` shows it.
const SHOWN: &str = "\
table inet weft {
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		tcp dport 9000 redirect to :7443
	}

	chain output {
		type nat hook output priority -100; policy accept;
		meta skuid != 7443 oif \"lo\" ip daddr != 127.0.0.0/8 tcp dport 9000 redirect to :7443
		meta skuid != 7443 oif \"lo\" ip6 daddr != ::1 tcp dport 9000 redirect to :7443
	}

	chain input {
		type filter hook input priority filter; policy accept;
		iif != \"lo\" udp dport 9000 drop
	}

	chain canary {
		type filter hook output priority filter; policy accept;
		ip daddr 127.119.101.102 udp dport 9000 drop
	}
}
";

fn capture(ports: &[u16]) -> Capture {
    Capture::new(ports, 7443, 7443).unwrap()
}

/// A message: its kind, its flags, its number, and what comes after its header.
type Message<'b> = (u16, u16, u32, &'b [u8]);

fn messages(mut bytes: &[u8]) -> Vec<Message<'_>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let u32_at = |at: usize| u32::from_ne_bytes(*bytes[at..].first_chunk().unwrap());
        let u16_at = |at: usize| u16::from_ne_bytes(*bytes[at..].first_chunk().unwrap());
        let (message, rest) = bytes.split_at(u32_at(0) as usize);
        found.push((u16_at(4), u16_at(6), u32_at(8), &message[16..]));
        bytes = rest;
    }
    found
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn rules_are_shown_as_nft_shows_them() {
    assert_eq!(capture(&[9000]).to_string(), SHOWN);
}

#[test]
fn chains_and_rules_are_told_to_the_kernel_byte_for_byte_as_nft_tells_them() {
    let batch = batch(capture(&[9000]).chains());
    let told = messages(&batch.bytes)
        .into_iter()
        .filter(|(kind, ..)| [0xa03, 0xa06].contains(kind))
        .map(|(kind, _, _, body)| format!("{kind:04x} {}", hex(body)));
    // There every chain comes before the first rule; here each before its own.
    let (mut told, mut told_by_nft): (Vec<_>, Vec<_>) = (told.collect(), AS_NFT.lines().collect());
    told.sort();
    told_by_nft.sort_unstable();
    assert_eq!(told, told_by_nft);
}

#[test]
fn the_table_is_replaced_in_one_batch_of_which_every_step_is_answered() {
    let batch = batch(capture(&[9000, 9001]).chains());
    let all = messages(&batch.bytes);
    let kinds: Vec<_> = all.iter().map(|(kind, ..)| *kind).collect();
    let (chain, rule) = (0xa03, 0xa06);
    let tables = [0x10, 0xa00, 0xa02, 0xa00];
    let chains =
        [chain, rule, rule, chain, rule, rule, rule, rule, chain, rule, rule, chain, rule, rule, 0x11];
    assert_eq!(kinds, [&tables[..], &chains].concat());
    let numbers: Vec<_> = all.iter().map(|(_, _, number, _)| *number as usize).collect();
    assert_eq!(numbers, (0..all.len()).collect::<Vec<_>>());
    assert_eq!(batch.steps.len(), all.len() - 2);
    assert!(all[1..all.len() - 1].iter().all(|(_, flags, ..)| flags & 0x4 != 0));
    assert_eq!(batch.steps[4], "the rule `tcp dport 9000 redirect to :7443`");
}

#[test]
fn ports_are_each_captured_once_and_are_not_too_many() {
    assert_eq!(capture(&[9001, 9000, 9001]).to_string(), capture(&[9000, 9001]).to_string());
    let most: Vec<u16> = (1..=16).collect();
    assert_eq!(capture(&most).chains()[0].rules.len(), 16);
    let check = |ports: &[u16], why: &str| {
        assert_eq!(Capture::new(ports, 7443, 0).unwrap_err().to_string(), why);
    };
    check(&[], "0 ports are to be captured; there may be 1 to 16");
    check(&(1..=17).collect::<Vec<_>>(), "17 ports are to be captured; there may be 1 to 16");
    check(&[9000, 7443], "port 7443 is the sidecar's own and cannot lead to itself");
}

#[test]
fn answers_of_the_kernel_are_read_and_what_is_none_is_not() {
    // The error of a message with number 3, the rest of which is the message itself.
    let refused = [24, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0];
    assert_eq!(answers(&refused).unwrap(), [Answer::Done { number: 3, errno: 1 }]);
    let end = [20, 0, 0, 0, 3, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let batch = batch(capture(&[9000]).chains());
    let (_, _, _, rule) = messages(&batch.bytes).into_iter().rfind(|(kind, ..)| *kind == 0xa06).unwrap();
    let mut both = (rule.len() as u32 + 16).to_ne_bytes().to_vec();
    both.extend([6, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    both.extend(rule);
    both.extend(end);
    assert_eq!(answers(&both).unwrap(), [Answer::Rule { chain: b"canary".to_vec() }, Answer::End]);
    let whole = [both.len() - end.len(), both.len()];
    for cut in (1..both.len()).filter(|cut| !whole.contains(cut)) {
        assert!(matches!(answers(&both[..cut]), Err(Error::Garbled)), "{cut}");
    }
    for length in [0, 15] {
        let mut short = end;
        short[0] = length;
        assert!(matches!(answers(&short), Err(Error::Garbled)), "{length}");
    }
}

#[test]
fn a_question_names_the_table_and_the_chain() {
    let asked = question("input", 0);
    let [(kind, flags, 0, body)] = messages(&asked)[..] else { panic!("{asked:?}") };
    assert_eq!((kind, flags), (0xa07, 0x301));
    assert_eq!(body, b"\x01\0\0\0\x09\0\x01\0weft\0\0\0\0\x0a\0\x02\0input\0\0\0");
}
