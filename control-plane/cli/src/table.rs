//! Tables for people: columns as wide as their widest cell, two spaces between them.

use crate::terminal::{Tone, plain};

/// A piece of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// Without line breaks, and without anything that could steer the terminal.
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        let text = plain(text.as_ref()).replace(['\n', '\t'], " ");
        Self { text: if text.is_empty() { "-".to_owned() } else { text }, tone: Tone::Plain }
    }

    #[must_use]
    pub(crate) fn toned(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

/// Rows under headers.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    headers: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    widths: Vec<usize>,
}

impl Table {
    pub(crate) fn new(headers: Vec<&'static str>) -> Self {
        let widths = headers.iter().map(|header| header.chars().count()).collect();
        Self { headers, rows: Vec::new(), widths }
    }

    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        self.widen(&row);
        self.rows.push(row);
    }

    /// Room in the first column for a text that may come later.
    pub(crate) fn reserve(&mut self, text: &str) {
        self.widen(&[Cell::new(text)]);
    }

    fn widen(&mut self, row: &[Cell]) {
        for (width, cell) in self.widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The headers and every row.
    pub(crate) fn render(&self, colour: bool) -> String {
        let headers: Vec<_> =
            self.headers.iter().map(|header| Cell::new(header).toned(Tone::Strong)).collect();
        self.line(&headers, colour) + &self.render_bare(colour)
    }

    /// Every row, without the headers.
    pub(crate) fn render_bare(&self, colour: bool) -> String {
        self.rows.iter().map(|row| self.line(row, colour)).collect()
    }

    /// One more row, in the columns as they are; it is not kept.
    pub(crate) fn line(&self, row: &[Cell], colour: bool) -> String {
        let mut text = String::new();
        for (index, cell) in row.iter().enumerate() {
            text.push_str(&cell.tone.paint(&cell.text, colour));
            if index + 1 < row.len() {
                let width = self.widths.get(index).copied().unwrap_or_default();
                text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.width()) + 2));
            }
        }
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Table {
        let mut table = Table::new(vec!["NAME", "STATE", "NOTE"]);
        table.push(vec!["ä".into(), Cell::new("synced").toned(Tone::Good), "".into()]);
        table.push(vec!["longer-name".into(), "x".into(), "two\nlines\u{1b}[1m".into()]);
        table
    }

    #[test]
    fn columns_line_up_and_nothing_trails() {
        let expected = "\
NAME         STATE   NOTE
ä            synced  -
longer-name  x       two lines\\u{1b}[1m
";
        assert_eq!(example().render(false), expected);
    }

    #[test]
    fn colours_do_not_move_columns() {
        let text = example().render(true);
        assert!(text.contains("ä            \u{1b}[32msynced\u{1b}[0m  -\n"), "{text:?}");
    }

    #[test]
    fn a_row_that_comes_later_keeps_to_the_columns() {
        let line = example().line(&["b".into(), "much longer than before".into(), "c".into()], false);
        assert_eq!(line, "b            much longer than before  c\n");
    }
}
