//! The limit on everything that a store keeps or carries, and the one place where requests are held against them.

use std::collections::HashSet;
use std::time::Duration;

use super::audit;
use super::types::{Count, Key, LeaseId, Txn, Write};

/// Longest key, and longest prefix.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest value.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Most writes in one transaction.
pub const TXN_WRITES_MAX: usize = 10_000;
/// Most conditions of one transaction.
pub const TXN_CONDITIONS_MAX: usize = 10_000;
/// Most sums that are written down at once.
pub const COUNTS_MAX: usize = 10_000;
/// For how long a sum is kept after its window, in seconds: a clock that is set back must not give it anew.
pub const COUNT_KEPT_AFTER_SECS: i64 = 3 * 24 * 60 * 60;
/// Most bytes of keys and values in one transaction.
pub const TXN_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest name of an author.
pub const AUTHOR_BYTES_MAX: usize = 256;
/// Longest reason.
pub const REASON_BYTES_MAX: usize = 1024;
/// Longest action, object or reason in an audit record.
pub const AUDIT_FIELD_BYTES_MAX: usize = 1024;
/// Most bytes of JSON in an audit record's details.
pub const AUDIT_DETAILS_BYTES_MAX: usize = 16 * 1024;
/// Shortest time that a lease may run.
pub const LEASE_TTL_MS_MIN: u64 = 10;
/// Longest time that a lease may run.
pub const LEASE_TTL_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1000;
/// Most keys on one lease: they go in one revision.
pub const LEASE_KEYS_MAX: usize = TXN_WRITES_MAX;
/// Most leases that run at a time.
pub const LEASES_MAX: usize = 100_000;
/// Most entries, revisions or audit records in one answer.
pub const PAGE_ENTRIES_MAX: usize = 1000;
/// Bytes of keys and values after which a page ends; the entry that goes beyond is its last.
pub const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most keys that the description of one revision names.
pub const KEYS_SHOWN_MAX: usize = 100;
/// Most bytes of keys and values in a state that is read as a whole.
pub const STATE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A request that no store will ever take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("a key must not be empty")]
    KeyEmpty,
    #[error("a key of {bytes} bytes is too long; at most {KEY_BYTES_MAX} are allowed")]
    KeyTooLong { bytes: usize },
    #[error("a key contains {character:?}, which is not allowed in keys")]
    KeyCharacter { character: char },
    #[error("the value of {key} has {bytes} bytes; at most {VALUE_BYTES_MAX} are allowed")]
    ValueTooLong { key: Key, bytes: usize },
    #[error("the transaction has {writes} writes; at most {TXN_WRITES_MAX} are allowed")]
    TooManyWrites { writes: usize },
    #[error("the transaction has {conditions} conditions; at most {TXN_CONDITIONS_MAX} are allowed")]
    TooManyConditions { conditions: usize },
    #[error("the transaction has {bytes} bytes; at most {TXN_BYTES_MAX} are allowed")]
    TxnTooLong { bytes: usize },
    #[error("{counts} sums are written down at once; at most {COUNTS_MAX} are allowed")]
    TooManyCounts { counts: usize },
    #[error("the transaction writes {key} twice")]
    WrittenTwice { key: Key },
    #[error("the author must be named")]
    AuthorEmpty,
    #[error("the author's name has {bytes} bytes; at most {AUTHOR_BYTES_MAX} are allowed")]
    AuthorTooLong { bytes: usize },
    #[error("the reason has {bytes} bytes; at most {REASON_BYTES_MAX} are allowed")]
    ReasonTooLong { bytes: usize },
    #[error("the audit record's {field} has {bytes} bytes; at most {bytes_max} are allowed")]
    AuditFieldTooLong { field: &'static str, bytes: usize, bytes_max: usize },
    #[error("a lease of {ttl_ms} ms is not possible; {LEASE_TTL_MS_MIN} to {LEASE_TTL_MS_MAX} ms are")]
    LeaseTtl { ttl_ms: u128 },
    #[error("lease {lease} would have {keys} keys; at most {LEASE_KEYS_MAX} are allowed")]
    TooManyLeaseKeys { lease: LeaseId, keys: usize },
    #[error("{LEASES_MAX} leases are running; no more are allowed")]
    TooManyLeases,
    #[error("the state has more than {STATE_BYTES_MAX} bytes, too many to be read as a whole")]
    StateTooLong,
}

/// The last code point is no character, and so marks the end of a range of keys: see [`super::types::Prefix`].
pub(super) const BEYOND_KEYS: char = char::MAX;

pub(super) const fn check_counts(counts: &[Count]) -> Result<(), Violation> {
    if counts.len() > COUNTS_MAX {
        return Err(Violation::TooManyCounts { counts: counts.len() });
    }
    Ok(())
}

/// What holds for keys and prefixes alike.
pub(super) fn check_key(text: &str) -> Result<(), Violation> {
    if text.len() > KEY_BYTES_MAX {
        return Err(Violation::KeyTooLong { bytes: text.len() });
    }
    match text.chars().find(|character| character.is_control() || *character == BEYOND_KEYS) {
        Some(character) => Err(Violation::KeyCharacter { character }),
        None => Ok(()),
    }
}

