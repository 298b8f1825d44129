//! What an expression comes to for one call. Arguments are read where they stand, as far as they are asked for.

mod compare;

use std::borrow::Cow;

use crate::mcp::{Raw, Target};

use super::check::{Conversion, Known, Node, Op, Search};
use super::number::{Arithmetic, Number};
use super::parse::Relation;
use super::{BYTES_PER_STEP, Facts, Failure, Fault, Meter, WEIGHT_MAX};

/// A value. Of lists and objects of the call only where they stand.
#[derive(Clone, Debug)]
enum Value<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    List(Vec<Self>),
    Array(Raw<'a>),
    Object(Raw<'a>),
}

type Evaluated<'a> = Result<Value<'a>, Failure>;

pub(super) fn boolean(root: &Node, facts: &Facts<'_>, meter: &Meter) -> Result<bool, Failure> {
    Evaluation { facts, meter }.bool(root, None)
}

pub(super) fn weight(root: &Node, facts: &Facts<'_>, meter: &Meter) -> Result<u64, Failure> {
    let number = Evaluation { facts, meter }.number(root, None)?;
    let whole = match number {
        Number::Whole(it) => u64::try_from(it).ok(),
        Number::Decimal(_) | Number::Double(_) => {
            let double = number.to_double().map_err(|fault| failed(root, fault))?.ceil();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was seen to fit")]
            let whole = (0.0..=1e18).contains(&double).then_some(double as u64);
            whole
        }
    };
    whole.filter(|it| *it <= WEIGHT_MAX).ok_or_else(|| failed(root, Fault::Weight))
}

#[derive(Clone, Copy)]
struct Evaluation<'a> {
    facts: &'a Facts<'a>,
    meter: &'a Meter,
}

/// The elements that macros are at.
#[derive(Clone, Copy)]
struct Scope<'s, 'a> {
    element: &'s Value<'a>,
    outer: Option<&'s Self>,
}

fn failed(node: &Node, fault: Fault) -> Failure {
    Failure { at: node.at, fault }
}

fn mistyped(node: &Node, found: &Value<'_>, expected: &'static str) -> Failure {
    failed(node, Fault::Type { found: found.told(), expected })
}

impl<'a> Evaluation<'a> {
    fn step(self, node: &Node, bytes: usize) -> Result<(), Failure> {
        let steps = u32::try_from(1 + bytes / BYTES_PER_STEP).unwrap_or(u32::MAX);
        match self.meter.0.get().checked_sub(steps) {
            Some(left) => {
                self.meter.0.set(left);
                Ok(())
            }
            None => {
                // Nor may anything else be tried.
                self.meter.0.set(0);
                Err(failed(node, Fault::TooLong))
            }
        }
    }

