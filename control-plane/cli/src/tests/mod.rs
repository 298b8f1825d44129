//! Tests of the whole command: its definition, its reference, and every command against a fake control plane.

mod catalogue;
mod changes;
mod checking;
mod definition;
mod explaining;
mod fake;
mod injecting;
mod live;
mod lookout;
mod quotas;
mod reference;
mod showing;
mod support;
mod trail;
mod watching;
mod way;
