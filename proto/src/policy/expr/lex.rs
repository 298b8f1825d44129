//! An expression's text as tokens.

use super::number::Number;
use super::{Error, error};

#[derive(Clone, Debug)]
pub(super) enum Token {
    Name(Box<str>),
    Number(Number),
    Text(Box<str>),
    /// One of [`SYMBOLS`].
    Symbol(&'static str),
    End,
}

/// Longer ones before those they begin with.
const SYMBOLS: [&str; 24] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", ".", ",", "(", ")",
    "[", "]", "{", "}",
];

/// A token with the byte at which it begins.
pub(super) type At = (usize, Token);

/// All tokens, the end last.
pub(super) fn tokens(text: &str) -> Result<Vec<At>, Error> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next()?;
        let ended = matches!(token.1, Token::End);
        tokens.push(token);
        if ended {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn next(&mut self) -> Result<At, Error> {
        self.skip();
        let start = self.at;
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok((start, Token::End)) };
        let token = match first {
            '"' | '\'' => Token::Text(self.string(false)?),
            'r' | 'R' if rest[1..].starts_with(['"', '\'']) => {
                self.at += 1;
                Token::Text(self.string(true)?)
            }
            'b' | 'B' if rest[1..].starts_with(['"', '\'']) => {
                return Err(self.wrong(start, "bytes are not part of the language; use a text"));
            }
            '0'..='9' => self.number()?,
            'a'..='z' | 'A'..='Z' | '_' => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                self.at += end;
                Token::Name(rest[..end].into())
            }
            _ => match SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
                Some(symbol) => {
                    self.at += symbol.len();
                    Token::Symbol(symbol)
                }
                None => return Err(self.wrong(start, unexpected(first))),
            },
        };
        Ok((start, token))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn wrong(&self, at: usize, problem: impl Into<String>) -> Error {
        error(self.text, at, problem)
    }

    /// Blanks, and comments up to the end of their line.
    fn skip(&mut self) {
        loop {
            let rest = self.rest();
            let bare = rest.trim_start_matches([' ', '\t', '\r', '\n']);
            self.at += rest.len() - bare.len();
            if !bare.starts_with("//") {
                return;
            }
            self.at += bare.find('\n').unwrap_or(bare.len());
        }
    }

    fn number(&mut self) -> Result<Token, Error> {
        let (start, rest) = (self.at, self.rest());
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let mut end = digits(rest);
        if rest[end..].starts_with('.') && digits(&rest[end + 1..]) > 0 {
            end += 1 + digits(&rest[end + 1..]);
        }
        if let Some(power) = rest[end..].strip_prefix(['e', 'E']) {
            let sign = usize::from(power.starts_with(['+', '-']));
            if digits(&power[sign..]) > 0 {
                end += 1 + sign + digits(&power[sign..]);
            }
        }
        self.at += end;
        if let Some(next) = self.rest().chars().next().filter(|c| c.is_ascii_alphanumeric() || *c == '_') {
            let problem = match next {
                'u' | 'U' => "there are no unsigned numbers; leave the `u` out".to_owned(),
                'x' | 'X' => "numbers are written in decimal".to_owned(),
                other => format!("{other:?} is not part of a number"),
            };
            return Err(self.wrong(self.at, problem));
        }
        Number::parse(&rest[..end]).map(Token::Number).map_err(|fault| self.wrong(start, fault.to_string()))
    }

    /// A text in one quote or three of a kind, where `raw` has no escapes.
    fn string(&mut self, raw: bool) -> Result<Box<str>, Error> {
        let (start, rest) = (self.at, self.rest());
        let one = &rest[..1];
        let quote = if rest[1..].starts_with(&one.repeat(2)) { one.repeat(3) } else { one.to_owned() };
        self.at += quote.len();
        let mut text = String::new();
        loop {
            if self.rest().starts_with(&quote) {
                self.at += quote.len();
                return Ok(text.into());
            }
            match self.rest().chars().next() {
                None => return Err(self.wrong(start, "the text does not end")),
                Some('\n' | '\r') if quote.len() == 1 => {
                    return Err(self.wrong(start, "the text does not end on its line; three quotes may"));
                }
                Some('\\') if !raw => text.push(self.escape()?),
                Some(other) => {
                    text.push(other);
                    self.at += other.len_utf8();
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, Error> {
        let start = self.at;
        self.at += 1;
        let Some(kind) = self.rest().chars().next() else {
            return Err(self.wrong(start, "the text does not end"));
        };
        self.at += kind.len_utf8();
        Ok(match kind {
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '\\' | '?' | '"' | '\'' | '`' => kind,
            'x' | 'X' => self.code(start, 2, 16)?,
            'u' => self.code(start, 4, 16)?,
            'U' => self.code(start, 8, 16)?,
            '0'..='3' => {
                self.at -= 1;
                self.code(start, 3, 8)?
            }
            other => return Err(self.wrong(start, format!("`\\{other}` is no escape"))),
        })
    }

    fn code(&mut self, start: usize, len: usize, radix: u32) -> Result<char, Error> {
        let digits = self.rest().get(..len).filter(|digits| digits.chars().all(|c| c.is_digit(radix)));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, radix).ok());
        let letter = code.and_then(char::from_u32);
        self.at += len;
        letter.ok_or_else(|| self.wrong(start, "the escape stands for no letter"))
    }
}

fn unexpected(found: char) -> String {
    match found {
        '=' => "`=` compares nothing; use `==`".to_owned(),
        '&' => "use `&&`".to_owned(),
        '|' => "use `||`".to_owned(),
        other => format!("{other:?} is not part of the language"),
    }
}