    fn value(self, node: &'a Node, scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        self.step(node, 0)?;
        Ok(match &node.op {
            Op::Null => Value::Null,
            Op::Bool(it) => Value::Bool(*it),
            Op::Number(it) => Value::Number(*it),
            Op::Text(it) => Value::Text(Cow::Borrowed(it)),
            Op::List(items) => {
                let items = items.iter().map(|item| self.value(item, scope));
                Value::List(items.collect::<Result<_, _>>()?)
            }
            Op::Known(known) => Value::Text(self.known(*known)),
            Op::Arguments => Value::Object(self.facts.arguments.unwrap_or(Raw::scanned("{}"))),
            Op::Claims => Value::Object(self.facts.caller.claims().unwrap_or(Raw::scanned("{}"))),
            Op::Local(place) => self.local(node, *place, scope)?,
            Op::Field(of, field) => {
                let of = self.value(of, scope)?;
                let found = self.find(node, &of, field)?;
                found.ok_or_else(|| failed(node, Fault::NoField(field.clone())))?
            }
            Op::Index(of, index) => self.index(node, of, index, scope)?,
            Op::Has(of, field) => {
                let of = self.value(of, scope)?;
                // What is beside it by case alone matters, the value does not.
                Value::Bool(self.member(node, &of, field)?.is_some())
            }
            Op::Not(of) => Value::Bool(!self.bool(of, scope)?),
            Op::Negate(of) => {
                Value::Number(self.number(of, scope)?.negated().map_err(|fault| failed(node, fault))?)
            }
            Op::All(parts) => Value::Bool(self.absorbing(false, parts, scope)?),
            Op::Any(parts) => Value::Bool(self.absorbing(true, parts, scope)?),
            Op::Choice(parts) => {
                let [condition, then, otherwise] = &**parts;
                let chosen = if self.bool(condition, scope)? { then } else { otherwise };
                self.value(chosen, scope)?
            }
            Op::Relation(relation, a, b) => Value::Bool(self.relation(node, *relation, a, b, scope)?),
            Op::Arithmetic(operator, a, b) => self.arithmetic(node, *operator, a, b, scope)?,
            Op::Search(search, text, part) => {
                let (text, part) = (self.text(text, scope)?, self.text(part, scope)?);
                self.step(node, text.len() + part.len())?;
                Value::Bool(match search {
                    Search::StartsWith => text.starts_with(&*part),
                    Search::EndsWith => text.ends_with(&*part),
                    Search::Contains => text.contains(&*part),
                })
            }
            Op::Glob(text, glob) => {
                let text = self.text(text, scope)?;
                self.step(node, text.len())?;
                Value::Bool(glob.matches(&text))
            }
            Op::Size(of) => self.size(node, of, scope)?,
            Op::LowerAscii(of) => {
                let text = self.text(of, scope)?;
                self.step(node, text.len())?;
                Value::Text(Cow::Owned(text.to_ascii_lowercase()))
            }
            Op::Convert(to, of) => self.convert(node, *to, of, scope)?,
            Op::Each { all, list, body } => Value::Bool(self.each(!all, list, body, scope)?),
        })
    }

