//! RE2's syntax in terms of the regex crate's.
//!
//! The two differ where it matters for security: in RE2 `\d`, `\w`, `\s` and
//! `\b` are ASCII, `[`, `&&`, `--` and `~~` inside a class are plain
//! characters, `\<` is a character, `{` may stand for itself, and `\Q..\E`
//! quotes. Written the other way round, a pattern would silently match more or
//! less than its author tested elsewhere.

use std::iter::Peekable;
use std::str::Chars;

/// The largest count that RE2 allows in `{n,m}`.
const MAX_REPEAT: u32 = 1000;
/// Longest text between the braces of a count: `1000,1000`, and some to be
/// able to say that more is too much.
const LONGEST_COUNT: usize = 24;

/// A pattern in the regex crate's syntax.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Translated {
    /// The pattern, not anchored.
    pub pattern: String,
    /// What it is when it needs no automaton.
    pub shape: Shape,
}

/// What a pattern is, in a full match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Exactly this text.
    Literal(String),
    /// This text, then anything without a line feed.
    Prefix(String),
    /// Anything else.
    General,
}

/// Translates a pattern, or says what RE2 does not accept in it.
pub(super) fn translate(pattern: &str) -> Result<Translated, String> {
    let mut translated = Translator::new(pattern).run()?;
    if let Some(head) = pattern.strip_suffix(".*")
        && let Ok(Translated {
            shape: Shape::Literal(prefix),
            ..
        }) = Translator::new(head).run()
    {
        translated.shape = Shape::Prefix(prefix);
    }
    Ok(translated)
}

struct Translator<'p> {
    input: Peekable<Chars<'p>>,
    output: String,
    /// The text so far, as long as it is nothing but text.
    literal: Option<String>,
    /// The last thing was a repetition.
    repeated: bool,
}

/// What stands after a backslash.
enum Escape {
    Char(char),
    /// The inside of an ASCII class, and whether it is negated.
    Class(&'static str, bool),
    /// To be copied: Unicode classes and assertions.
    Verbatim(String, Position),
    /// `\Q`.
    Quote,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    Anywhere,
    OutsideClass,
}

impl<'p> Translator<'p> {
    fn new(pattern: &'p str) -> Self {
        Self {
            input: pattern.chars().peekable(),
            output: String::with_capacity(pattern.len() + 8),
            literal: Some(String::new()),
            repeated: false,
        }
    }

    fn run(mut self) -> Result<Translated, String> {
        while let Some(char) = self.input.next() {
            match char {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '(' => self.group()?,
                '*' | '+' | '?' => self.repetition(&char.to_string())?,
                '{' => self.brace()?,
                '.' | ')' | '|' | '^' | '$' => self.operator(char),
                _ => self.char(char),
            }
        }
        Ok(Translated {
            pattern: self.output,
            shape: self.literal.map_or(Shape::General, Shape::Literal),
        })
    }

    fn char(&mut self, char: char) {
        push_escaped(&mut self.output, char);
        if let Some(literal) = &mut self.literal {
            literal.push(char);
        }
        self.repeated = false;
    }

    fn operator(&mut self, char: char) {
        self.output.push(char);
        self.literal = None;
        self.repeated = false;
    }

    fn verbatim(&mut self, text: &str) {
        self.output.push_str(text);
        self.literal = None;
        self.repeated = false;
    }

    fn repetition(&mut self, text: &str) -> Result<(), String> {
        if self.repeated {
            return Err(format!(
                "bad repetition operator `{text}` after another one"
            ));
        }
        self.verbatim(text);
        if self.input.next_if_eq(&'?').is_some() {
            self.output.push('?');
        }
        self.repeated = true;
        Ok(())
    }

