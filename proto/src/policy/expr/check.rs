//! What a tree means: names, fields and functions are found, types are checked as far as they are known, and what an
//! evaluation may cost is added up. What comes out can go wrong only by what a call brings.

use crate::name::Glob;
use crate::resource::nearest;

use super::number::{Arithmetic, Number};
use super::parse::{Expr, Kind, Relation};
use super::{COST_STEPS_MAX, ELEMENTS_ASSUMED, Error, error};

/// A part that can be evaluated, with the byte at which it stands.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: usize,
    pub(super) op: Op,
}

#[derive(Debug)]
pub(super) enum Op {
    Null,
    Bool(bool),
    Number(Number),
    Text(Box<str>),
    List(Vec<Node>),
    Known(Known),
    Arguments,
    Claims,
    /// The element that a macro is at: 0 for the innermost macro.
    Local(usize),
    Field(Box<Node>, Box<str>),
    Index(Box<Node>, Box<Node>),
    Has(Box<Node>, Box<str>),
    Not(Box<Node>),
    Negate(Box<Node>),
    All(Vec<Node>),
    Any(Vec<Node>),
    Choice(Box<[Node; 3]>),
    Relation(Relation, Box<Node>, Box<Node>),
    Arithmetic(Arithmetic, Box<Node>, Box<Node>),
    Search(Search, Box<Node>, Box<Node>),
    Glob(Box<Node>, Glob),
    Size(Box<Node>),
    LowerAscii(Box<Node>),
    Convert(Conversion, Box<Node>),
    /// `all` or `exists`.
    Each {
        all: bool,
        list: Box<Node>,
        body: Box<Node>,
    },
}

/// What is known of every call; always a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Id,
    TrustDomain,
    CallerNamespace,
    ServiceAccount,
    Tenant,
    Method,
    Tool,
    Prompt,
    Resource,
    Server,
    ServerNamespace,
}

/// How one text is looked for in another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Search {
    StartsWith,
    EndsWith,
    Contains,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Conversion {
    Whole,
    Double,
    Text,
}

/// What is known of a value before there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Any,
    Null,
    Bool,
    Number,
    Text,
    List,
    Object,
}

const CALLER: [&str; 5] = ["id", "trustDomain", "namespace", "serviceAccount", "tenant"];
const REQUEST: [&str; 6] = ["method", "tool", "prompt", "resource", "server", "namespace"];
const NAMES: [&str; 4] = ["caller", "request", "args", "claims"];
const FUNCTIONS: [&str; 5] = ["has", "size", "int", "double", "string"];
const METHODS: [&str; 8] =
    ["startsWith", "endsWith", "contains", "glob", "lowerAscii", "size", "all", "exists"];

/// The program, and whether it looks at arguments.
pub(super) fn check(text: &str, whole: &Expr, expected: Type) -> Result<(Node, bool), Error> {
    let mut checker = Checker { text, locals: Vec::new(), reads_arguments: false };
    let (node, ty, cost) = checker.node(whole)?;
    checker.fits(whole, ty, expected)?;
    match cost > COST_STEPS_MAX {
        true => {
            let problem = format!(
                "the expression may take {cost} steps, at {ELEMENTS_ASSUMED} elements a list; at most \
                 {COST_STEPS_MAX} are allowed"
            );
            Err(error(text, whole.at, problem))
        }
        false => Ok((node, checker.reads_arguments)),
    }
}

struct Checker<'a> {
    text: &'a str,
    /// Names that macros gave to elements, the innermost last.
    locals: Vec<&'a str>,
    reads_arguments: bool,
}

/// A node, its type, and what it costs.
type Checked = Result<(Node, Type, u32), Error>;

impl<'a> Checker<'a> {
    fn wrong(&self, at: &Expr, problem: impl Into<String>) -> Error {
        error(self.text, at.at, problem)
    }

    fn fits(&self, at: &Expr, found: Type, expected: Type) -> Result<(), Error> {
        match found == expected || found == Type::Any || expected == Type::Any {
            true => Ok(()),
            false => Err(self.wrong(at, format!("this is {}, expected {}", found.told(), expected.told()))),
        }
    }

