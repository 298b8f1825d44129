//! The language of `when` and `cost`: a part of CEL, the Common Expression Language, over one call.
//!
//! What there is:
//!
//! - `caller.id`, `.trustDomain`, `.namespace`, `.serviceAccount`, `.tenant`; `request.method`, `.tool`, `.prompt`,
//!   `.resource`, `.server`, `.namespace` (of the server): texts, empty where there is none. `args`, what the tool or
//!   prompt is called with, and `claims` of the caller's token: objects whose fields are of any type.
//! - Whole numbers, fractions, texts (`"a"`, `'a'`, `r"\"`, `"""a"""`), `true`, `false`, `null`, lists; comments (`//`).
//! - `&&`, `||`, `!`, `?:`, `==`, `!=`, `<`, `<=`, `>`, `>=`, `in`, `+`, `-`, `*`, `/`, `%`, `.field`, `["field"]`, `[0]`.
//! - `has(args.x)`, `size(x)`, `int(x)`, `double(x)`, `string(x)`; of texts `startsWith`, `endsWith`, `contains`,
//!   `glob` (`*` stands for any run of characters), `lowerAscii`; of lists `all(x, …)` and `exists(x, …)`.
//!
//! What is as in CEL: values of different types are not equal, and have no order. A field that is not there is an error,
//! so ask `has` first. `false && x` is false and `true || x` is true even if `x` is an error, on either side.
//!
//! What is not: there is one type of numbers. One without a fraction is whole however it is written, `5.0` too; `/` of
//! whole numbers is whole. What readers of JSON see differently is an error rather than a guess: numbers that are equal
//! as doubles and not as written (or the other way), a text with NUL in it, and a field beside another that differs from
//! it by case alone. Objects cannot be compared. There are no regular expressions, bytes, maps, times and messages.
//!
//! An expression is checked when it is compiled: names, fields, functions and types as far as they are known, and what
//! it may cost. What it does cost is counted while it is evaluated, and ends it. Written by hand because no engine in
//! reach has a checker, a bound on cost and positions, and reads arguments without making a tree of them.

mod check;
mod evaluate;
mod lex;
mod number;
mod parse;

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Caller;
use crate::mcp::{Raw, Target};
use crate::name::ServerName;
use crate::resource::bounded::Text;

/// Longest expression, in bytes.
pub const TEXT_BYTES_MAX: usize = 4096;
/// Most parts of an expression.
pub const NODES_MAX: usize = 512;
/// Deepest nesting of an expression. Chains of `&&` and of `||` are one deep.
pub const DEPTH_MAX: usize = 48;
/// Most that an expression may cost by its form: about a step for each part, where what is done for each element of a
/// list counts [`ELEMENTS_ASSUMED`] times.
pub const COST_STEPS_MAX: u32 = 20_000;
/// Elements that a list is taken to have before there is one.
pub const ELEMENTS_ASSUMED: u32 = 32;
/// Most steps that the conditions of one decision may take together; each part that is evaluated and each
/// [`BYTES_PER_STEP`] that are looked at are one.
pub const STEPS_MAX: u32 = 200_000;
/// Bytes of arguments or texts that are looked at in one step.
pub const BYTES_PER_STEP: usize = 64;
/// Highest cost of a call.
pub const WEIGHT_MAX: u64 = 1_000_000_000;

/// What is wrong with an expression's text. Lines and columns count from 1; columns count characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column} of the expression: {problem}")]
pub struct Error {
    pub line: usize,
    pub column: usize,
    pub problem: String,
}

fn error(text: &str, at: usize, problem: impl Into<String>) -> Error {
    let (line, column) = place(text, at);
    Error { line, column, problem: problem.into() }
}

fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(at)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (1 + before.matches('\n').count(), 1 + before[line_start..].chars().count())
}

/// Why an evaluation came to no value, and the byte of the expression at which it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    at: usize,
    fault: Fault,
}