    /// `{n}`, `{n,}`, `{n,m}`, or a brace that stands for itself.
    fn brace(&mut self) -> Result<(), String> {
        let mut ahead = self.input.clone();
        // Not to the end of the pattern for each brace of many.
        let mut closed = false;
        let unclosed = |char: &char| {
            closed = *char == '}';
            !closed
        };
        let near = ahead.by_ref().take(LONGEST_COUNT);
        let inside: String = near.take_while(unclosed).collect();
        let number = |char: char| char.is_ascii_digit() || char == ',';
        if !closed && inside.len() == LONGEST_COUNT && inside.chars().all(number) {
            return Err(format!("repetition `{{{inside}` is above {MAX_REPEAT}"));
        }
        let (low, high) = inside.split_once(',').unwrap_or((&inside, &inside));
        let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
        if !closed || !digits(low) || !(high.is_empty() || digits(high)) {
            self.char('{');
            return Ok(());
        }
        let count = |text: &str| text.parse::<u32>().unwrap_or(u32::MAX);
        let (least, most) = (count(low), if high.is_empty() { 0 } else { count(high) });
        if least > MAX_REPEAT || most > MAX_REPEAT {
            return Err(format!("repetition `{{{inside}}}` is above {MAX_REPEAT}"));
        }
        self.input = ahead;
        self.repetition(&format!("{{{inside}}}"))
    }

    fn group(&mut self) -> Result<(), String> {
        self.verbatim("(");
        if self.input.next_if_eq(&'?').is_none() {
            return Ok(());
        }
        self.output.push('?');
        let mut ahead = self.input.clone();
        let named = match ahead.next() {
            Some('<') => true,
            Some('P') => ahead.next() == Some('<'),
            _ => false,
        };
        for char in self.input.by_ref() {
            self.output.push(char);
            match char {
                '>' if named => return Ok(()),
                _ if named => {}
                ':' | ')' => return Ok(()),
                'i' | 'm' | 's' | 'U' | '-' => {}
                _ => return Err(format!("`(?{char}` is no group or flag of RE2")),
            }
        }
        Err("missing closing )".into())
    }

    fn escape(&mut self) -> Result<(), String> {
        match escape(&mut self.input)? {
            Escape::Char(char) => self.char(char),
            Escape::Class(inside, negated) => {
                let not = if negated { "^" } else { "" };
                self.verbatim(&format!("[{not}{inside}]"));
            }
            Escape::Verbatim(text, _) => self.verbatim(&text),
            Escape::Quote => self.quote(),
        }
        Ok(())
    }

    /// After `\Q`: text up to `\E` or the end.
    fn quote(&mut self) {
        while let Some(char) = self.input.next() {
            if char == '\\' && self.input.next_if_eq(&'E').is_some() {
                return;
            }
            self.char(char);
        }
    }

    /// After `[`.
    fn class(&mut self) -> Result<(), String> {
        self.verbatim("[");
        if self.input.next_if_eq(&'^').is_some() {
            self.output.push('^');
        }
        let mut first = true;
        loop {
            match self.input.next() {
                None => return Err("missing closing ]".into()),
                Some(']') if !first => {
                    self.output.push(']');
                    return Ok(());
                }
                Some('[') if self.input.peek() == Some(&':') => self.posix_class()?,
                Some(char) => self.class_item(char)?,
            }
            first = false;
        }
    }

    /// After `[` inside a class, before `:`; copied.
    fn posix_class(&mut self) -> Result<(), String> {
        let mut ahead = self.input.clone();
        ahead.next();
        let name: String = ahead.by_ref().take_while(|char| *char != ':').collect();
        let known = name
            .trim_start_matches('^')
            .chars()
            .all(|char| char.is_ascii_lowercase());
        if !known || ahead.next() != Some(']') {
            return self.class_item('[');
        }
        self.output.push_str(&format!("[:{name}:]"));
        self.input = ahead;
        Ok(())
    }

    fn class_item(&mut self, char: char) -> Result<(), String> {
        let Some(low) = self.class_char(char)? else {
            return Ok(());
        };
        push_escaped(&mut self.output, low);
        let mut ahead = self.input.clone();
        let is_range = ahead.next() == Some('-') && ahead.next().is_some_and(|next| next != ']');
        if !is_range {
            return Ok(());
        }
        self.input.next();
        let end = self.input.next().ok_or("missing closing ]")?;
        let length = self.output.len();
        match self.class_char(end)? {
            Some(high) if low <= high => {
                self.output.push('-');
                push_escaped(&mut self.output, high);
                Ok(())
            }
            _ => {
                self.output.truncate(length);
                Err(format!("bad character range `{low}-{end}`"))
            }
        }
    }