    fn typed(&mut self, expr: &'a Expr, expected: Type) -> Result<(Box<Node>, u32), Error> {
        let (node, ty, cost) = self.node(expr)?;
        self.fits(expr, ty, expected)?;
        Ok((Box::new(node), cost))
    }

    fn node(&mut self, expr: &'a Expr) -> Checked {
        let (op, ty, cost) = match &expr.kind {
            Kind::Null => (Op::Null, Type::Null, 0),
            Kind::Bool(it) => (Op::Bool(*it), Type::Bool, 0),
            Kind::Number(it) => (Op::Number(*it), Type::Number, 0),
            Kind::Text(it) => (Op::Text(it.clone()), Type::Text, 0),
            Kind::List(items) => {
                let (items, cost) = self.nodes(items, Type::Any)?;
                (Op::List(items), Type::List, cost)
            }
            Kind::Name(name) => self.name(expr, name)?,
            Kind::Field(of, field) => self.field(expr, of, field)?,
            Kind::Index(of, index) => self.index(of, index)?,
            Kind::Not(of) => {
                let (of, cost) = self.typed(of, Type::Bool)?;
                (Op::Not(of), Type::Bool, cost)
            }
            Kind::Negate(of) => {
                let (of, cost) = self.typed(of, Type::Number)?;
                (Op::Negate(of), Type::Number, cost)
            }
            Kind::All(parts) => {
                let (parts, cost) = self.nodes(parts, Type::Bool)?;
                (Op::All(parts), Type::Bool, cost)
            }
            Kind::Any(parts) => {
                let (parts, cost) = self.nodes(parts, Type::Bool)?;
                (Op::Any(parts), Type::Bool, cost)
            }
            Kind::Choice(parts) => self.choice(expr, parts)?,
            Kind::Relation(relation, a, b) => self.relation(expr, *relation, a, b)?,
            Kind::Arithmetic(operator, a, b) => self.arithmetic(*operator, a, b)?,
            Kind::Call { on: None, name, arguments } => self.function(expr, name, arguments)?,
            Kind::Call { on: Some(on), name, arguments } => self.method(expr, on, name, arguments)?,
        };
        Ok((Node { at: expr.at, op }, ty, cost.saturating_add(1)))
    }

    fn nodes(&mut self, exprs: &'a [Expr], expected: Type) -> Result<(Vec<Node>, u32), Error> {
        let (mut nodes, mut total) = (Vec::with_capacity(exprs.len()), 0_u32);
        for expr in exprs {
            let (node, cost) = self.typed(expr, expected)?;
            nodes.push(*node);
            total = total.saturating_add(cost);
        }
        Ok((nodes, total))
    }

    fn name(&mut self, expr: &Expr, name: &str) -> Found {
        if let Some(place) = self.locals.iter().rev().position(|local| *local == name) {
            return Ok((Op::Local(place), Type::Any, 0));
        }
        match name {
            "args" => {
                self.reads_arguments = true;
                Ok((Op::Arguments, Type::Object, 0))
            }
            "claims" => Ok((Op::Claims, Type::Object, 0)),
            "caller" => {
                Err(self.wrong(expr, format!("`caller` is no value; its fields are {}", listed(&CALLER))))
            }
            "request" => {
                Err(self.wrong(expr, format!("`request` is no value; its fields are {}", listed(&REQUEST))))
            }
            other if FUNCTIONS.contains(&other) => {
                Err(self.wrong(expr, format!("`{other}` is a function: `{other}(…)`")))
            }
            other => Err(self.wrong(expr, unknown("name", other, &NAMES))),
        }
    }

