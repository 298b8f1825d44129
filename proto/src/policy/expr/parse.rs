//! Tokens as a tree, by precedence: `?:`, `||`, `&&`, relations, sums, products, what stands before one operand, what
//! stands after it. What the tree means is not looked at here.

use super::lex::{self, Token};
use super::number::{Arithmetic, Number};
use super::{DEPTH_MAX, Error, NODES_MAX, error};

/// A part of an expression, with the byte at which what is particular to it stands.
#[derive(Debug)]
pub(super) struct Expr {
    pub(super) at: usize,
    pub(super) kind: Kind,
    depth: usize,
}

#[derive(Debug)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Number(Number),
    Text(Box<str>),
    List(Vec<Expr>),
    Name(Box<str>),
    Field(Box<Expr>, Box<str>),
    Index(Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    /// `&&` of two or more.
    All(Vec<Expr>),
    /// `||` of two or more.
    Any(Vec<Expr>),
    Relation(Relation, Box<Expr>, Box<Expr>),
    Arithmetic(Arithmetic, Box<Expr>, Box<Expr>),
    Choice(Box<[Expr; 3]>),
    /// A function of its arguments, or of what it is called on.
    Call {
        on: Option<Box<Expr>>,
        name: Box<str>,
        arguments: Vec<Expr>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
}

pub(super) fn parse(text: &str) -> Result<Expr, Error> {
    let mut parser = Parser { text, tokens: lex::tokens(text)?, next: 0, nodes: 0, nesting: 0 };
    let whole = parser.choice()?;
    match parser.peek() {
        Token::End => Ok(whole),
        other => Err(parser.wrong(format!("expected an operator or the end, found {}", told(other)))),
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<lex::At>,
    next: usize,
    nodes: usize,
    /// Of calls of this parser within each other.
    nesting: usize,
}

type Parsed = Result<Expr, Error>;

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.tokens.get(self.next).map_or(&Token::End, |(_, token)| token)
    }

    fn at(&self) -> usize {
        self.tokens.get(self.next).map_or(self.text.len(), |(at, _)| *at)
    }

    fn wrong(&self, problem: impl Into<String>) -> Error {
        error(self.text, self.at(), problem)
    }

    /// Takes one of these symbols, if it is the next, with its place.
    fn take(&mut self, any: &[&'static str]) -> Option<(usize, &'static str)> {
        match self.peek() {
            Token::Symbol(symbol) if any.contains(symbol) => {
                let taken = (self.at(), *symbol);
                self.next += 1;
                Some(taken)
            }
            _ => None,
        }
    }

    fn expect(&mut self, symbol: &'static str) -> Result<(), Error> {
        match self.take(&[symbol]) {
            Some(_) => Ok(()),
            None => Err(self.wrong(format!("expected `{symbol}`, found {}", told(self.peek())))),
        }
    }

    fn node(&mut self, at: usize, kind: Kind) -> Parsed {
        let depth = 1 + kind.parts().map(|part| part.depth).max().unwrap_or(0);
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(error(self.text, at, format!("the expression has more than {NODES_MAX} parts")));
        }
        match depth > DEPTH_MAX {
            true => Err(too_deep(self.text, at)),
            false => Ok(Expr { at, kind, depth }),
        }
    }

    /// Everything that may stand in parentheses. All nesting of the parser goes through here or [`Self::prefixed`].
    fn choice(&mut self) -> Parsed {
        self.nested(|parser| {
            let condition = parser.any()?;
            let Some((at, _)) = parser.take(&["?"]) else { return Ok(condition) };
            let then = parser.choice()?;
            parser.expect(":")?;
            let otherwise = parser.choice()?;
            parser.node(at, Kind::Choice(Box::new([condition, then, otherwise])))
        })
    }

    fn nested(&mut self, parse: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        self.nesting += 1;
        if self.nesting > DEPTH_MAX {
            return Err(too_deep(self.text, self.at()));
        }
        let parsed = parse(self);
        self.nesting -= 1;
        parsed
    }

    fn any(&mut self) -> Parsed {
        self.chain("||", Self::all, Kind::Any)
    }

    fn all(&mut self) -> Parsed {
        self.chain("&&", Self::relation, Kind::All)
    }

    /// However long, a chain is one deep.
    fn chain(
        &mut self,
        symbol: &'static str,
        part: impl Fn(&mut Self) -> Parsed,
        kind: impl Fn(Vec<Expr>) -> Kind,
    ) -> Parsed {
        let first = part(self)?;
        let Some((at, _)) = self.take(&[symbol]) else { return Ok(first) };
        let mut parts = vec![first, part(self)?];
        while self.take(&[symbol]).is_some() {
            parts.push(part(self)?);
        }
        self.node(at, kind(parts))
    }

    fn relation(&mut self) -> Parsed {
        let mut left = self.sum()?;
        loop {
            let (at, relation) = match self.take(&["==", "!=", "<=", ">=", "<", ">"]) {
                Some((at, symbol)) => (at, relation_of(symbol)),
                None if matches!(self.peek(), Token::Name(name) if **name == *"in") => {
                    self.next += 1;
                    (self.at(), Relation::In)
                }
                None => return Ok(left),
            };
            let right = self.sum()?;
            left = self.node(at, Kind::Relation(relation, Box::new(left), Box::new(right)))?;
        }
    }

    fn sum(&mut self) -> Parsed {
        self.arithmetic(&["+", "-"], Self::product)
    }

    fn product(&mut self) -> Parsed {
        self.arithmetic(&["*", "/", "%"], Self::prefixed)
    }

    fn arithmetic(&mut self, symbols: &[&'static str], part: impl Fn(&mut Self) -> Parsed) -> Parsed {
        let mut left = part(self)?;
        while let Some((at, symbol)) = self.take(symbols) {
            let operator = match symbol {
                "+" => Arithmetic::Add,
                "-" => Arithmetic::Subtract,
                "*" => Arithmetic::Multiply,
                "/" => Arithmetic::Divide,
                _ => Arithmetic::Remainder,
            };
            let right = part(self)?;
            left = self.node(at, Kind::Arithmetic(operator, Box::new(left), Box::new(right)))?;
        }
        Ok(left)
    }

    fn prefixed(&mut self) -> Parsed {
        match self.take(&["!", "-"]) {
            Some((at, symbol)) => self.nested(|parser| {
                let operand = Box::new(parser.prefixed()?);
                let kind = if symbol == "!" { Kind::Not(operand) } else { Kind::Negate(operand) };
                parser.node(at, kind)
            }),
            None => self.suffixed(),
        }
    }

    fn suffixed(&mut self) -> Parsed {
        let mut left = self.primary()?;
        loop {
            left = match self.take(&[".", "[", "{"]) {
                Some((_, ".")) => {
                    let at = self.at();
                    let name = self.name("a field or a function")?;
                    match self.take(&["("]) {
                        Some(_) => {
                            let arguments = self.list(")")?;
                            self.node(at, Kind::Call { on: Some(Box::new(left)), name, arguments })?
                        }
                        None => self.node(at, Kind::Field(Box::new(left), name))?,
                    }
                }
                Some((at, "[")) => {
                    let index = self.choice()?;
                    self.expect("]")?;
                    self.node(at, Kind::Index(Box::new(left), Box::new(index)))?
                }
                Some((at, _)) => return Err(error(self.text, at, "there are no messages to be made")),
                None => return Ok(left),
            };
        }
    }

    fn name(&mut self, what: &str) -> Result<Box<str>, Error> {
        match self.peek() {
            Token::Name(name) => {
                let name = name.clone();
                self.next += 1;
                Ok(name)
            }
            other => Err(self.wrong(format!("expected {what}, found {}", told(other)))),
        }
    }

    fn primary(&mut self) -> Parsed {
        let (at, token) = (self.at(), self.peek().clone());
        self.next += 1;
        match token {
            Token::Number(number) => self.node(at, Kind::Number(number)),
            Token::Text(text) => self.node(at, Kind::Text(text)),
            Token::Symbol("(") => {
                let inner = self.choice()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Symbol("[") => {
                let items = self.list("]")?;
                self.node(at, Kind::List(items))
            }
            Token::Symbol("{") => {
                Err(error(self.text, at, "there are no maps to be made; compare the fields"))
            }
            Token::Name(name) => match &*name {
                "true" => self.node(at, Kind::Bool(true)),
                "false" => self.node(at, Kind::Bool(false)),
                "null" => self.node(at, Kind::Null),
                "in" => Err(error(self.text, at, "expected a value before `in`")),
                _ if self.take(&["("]).is_some() => {
                    let arguments = self.list(")")?;
                    self.node(at, Kind::Call { on: None, name, arguments })
                }
                _ => self.node(at, Kind::Name(name)),
            },
            other @ (Token::Symbol(_) | Token::End) => {
                Err(error(self.text, at, format!("expected a value, found {}", told(&other))))
            }
        }
    }

    /// Values between commas, up to what closes them.
    fn list(&mut self, close: &'static str) -> Result<Vec<Expr>, Error> {
        let mut items = Vec::new();
        if self.take(&[close]).is_some() {
            return Ok(items);
        }
        loop {
            items.push(self.choice()?);
            if self.take(&[","]).is_none() {
                self.expect(close)?;
                return Ok(items);
            }
        }
    }
}

impl Kind {
    fn parts(&self) -> impl Iterator<Item = &Expr> {
        let (one, two, many): (Option<&Expr>, Option<&Expr>, &[Expr]) = match self {
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_) | Self::Name(_) => (None, None, &[]),
            Self::Field(of, _) | Self::Not(of) | Self::Negate(of) => (Some(of), None, &[]),
            Self::Index(a, b) | Self::Relation(_, a, b) | Self::Arithmetic(_, a, b) => {
                (Some(a), Some(b), &[])
            }
            Self::List(parts) | Self::All(parts) | Self::Any(parts) => (None, None, parts),
            Self::Choice(parts) => (None, None, &**parts),
            Self::Call { on, name: _, arguments } => (on.as_deref(), None, arguments),
        };
        one.into_iter().chain(two).chain(many)
    }
}

fn relation_of(symbol: &str) -> Relation {
    match symbol {
        "==" => Relation::Equal,
        "!=" => Relation::NotEqual,
        "<" => Relation::Less,
        "<=" => Relation::LessOrEqual,
        ">" => Relation::Greater,
        _ => Relation::GreaterOrEqual,
    }
}

fn too_deep(text: &str, at: usize) -> Error {
    error(text, at, format!("the expression is nested more than {DEPTH_MAX} deep"))
}

fn told(token: &Token) -> String {
    match token {
        Token::Name(name) => format!("`{name}`"),
        Token::Number(_) => "a number".to_owned(),
        Token::Text(_) => "a text".to_owned(),
        Token::Symbol(symbol) => format!("`{symbol}`"),
        Token::End => "the end".to_owned(),
    }
}