/// What went wrong. Nothing of what the caller sent is repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("there is no field {0:?}")]
    NoField(Box<str>),
    #[error("the list has no such element")]
    NoElement,
    #[error("found {found}, expected {expected}")]
    Type { found: &'static str, expected: &'static str },
    #[error("{0} and {1} have no order")]
    NoOrder(&'static str, &'static str),
    #[error("objects cannot be compared")]
    Objects,
    #[error("two readers could see different numbers")]
    Inexact,
    #[error("the number is too large")]
    TooLarge,
    #[error("the number has too many digits")]
    TooManyDigits,
    #[error("the text is no number")]
    NoNumber,
    #[error("the number is not whole")]
    NotWhole,
    #[error("division by zero")]
    DivisionByZero,
    #[error("the text contains NUL, which ends it for some readers")]
    Nul,
    #[error("a field is that one but for its case, and some readers would take it for it")]
    AlikeButForCase,
    #[error("the evaluation takes too long")]
    TooLong,
    #[error("the cost is below zero or above {WEIGHT_MAX}")]
    Weight,
}

/// What an expression is evaluated over.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub caller: &'a Caller,
    pub server: &'a ServerName,
    pub method: &'a str,
    pub target: Option<Target<'a>>,
    /// What a tool or a prompt is called with; none is as good as an empty object.
    pub arguments: Option<Raw<'a>>,
}

/// How many steps are left. Shared by what must not take longer together.
#[derive(Debug)]
pub struct Meter(Cell<u32>);

impl Default for Meter {
    fn default() -> Self {
        Self(Cell::new(STEPS_MAX))
    }
}

/// An expression that was checked.
#[derive(Debug)]
struct Program {
    text: Text<TEXT_BYTES_MAX>,
    root: check::Node,
    reads_arguments: bool,
}

impl Program {
    fn compile(text: &str, expected: check::Type) -> Result<Arc<Self>, Problem> {
        let text = Text::<TEXT_BYTES_MAX>::parse(text).map_err(|error| Problem::Text(error.to_string()))?;
        let (root, reads_arguments) = check::check(text.as_str(), &parse::parse(text.as_str())?, expected)?;
        Ok(Arc::new(Self { text, root, reads_arguments }))
    }

    fn told(&self, failure: &Failure) -> String {
        let (line, column) = place(self.text.as_str(), failure.at);
        format!("line {line}, column {column} of the expression: {}", failure.fault)
    }
}

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// As a text.
    #[error("{0}")]
    Text(String),
    #[error(transparent)]
    Expression(#[from] Error),
}

/// An expression that is true or false: equal to another of the same text. Clones are the same.
#[derive(Clone)]
pub struct Condition(Arc<Program>);

impl Condition {
    pub fn evaluate(&self, facts: &Facts<'_>, meter: &Meter) -> Result<bool, Failure> {
        evaluate::boolean(&self.0.root, facts, meter)
    }

    /// Whether the outcome may depend on what the call is made with.
    pub fn reads_arguments(&self) -> bool {
        self.0.reads_arguments
    }

    /// A failure of this expression, in words.
    pub fn told(&self, failure: &Failure) -> String {
        self.0.told(failure)
    }
}

/// An expression that says how much a call weighs.
#[derive(Clone)]
pub struct Weight(Arc<Program>);

impl Weight {
    /// A fraction counts as the next whole number, so that nothing is free that should not be.
    pub fn evaluate(&self, facts: &Facts<'_>, meter: &Meter) -> Result<u64, Failure> {
        evaluate::weight(&self.0.root, facts, meter)
    }

    /// A failure of this expression, in words.
    pub fn told(&self, failure: &Failure) -> String {
        self.0.told(failure)
    }
}

macro_rules! expression {
    ($name:ident, $ty:expr) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                self.0.text.as_str()
            }
        }

        impl FromStr for $name {
            type Err = Problem;
            fn from_str(text: &str) -> Result<Self, Problem> {
                Program::compile(text, $ty).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.text == other.0.text
            }
        }

        impl Eq for $name {}

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::name::from_text(deserializer)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                Text::<TEXT_BYTES_MAX>::schema_name()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                Text::<TEXT_BYTES_MAX>::json_schema(generator)
            }
        }
    };
}

expression!(Condition, check::Type::Bool);
expression!(Weight, check::Type::Number);

#[cfg(test)]
mod tests;