    /// A field of what is known of every call.
    fn known(&self, expr: &Expr, of: &Expr, field: &str) -> Result<Option<Known>, Error> {
        let Kind::Name(name) = &of.kind else { return Ok(None) };
        if self.locals.contains(&&**name) {
            return Ok(None);
        }
        let known = match (&**name, field) {
            ("caller", "id") => Known::Id,
            ("caller", "trustDomain") => Known::TrustDomain,
            ("caller", "namespace") => Known::CallerNamespace,
            ("caller", "serviceAccount") => Known::ServiceAccount,
            ("caller", "tenant") => Known::Tenant,
            ("request", "method") => Known::Method,
            ("request", "tool") => Known::Tool,
            ("request", "prompt") => Known::Prompt,
            ("request", "resource") => Known::Resource,
            ("request", "server") => Known::Server,
            ("request", "namespace") => Known::ServerNamespace,
            ("caller", other) => return Err(self.wrong(expr, unknown("field", other, &CALLER))),
            ("request", other) => return Err(self.wrong(expr, unknown("field", other, &REQUEST))),
            _ => return Ok(None),
        };
        Ok(Some(known))
    }

    fn field(&mut self, expr: &Expr, of: &'a Expr, field: &str) -> Found {
        if let Some(known) = self.known(expr, of, field)? {
            return Ok((Op::Known(known), Type::Text, 0));
        }
        let (of, cost) = self.typed(of, Type::Object)?;
        Ok((Op::Field(of, field.into()), Type::Any, cost.saturating_add(1)))
    }

    /// An element of a list by a number, or a field by a text.
    fn index(&mut self, of: &'a Expr, index: &'a Expr) -> Found {
        if let Kind::Text(field) = &index.kind {
            return self.field(index, of, field);
        }
        let (list, ty, cost) = self.node(of)?;
        let expected = match ty {
            Type::List => Type::Number,
            Type::Object => Type::Text,
            _ => Type::Any,
        };
        if !matches!(ty, Type::List | Type::Object | Type::Any) {
            return Err(self.wrong(of, format!("this is {}, which has no elements", ty.told())));
        }
        let (place, ty, more) = self.node(index)?;
        self.fits(index, ty, expected)?;
        if !matches!(ty, Type::Number | Type::Text | Type::Any) {
            return Err(self.wrong(index, format!("this is {}, expected a number or a text", ty.told())));
        }
        Ok((Op::Index(Box::new(list), Box::new(place)), Type::Any, cost.saturating_add(more)))
    }

    fn choice(&mut self, expr: &Expr, parts: &'a [Expr; 3]) -> Found {
        let [condition, then, otherwise] = parts;
        let (condition, cost) = self.typed(condition, Type::Bool)?;
        let (then, ty, more) = self.node(then)?;
        let (otherwise, other, most) = self.node(otherwise)?;
        if ty != other && ty != Type::Any && other != Type::Any {
            let problem = format!("this is either {} or {}; both must be alike", ty.told(), other.told());
            return Err(self.wrong(expr, problem));
        }
        let ty = if ty == Type::Any { other } else { ty };
        let cost = cost.saturating_add(more.max(most));
        Ok((Op::Choice(Box::new([*condition, then, otherwise])), ty, cost))
    }

    fn relation(&mut self, expr: &Expr, relation: Relation, a: &'a Expr, b: &'a Expr) -> Found {
        let (left, one, cost) = self.node(a)?;
        let (right, other, more) = self.node(b)?;
        match relation {
            Relation::Equal | Relation::NotEqual => {
                let null = one == Type::Null || other == Type::Null;
                if one != other && one != Type::Any && other != Type::Any && !null {
                    let problem = format!("{} is never equal to {}", one.told(), other.told());
                    return Err(self.wrong(expr, problem));
                }
                if one == Type::Object && other == Type::Object {
                    return Err(self.wrong(expr, "objects cannot be compared; compare their fields"));
                }
            }
            Relation::In => match other {
                Type::List | Type::Any => {}
                Type::Object => self.fits(a, one, Type::Text)?,
                _ => self.fits(b, other, Type::List)?,
            },
            Relation::Less | Relation::LessOrEqual | Relation::Greater | Relation::GreaterOrEqual => {
                for (side, ty) in [(a, one), (b, other)] {
                    if !matches!(ty, Type::Number | Type::Text | Type::Any) {
                        return Err(self.wrong(side, format!("{} has no order", ty.told())));
                    }
                }
                if one != other && one != Type::Any && other != Type::Any {
                    let problem = format!("{} and {} have no order", one.told(), other.told());
                    return Err(self.wrong(expr, problem));
                }
            }
        }
        let op = Op::Relation(relation, Box::new(left), Box::new(right));
        Ok((op, Type::Bool, cost.saturating_add(more)))
    }