    /// One character of a class, or `None` after writing a class inside it.
    fn class_char(&mut self, char: char) -> Result<Option<char>, String> {
        if char != '\\' {
            return Ok(Some(char));
        }
        match escape(&mut self.input)? {
            Escape::Char(char) => return Ok(Some(char)),
            Escape::Class(inside, false) => self.output.push_str(inside),
            Escape::Class(inside, true) => self.output.push_str(&format!("[^{inside}]")),
            Escape::Verbatim(text, Position::Anywhere) => self.output.push_str(&text),
            Escape::Verbatim(text, Position::OutsideClass) => {
                return Err(format!("`{text}` inside a class"));
            }
            Escape::Quote => return Err("`\\Q` inside a class".into()),
        }
        Ok(None)
    }
}

/// Reads what stands after a backslash.
fn escape(input: &mut Peekable<Chars<'_>>) -> Result<Escape, String> {
    let char = input.next().ok_or("trailing backslash")?;
    let assertion = |text: &str| Escape::Verbatim(text.to_owned(), Position::OutsideClass);
    Ok(match char {
        'd' | 'D' => Escape::Class("0-9", char == 'D'),
        'w' | 'W' => Escape::Class("0-9A-Za-z_", char == 'W'),
        's' | 'S' => Escape::Class(r"\t\n\x0C\r ", char == 'S'),
        'b' => assertion(r"(?-u:\b)"),
        // Not `(?-u:\B)`: that one may match inside a character.
        'B' => return Err("`\\B` is not supported; write the characters out".into()),
        'A' => assertion(r"\A"),
        'z' => assertion(r"\z"),
        'a' => Escape::Char('\x07'),
        'f' => Escape::Char('\x0C'),
        't' => Escape::Char('\t'),
        'n' => Escape::Char('\n'),
        'r' => Escape::Char('\r'),
        'v' => Escape::Char('\x0B'),
        'Q' => Escape::Quote,
        'x' => Escape::Char(hex(input)?),
        'p' | 'P' => Escape::Verbatim(unicode_class(char, input)?, Position::Anywhere),
        '0'..='7' => Escape::Char(octal(char, input)?),
        _ if char.is_ascii_punctuation() || char == ' ' => Escape::Char(char),
        _ => return Err(format!("invalid escape `\\{char}`")),
    })
}

fn hex(input: &mut Peekable<Chars<'_>>) -> Result<char, String> {
    let braced = input.next_if_eq(&'{').is_some();
    let digits: String = if braced {
        input.by_ref().take_while(|char| *char != '}').collect()
    } else {
        input.by_ref().take(2).collect()
    };
    let length = if braced { 1..=6 } else { 2..=2 };
    let valid =
        length.contains(&digits.len()) && digits.chars().all(|char| char.is_ascii_hexdigit());
    valid
        .then(|| {
            u32::from_str_radix(&digits, 16)
                .ok()
                .and_then(char::from_u32)
        })
        .flatten()
        .ok_or_else(|| format!("invalid escape `\\x{digits}`"))
}

/// `\0`, `\012`, `\123`; a single digit above 0 would be a back-reference.
fn octal(first: char, input: &mut Peekable<Chars<'_>>) -> Result<char, String> {
    let is_octal = |char: &char| ('0'..='7').contains(char);
    if first != '0' && !input.peek().is_some_and(is_octal) {
        return Err(format!("back-reference `\\{first}` is not supported"));
    }
    let mut value = first.to_digit(8).unwrap_or(0);
    for _ in 0..2 {
        let Some(next) = input.next_if(is_octal) else {
            break;
        };
        value = value * 8 + next.to_digit(8).unwrap_or(0);
    }
    char::from_u32(value).ok_or_else(|| "invalid octal escape".into())
}

fn unicode_class(kind: char, input: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    let first = input.next().ok_or("missing name of a Unicode class")?;
    if first != '{' {
        return Ok(format!("\\{kind}{first}"));
    }
    let name: String = input.by_ref().take_while(|char| *char != '}').collect();
    Ok(format!("\\{kind}{{{name}}}"))
}

/// A character that stands for itself, in or outside a class.
fn push_escaped(output: &mut String, char: char) {
    // The regex crate accepts a backslash before any ASCII punctuation but
    // gives `\<` and `\>` another meaning.
    if char.is_ascii_punctuation() && !matches!(char, '<' | '>' | '_' | '/') {
        output.push('\\');
    }
    output.push(char);
}

#[cfg(test)]
mod tests;