    fn known(self, known: Known) -> Cow<'a, str> {
        let Facts { caller, server, method, target, arguments: _ } = self.facts;
        let workload = caller.workload();
        Cow::Borrowed(match (known, *target) {
            (Known::Id, _) => caller.id().as_str(),
            (Known::TrustDomain, _) => workload.trust_domain.as_str(),
            (Known::CallerNamespace, _) => workload.namespace.as_str(),
            (Known::ServiceAccount, _) => workload.account.as_str(),
            (Known::Tenant, _) => caller.tenant().unwrap_or_default(),
            (Known::Method, _) => method,
            (Known::Server, _) => server.name.as_str(),
            (Known::ServerNamespace, _) => server.namespace.as_str(),
            (Known::Tool, Some(Target::Tool(name))) | (Known::Prompt, Some(Target::Prompt(name))) => name,
            (Known::Resource, Some(Target::Resource(uri))) => uri,
            (Known::Tool | Known::Prompt | Known::Resource, _) => "",
        })
    }

    fn local(self, node: &Node, place: usize, scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        let mut scope = scope;
        for _ in 0..place {
            scope = scope.and_then(|scope| scope.outer);
        }
        let element = scope.map_or(&Value::Null, |scope| scope.element);
        self.copied(node, element)
    }

    /// Texts that were read with escapes, or made, are copied whole.
    fn copied(self, node: &Node, value: &Value<'a>) -> Evaluated<'a> {
        self.step(node, value.owned_bytes())?;
        Ok(value.clone())
    }

    /// A value of the call, by its first letter.
    fn read(self, node: &Node, raw: Raw<'a>) -> Evaluated<'a> {
        let json = raw.get();
        Ok(match json.as_bytes().first() {
            Some(b'{') => Value::Object(raw),
            Some(b'[') => Value::Array(raw),
            Some(b'"') => {
                self.step(node, json.len())?;
                let text = raw.text().unwrap_or_default();
                if text.contains('\0') {
                    return Err(failed(node, Fault::Nul));
                }
                Value::Text(text)
            }
            Some(b't') => Value::Bool(true),
            Some(b'f') => Value::Bool(false),
            Some(b'n') => Value::Null,
            _ => {
                self.step(node, json.len())?;
                Value::Number(Number::parse(json).map_err(|fault| failed(node, fault))?)
            }
        })
    }

    fn member(self, node: &Node, of: &Value<'a>, field: &str) -> Result<Option<Raw<'a>>, Failure> {
        let Value::Object(raw) = of else { return Err(mistyped(node, of, "an object")) };
        self.step(node, raw.get().len())?;
        raw.find(field).map_err(|_| failed(node, Fault::AlikeButForCase))
    }

    fn find(self, node: &Node, of: &Value<'a>, field: &str) -> Result<Option<Value<'a>>, Failure> {
        self.member(node, of, field)?.map(|raw| self.read(node, raw)).transpose()
    }

    fn index(
        self,
        node: &'a Node,
        of: &'a Node,
        index: &'a Node,
        scope: Option<&Scope<'_, 'a>>,
    ) -> Evaluated<'a> {
        let of = self.value(of, scope)?;
        let index_value = self.value(index, scope)?;
        let place = || match &index_value {
            Value::Number(Number::Whole(place)) => {
                usize::try_from(*place).map_err(|_| failed(index, Fault::NoElement))
            }
            Value::Number(_) => Err(failed(index, Fault::NotWhole)),
            other => Err(mistyped(index, other, "a number")),
        };
        let none = || failed(node, Fault::NoElement);
        match (&of, &index_value) {
            (Value::Object(_), Value::Text(field)) => {
                let found = self.find(node, &of, field)?;
                found.ok_or_else(|| failed(node, Fault::NoField(clipped(field))))
            }
            (Value::Object(_), other) => Err(mistyped(index, other, "a text")),
            (Value::Array(raw), _) => {
                self.step(node, raw.get().len())?;
                let (_, element) = raw.parts().nth(place()?).ok_or_else(none)?;
                self.read(node, element)
            }
            (Value::List(items), _) => self.copied(node, items.get(place()?).ok_or_else(none)?),
            (other, _) => Err(mistyped(node, other, "a list or an object")),
        }
    }

    fn bool(self, node: &'a Node, scope: Option<&Scope<'_, 'a>>) -> Result<bool, Failure> {
        match self.value(node, scope)? {
            Value::Bool(it) => Ok(it),
            other => Err(mistyped(node, &other, "true or false")),
        }
    }

    fn number(self, node: &'a Node, scope: Option<&Scope<'_, 'a>>) -> Result<Number, Failure> {
        match self.value(node, scope)? {
            Value::Number(it) => Ok(it),
            other => Err(mistyped(node, &other, "a number")),
        }
    }

    fn text(self, node: &'a Node, scope: Option<&Scope<'_, 'a>>) -> Result<Cow<'a, str>, Failure> {
        match self.value(node, scope)? {
            Value::Text(it) => Ok(it),
            other => Err(mistyped(node, &other, "a text")),
        }
    }

    /// `settling` if any part is that; else an error if any part is one; else the other.
    fn absorbing(
        self,
        settling: bool,
        parts: &'a [Node],
        scope: Option<&Scope<'_, 'a>>,
    ) -> Result<bool, Failure> {
        let mut failure = None;
        for part in parts {
            match self.bool(part, scope) {
                Ok(it) if it == settling => return Ok(settling),
                Ok(_) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(!settling), Err)
    }

    /// The same over the elements of a list.
    fn each(
        self,
        settling: bool,
        list: &'a Node,
        body: &'a Node,
        scope: Option<&Scope<'_, 'a>>,
    ) -> Result<bool, Failure> {
        let mut failure = None;
        let mut settles = |element: Evaluated<'a>| {
            let outcome =
                element.and_then(|element| self.bool(body, Some(&Scope { element: &element, outer: scope })));
            match outcome {
                Ok(it) => Ok(it == settling),
                // Each further element would only find the same.
                Err(error) if error.fault == Fault::TooLong => Err(error),
                Err(error) => {
                    failure.get_or_insert(error);
                    Ok(false)
                }
            }
        };
        match self.value(list, scope)? {
            Value::Array(raw) => {
                self.step(list, raw.get().len())?;
                for (_, element) in raw.parts() {
                    if settles(self.read(list, element))? {
                        return Ok(settling);
                    }
                }
            }
            Value::List(items) => {
                for element in items {
                    if settles(Ok(element))? {
                        return Ok(settling);
                    }
                }
            }
            other => return Err(mistyped(list, &other, "a list")),
        }
        failure.map_or(Ok(!settling), Err)
    }

    fn arithmetic(
        self,
        node: &'a Node,
        operator: Arithmetic,
        a: &'a Node,
        b: &'a Node,
        scope: Option<&Scope<'_, 'a>>,
    ) -> Evaluated<'a> {
        match (operator, self.value(a, scope)?, self.value(b, scope)?) {
            (Arithmetic::Add, Value::Text(a), Value::Text(b)) => {
                self.step(node, a.len() + b.len())?;
                Ok(Value::Text(a + b))
            }
            (_, Value::Number(a), Value::Number(b)) => {
                a.compute(operator, b).map(Value::Number).map_err(|fault| failed(node, fault))
            }
            (_, Value::Number(_), found) => Err(mistyped(b, &found, "a number")),
            (Arithmetic::Add, Value::Text(_), found) => Err(mistyped(b, &found, "a text")),
            (_, found, _) => Err(mistyped(a, &found, "a number")),
        }
    }

    fn size(self, node: &'a Node, of: &'a Node, scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        let count = match self.value(of, scope)? {
            Value::Text(text) => {
                self.step(node, text.len())?;
                text.chars().count()
            }
            Value::List(items) => items.len(),
            Value::Array(raw) | Value::Object(raw) => {
                self.step(node, raw.get().len())?;
                raw.parts().count()
            }
            other => return Err(mistyped(of, &other, "a text, a list or an object")),
        };
        Ok(Value::Number(Number::Whole(i128::try_from(count).unwrap_or(i128::MAX))))
    }

    fn convert(
        self,
        node: &'a Node,
        to: Conversion,
        of: &'a Node,
        scope: Option<&Scope<'_, 'a>>,
    ) -> Evaluated<'a> {
        let value = self.value(of, scope)?;
        let number = match (to, &value) {
            (Conversion::Text, Value::Bool(it)) => return Ok(Value::Text(it.to_string().into())),
            (Conversion::Text, Value::Text(_)) => return Ok(value),
            (Conversion::Text, Value::Number(Number::Whole(it))) => {
                return Ok(Value::Text(it.to_string().into()));
            }
            (Conversion::Text, Value::Number(it)) => match it.to_double() {
                Ok(double) => return Ok(Value::Text(double.to_string().into())),
                Err(fault) => Err(fault),
            },
            (Conversion::Whole, Value::Number(it)) => it.truncated(),
            (Conversion::Double, Value::Number(it)) => it.as_double(),
            (Conversion::Whole | Conversion::Double, Value::Text(text)) => {
                self.step(node, text.len())?;
                if matches!(to, Conversion::Whole) { Number::whole(text) } else { Number::fraction(text) }
            }
            (_, other) => return Err(mistyped(of, other, "a number or a text")),
        };
        number.map(Value::Number).map_err(|fault| failed(node, fault))
    }
}

impl Value<'_> {
    /// What a copy takes. Lists that are values are no deeper than the expression that made them.
    fn owned_bytes(&self) -> usize {
        match self {
            Self::Text(Cow::Owned(text)) => text.len(),
            Self::List(items) => items.iter().map(|item| size_of::<Self>() + item.owned_bytes()).sum(),
            Self::Null
            | Self::Bool(_)
            | Self::Number(_)
            | Self::Text(_)
            | Self::Array(_)
            | Self::Object(_) => 0,
        }
    }

    const fn told(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) | Self::Array(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

/// The name of a field that an expression made.
fn clipped(field: &str) -> Box<str> {
    field.chars().take(80).collect::<String>().into()
}