    fn arithmetic(&mut self, operator: Arithmetic, a: &'a Expr, b: &'a Expr) -> Found {
        let (left, one, cost) = self.node(a)?;
        let (right, other, more) = self.node(b)?;
        let texts = matches!(operator, Arithmetic::Add) && (one == Type::Text || other == Type::Text);
        let expected = if texts { Type::Text } else { Type::Number };
        self.fits(a, one, expected)?;
        self.fits(b, other, expected)?;
        let unknown = matches!(operator, Arithmetic::Add) && one == Type::Any && other == Type::Any;
        let ty = if unknown { Type::Any } else { expected };
        let op = Op::Arithmetic(operator, Box::new(left), Box::new(right));
        Ok((op, ty, cost.saturating_add(more)))
    }

    fn function(&mut self, expr: &Expr, name: &str, arguments: &'a [Expr]) -> Found {
        if !FUNCTIONS.contains(&name) {
            let problem = match METHODS.contains(&name) {
                true => format!("`{name}` is called on a value: `args.x.{name}(…)`"),
                false => unknown("function", name, &FUNCTIONS),
            };
            return Err(self.wrong(expr, problem));
        }
        let [argument] = arguments else {
            return Err(self.wrong(expr, format!("`{name}` takes one value, found {}", arguments.len())));
        };
        match name {
            "has" => self.has(expr, argument),
            "size" => self.size(argument),
            "int" => self.conversion(Conversion::Whole, argument),
            "double" => self.conversion(Conversion::Double, argument),
            _ => self.conversion(Conversion::Text, argument),
        }
    }

    fn has(&mut self, expr: &Expr, argument: &'a Expr) -> Found {
        let (of, field) = match &argument.kind {
            Kind::Field(of, field) => (of, field),
            Kind::Index(of, index) => match &index.kind {
                Kind::Text(field) => (of, field),
                _ => return Err(self.wrong(expr, "`has` asks for a field: `has(args.x)`")),
            },
            _ => return Err(self.wrong(expr, "`has` asks for a field: `has(args.x)`")),
        };
        if let Some(known) = self.known(argument, of, field)? {
            // Known texts are empty where there is none.
            let text = Node { at: argument.at, op: Op::Known(known) };
            let empty = Node { at: argument.at, op: Op::Text("".into()) };
            return Ok((Op::Relation(Relation::NotEqual, Box::new(text), Box::new(empty)), Type::Bool, 2));
        }
        let (of, cost) = self.typed(of, Type::Object)?;
        Ok((Op::Has(of, field.clone()), Type::Bool, cost.saturating_add(1)))
    }

    fn size(&mut self, of: &'a Expr) -> Found {
        let (node, ty, cost) = self.node(of)?;
        match ty {
            Type::Text | Type::List | Type::Object | Type::Any => {
                Ok((Op::Size(Box::new(node)), Type::Number, cost.saturating_add(1)))
            }
            Type::Null | Type::Bool | Type::Number => {
                Err(self.wrong(of, format!("{} has no size", ty.told())))
            }
        }
    }

    fn conversion(&mut self, to: Conversion, of: &'a Expr) -> Found {
        let (node, ty, cost) = self.node(of)?;
        let bool = ty == Type::Bool && matches!(to, Conversion::Text);
        if !bool && !matches!(ty, Type::Number | Type::Text | Type::Any) {
            return Err(self.wrong(of, format!("{} cannot be converted", ty.told())));
        }
        let result = if matches!(to, Conversion::Text) { Type::Text } else { Type::Number };
        Ok((Op::Convert(to, Box::new(node)), result, cost.saturating_add(1)))
    }

