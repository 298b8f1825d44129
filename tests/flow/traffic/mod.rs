//! Stories of sidecars: real ones, with a real control plane, between real connections.

mod agent;
mod collector;
mod issuer;
mod pair;
mod upstream;

mod asked;
mod assembly;
mod away;
mod beginnings;
mod bridged;
mod broken;
mod budgets;
mod catalogue;
mod changes;
mod conditions;
mod counted;
mod doors;
mod drain;
mod external;
mod families;
mod gateway;
mod health;
mod inbound;
mod input;
mod leaving;
mod limits;
mod lists;
mod outbound;
mod public;
mod quotas;
mod routes;
mod shared;
mod streams;
mod tools;
mod traces;