/// Checks everything that can be known about a transaction without looking into the store.
pub(super) fn check_txn(txn: &Txn) -> Result<(), Violation> {
    if txn.writes.len() > TXN_WRITES_MAX {
        return Err(Violation::TooManyWrites { writes: txn.writes.len() });
    }
    if txn.conditions.len() > TXN_CONDITIONS_MAX {
        return Err(Violation::TooManyConditions { conditions: txn.conditions.len() });
    }
    check_author(&txn.author)?;
    if txn.reason.len() > REASON_BYTES_MAX {
        return Err(Violation::ReasonTooLong { bytes: txn.reason.len() });
    }
    check_writes(&txn.writes)?;
    txn.audit.as_ref().map_or(Ok(()), check_audit)
}

fn check_author(author: &str) -> Result<(), Violation> {
    match author.len() {
        0 => Err(Violation::AuthorEmpty),
        bytes if bytes > AUTHOR_BYTES_MAX => Err(Violation::AuthorTooLong { bytes }),
        _ => Ok(()),
    }
}

fn check_writes(writes: &[Write]) -> Result<(), Violation> {
    let mut keys = HashSet::with_capacity(writes.len());
    for write in writes {
        if let Write::Put { key, value, .. } = write
            && value.len() > VALUE_BYTES_MAX
        {
            return Err(Violation::ValueTooLong { key: key.clone(), bytes: value.len() });
        }
        if !keys.insert(write.key()) {
            return Err(Violation::WrittenTwice { key: write.key().clone() });
        }
    }
    match writes.iter().map(Write::bytes).sum() {
        bytes if bytes > TXN_BYTES_MAX => Err(Violation::TxnTooLong { bytes }),
        _ => Ok(()),
    }
}

pub(super) fn check_audit(record: &audit::Record) -> Result<(), Violation> {
    let field = |field, text: &str, bytes_max| match text.len() {
        bytes if bytes > bytes_max => Err(Violation::AuditFieldTooLong { field, bytes, bytes_max }),
        _ => Ok(()),
    };
    if record.who.is_empty() {
        return Err(Violation::AuthorEmpty);
    }
    field("who", &record.who, AUTHOR_BYTES_MAX)?;
    field("action", &record.action, AUDIT_FIELD_BYTES_MAX)?;
    field("object", &record.object, AUDIT_FIELD_BYTES_MAX)?;
    field("reason", &record.reason, AUDIT_FIELD_BYTES_MAX)?;
    field("details", &record.details.to_string(), AUDIT_DETAILS_BYTES_MAX)
}

pub(super) fn check_ttl(ttl: Duration) -> Result<u64, Violation> {
    let ttl_ms = ttl.as_millis();
    u64::try_from(ttl_ms)
        .ok()
        .filter(|ttl_ms| (LEASE_TTL_MS_MIN..=LEASE_TTL_MS_MAX).contains(ttl_ms))
        .ok_or(Violation::LeaseTtl { ttl_ms })
}

pub(super) fn check_state(bytes: usize) -> Result<(), Violation> {
    if bytes > STATE_BYTES_MAX { Err(Violation::StateTooLong) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    #[test]
    fn keys_are_bounded_text_without_control_characters() {
        assert!(Key::new("x".repeat(KEY_BYTES_MAX)).is_ok());
        let check = |text: String, expected| assert_eq!(Key::new(text).unwrap_err(), expected);
        check(String::new(), Violation::KeyEmpty);
        check("é".repeat(513), Violation::KeyTooLong { bytes: 1026 });
        check("a\0b".into(), Violation::KeyCharacter { character: '\0' });
        check("a\u{7f}b".into(), Violation::KeyCharacter { character: '\u{7f}' });
        check("a\u{10ffff}".into(), Violation::KeyCharacter { character: '\u{10ffff}' });
    }

    #[test]
    fn each_limit_of_a_transaction_has_its_own_error() {
        let value = |bytes| Bytes::from(vec![0; bytes]);
        let txn = || Txn::new("me", "because");
        let many = |writes: usize, bytes| {
            (0..writes).fold(txn(), |txn, number| txn.put(key(&format!("k{number:05}")), value(bytes)))
        };
        let cases = [
            (txn().put(key("a"), value(VALUE_BYTES_MAX)), Ok(())),
            (many(TXN_WRITES_MAX, 1), Ok(())),
            (
                txn().put(key("a"), value(VALUE_BYTES_MAX + 1)),
                Err(Violation::ValueTooLong { key: key("a"), bytes: VALUE_BYTES_MAX + 1 }),
            ),
            (many(TXN_WRITES_MAX + 1, 1), Err(Violation::TooManyWrites { writes: TXN_WRITES_MAX + 1 })),
            (many(64, VALUE_BYTES_MAX), Err(Violation::TxnTooLong { bytes: 64 * (VALUE_BYTES_MAX + 6) })),
            (txn().put(key("a"), "").delete(key("a")), Err(Violation::WrittenTwice { key: key("a") })),
            (Txn::new("", ""), Err(Violation::AuthorEmpty)),
            (Txn::new("m".repeat(257), ""), Err(Violation::AuthorTooLong { bytes: 257 })),
            (Txn::new("me", "r".repeat(1025)), Err(Violation::ReasonTooLong { bytes: 1025 })),
        ];
        for (txn, expected) in cases {
            assert_eq!(check_txn(&txn), expected);
        }
    }

    #[test]
    fn audit_details_are_bounded() {
        let details = serde_json::json!("x".repeat(AUDIT_DETAILS_BYTES_MAX - 1));
        let violation =
            Violation::AuditFieldTooLong { field: "details", bytes: 16 * 1024 + 1, bytes_max: 16 * 1024 };
        let record = audit::Record { details, ..audit::Record::new("me", "put", "a", audit::Outcome::Done) };
        assert_eq!(check_audit(&record), Err(violation));
    }
}
