//! Comparing values: the same in the eyes of everyone who reads the call, or an error.

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::mcp::Raw;

use super::{Evaluated, Evaluation, Failure, Fault, Node, Op, Relation, Scope, Value, failed, mistyped};

impl<'a> Evaluation<'a> {
    pub(super) fn relation(
        self,
        node: &'a Node,
        relation: Relation,
        a: &'a Node,
        b: &'a Node,
        scope: Option<&Scope<'_, 'a>>,
    ) -> Result<bool, Failure> {
        let left = self.value(a, scope)?;
        let ordered = |wanted: fn(Ordering) -> bool| {
            let right = self.value(b, scope)?;
            self.order(node, &left, &right).map(wanted)
        };
        match relation {
            Relation::Equal => self.equal(node, &left, &self.value(b, scope)?),
            Relation::NotEqual => self.equal(node, &left, &self.value(b, scope)?).map(|it| !it),
            Relation::Less => ordered(Ordering::is_lt),
            Relation::LessOrEqual => ordered(Ordering::is_le),
            Relation::Greater => ordered(Ordering::is_gt),
            Relation::GreaterOrEqual => ordered(Ordering::is_ge),
            Relation::In => self.is_in(node, &left, b, scope),
        }
    }

    fn is_in(
        self,
        node: &'a Node,
        wanted: &Value<'a>,
        list: &'a Node,
        scope: Option<&Scope<'_, 'a>>,
    ) -> Result<bool, Failure> {
        if let Op::List(items) = &list.op {
            for item in items {
                if self.equal(node, wanted, &self.value(item, scope)?)? {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        match (self.value(list, scope)?, wanted) {
            (object @ Value::Object(_), Value::Text(field)) => {
                Ok(self.member(node, &object, field)?.is_some())
            }
            (Value::Object(_), other) => Err(mistyped(node, other, "a text")),
            (Value::Array(raw), _) => {
                self.step(node, raw.get().len())?;
                for (_, element) in raw.parts() {
                    if self.equal(node, wanted, &self.read(list, element)?)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            (Value::List(items), _) => {
                for item in &items {
                    if self.equal(node, wanted, item)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            (other, _) => Err(mistyped(list, &other, "a list or an object")),
        }
    }

    /// Values of different types are not equal. Nesting is bounded where the call was read.
    fn equal(self, node: &Node, a: &Value<'a>, b: &Value<'a>) -> Result<bool, Failure> {
        match (a, b) {
            (Value::Null, Value::Null) => Ok(true),
            (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
            (Value::Number(a), Value::Number(b)) => {
                a.compare(*b).map(Ordering::is_eq).map_err(|fault| failed(node, fault))
            }
            (Value::Text(a), Value::Text(b)) => {
                self.step(node, a.len().min(b.len()))?;
                Ok(a == b)
            }
            (Value::Object(_), Value::Object(_)) => Err(failed(node, Fault::Objects)),
            (Value::Array(_) | Value::List(_), Value::Array(_) | Value::List(_)) => {
                let (a, b) = (self.elements(node, a)?, self.elements(node, b)?);
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (a, b) in a.iter().zip(&*b) {
                    if !self.equal(node, a, b)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn elements<'v>(self, node: &Node, list: &'v Value<'a>) -> Result<Cow<'v, [Value<'a>]>, Failure> {
        match list {
            Value::List(items) => Ok(Cow::Borrowed(items)),
            Value::Array(raw) => {
                self.step(node, raw.get().len())?;
                let elements = raw.parts().map(|(_, element)| self.counted(node, element));
                elements.collect::<Result<Vec<_>, _>>().map(Cow::Owned)
            }
            other => Err(mistyped(node, other, "a list")),
        }
    }

    /// An element that is kept, which takes memory.
    fn counted(self, node: &Node, raw: Raw<'a>) -> Evaluated<'a> {
        self.step(node, 0)?;
        self.read(node, raw)
    }

    fn order(self, node: &Node, a: &Value<'a>, b: &Value<'a>) -> Result<Ordering, Failure> {
        match (a, b) {
            (Value::Number(a), Value::Number(b)) => a.compare(*b).map_err(|fault| failed(node, fault)),
            (Value::Text(a), Value::Text(b)) => {
                self.step(node, a.len().min(b.len()))?;
                Ok(a.cmp(b))
            }
            _ => Err(failed(node, Fault::NoOrder(a.told(), b.told()))),
        }
    }
}