    fn method(&mut self, expr: &Expr, on: &'a Expr, name: &str, arguments: &'a [Expr]) -> Found {
        let takes = |count: usize| match arguments.len() == count {
            true => Ok(()),
            false => Err(error(
                self.text,
                expr.at,
                format!("`{name}` takes {count} in parentheses, found {}", arguments.len()),
            )),
        };
        let search = match name {
            "startsWith" => Search::StartsWith,
            "endsWith" => Search::EndsWith,
            "contains" => Search::Contains,
            "glob" => {
                takes(1)?;
                return self.glob(on, &arguments[0]);
            }
            "lowerAscii" => {
                takes(0)?;
                let (on, cost) = self.typed(on, Type::Text)?;
                return Ok((Op::LowerAscii(on), Type::Text, cost.saturating_add(1)));
            }
            "size" => {
                takes(0)?;
                return self.size(on);
            }
            "all" | "exists" => {
                takes(2)?;
                return self.each(name == "all", on, &arguments[0], &arguments[1]);
            }
            "matches" => {
                return Err(self.wrong(
                    expr,
                    "there are no regular expressions; use `glob`, as in `args.x.glob(\"*.txt\")`",
                ));
            }
            _ => {
                let problem = match FUNCTIONS.contains(&name) {
                    true => format!("`{name}` is not called on a value: `{name}(…)`"),
                    false => unknown("function", name, &METHODS),
                };
                return Err(self.wrong(expr, problem));
            }
        };
        takes(1)?;
        let (text, cost) = self.typed(on, Type::Text)?;
        let (part, more) = self.typed(&arguments[0], Type::Text)?;
        Ok((Op::Search(search, text, part), Type::Bool, cost.saturating_add(more).saturating_add(1)))
    }

    fn glob(&mut self, on: &'a Expr, pattern: &'a Expr) -> Found {
        let (on, cost) = self.typed(on, Type::Text)?;
        let Kind::Text(text) = &pattern.kind else {
            return Err(self.wrong(pattern, "the pattern of `glob` is written out, as in `glob(\"*.txt\")`"));
        };
        let glob = Glob::parse(text).map_err(|problem| self.wrong(pattern, problem.to_string()))?;
        Ok((Op::Glob(on, glob), Type::Bool, cost.saturating_add(2)))
    }

    fn each(&mut self, all: bool, list: &'a Expr, name: &'a Expr, body: &'a Expr) -> Found {
        let (list, cost) = self.typed(list, Type::List)?;
        let Kind::Name(local) = &name.kind else {
            return Err(self.wrong(name, "expected a name for the element, as in `args.paths.all(p, …)`"));
        };
        if NAMES.contains(&&**local) || FUNCTIONS.contains(&&**local) {
            return Err(self.wrong(name, format!("`{local}` has a meaning already")));
        }
        self.locals.push(local);
        let body = self.typed(body, Type::Bool);
        self.locals.pop();
        let (body, each) = body?;
        let cost = cost.saturating_add(each.saturating_add(1).saturating_mul(ELEMENTS_ASSUMED));
        Ok((Op::Each { all, list, body }, Type::Bool, cost))
    }
}

/// What a part is, before it is one more step.
type Found = Result<(Op, Type, u32), Error>;

impl Type {
    const fn told(self) -> &'static str {
        match self {
            Self::Any => "any value",
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::List => "a list",
            Self::Object => "an object",
        }
    }
}

fn unknown(what: &str, found: &str, known: &[&'static str]) -> String {
    let found: String = found.chars().take(80).collect();
    let hint = nearest(&found, known).map(|nearest| format!("; did you mean `{nearest}`?"));
    format!("unknown {what} `{found}`{} (expected one of: {})", hint.unwrap_or_default(), known.join(", "))
}

fn listed(names: &[&str]) -> String {
    names.join(", ")
}
