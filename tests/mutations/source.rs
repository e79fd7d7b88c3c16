//! WGSL text and the places where it can be changed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// One change of one file.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// Function, or constant, that it is in.
    pub function: String,
    pub range: Range<usize>,
    pub replacement: String,
    /// Number of the line, its text, and its text after the change.
    pub number: usize,
    pub line: String,
    pub changed: String,
    /// The text of the next line.
    pub next: String,
}

/// A file's functions and constants.
pub struct Source {
    pub text: String,
    /// Name, and where the lines of the body are.
    items: Vec<(String, Range<usize>)>,
    /// Fields by the name of the uniform variable: name and type.
    uniforms: BTreeMap<String, Vec<(String, String)>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Number,
    Operator,
}

struct Token<'a> {
    kind: Kind,
    start: usize,
    text: &'a str,
}

/// Longest first.
const OPERATORS: [&str; 18] =
    [">>=", "<<=", "->", "++", "--", "+=", "-=", "*=", "/=", "%=", "<=", ">=", "==", "!=", "&&", "||", "<<", ">>"];

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The tokens of `text`, comments left out.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let (kind, length) = if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        } else if first.is_ascii_digit() {
            (Kind::Number, number_length(rest))
        } else if is_word(first) {
            (Kind::Word, rest.find(|c| !is_word(c)).unwrap_or(rest.len()))
        } else if first.is_whitespace() || !first.is_ascii() {
            at += first.len_utf8();
            continue;
        } else {
            (Kind::Operator, OPERATORS.iter().find(|operator| rest.starts_with(**operator)).map_or(1, |o| o.len()))
        };
        tokens.push(Token { kind, start: at, text: &rest[..length] });
        at += length;
    }
    tokens
}

fn number_length(text: &str) -> usize {
    let mut previous = ' ';
    let hex = text.starts_with("0x");
    let end = text.find(|c: char| {
        let part = is_word(c) || c == '.' || ((c == '-' || c == '+') && previous == if hex { 'p' } else { 'e' });
        previous = c;
        !part
    });
    end.unwrap_or(text.len())
}

impl Source {
    pub fn new(text: &str) -> Source {
        let mut source = Source { text: text.to_string(), items: Vec::new(), uniforms: BTreeMap::new() };
        let mut structures: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        let (mut at, mut function, mut structure) = (0, None, None);
        for line in text.split_inclusive('\n') {
            let range = at..at + line.len();
            at = range.end;
            let words: Vec<&str> = line.split(|c| !is_word(c)).filter(|word| !word.is_empty()).collect();
            match (line.trim_end(), &function) {
                ("}", _) => (function, structure) = (None, None),
                (_, Some(name)) => source.items.push((String::clone(name), range)),
                _ if line.starts_with("fn ") => function = Some(words[1].to_string()),
                _ if ["const ", "override ", "alias "].iter().any(|kind| line.starts_with(kind)) => {
                    source.items.push((words[1].to_string(), range));
                }
                _ if line.starts_with("var<workgroup>") => source.items.push((words[2].to_string(), range)),
                _ if line.starts_with("struct ") => structure = Some(words[1].to_string()),
                _ if line.contains("var<uniform>") => {
                    let [.., name, ty] = words[..] else { unreachable!("a uniform has a name and a type") };
                    source.uniforms.insert(name.to_string(), structures.get(ty).cloned().unwrap_or_default());
                }
                _ => {}
            }
            if let (Some(structure), true) = (&structure, line.starts_with(' ')) {
                let field = (words[0].to_string(), words[1].to_string());
                structures.entry(String::clone(structure)).or_default().push(field);
            }
        }
        source
    }

    /// Adds the uniforms that another file declares.
    pub fn with_uniforms_of(mut self, other: &str) -> Source {
        self.uniforms.extend(Source::new(other).uniforms);
        self
    }

    /// The body of the function `name`.
    fn body(&self, name: &str) -> String {
        self.items.iter().filter(|(item, _)| item == name).map(|(_, range)| &self.text[range.clone()]).collect()
    }

    /// All functions, constants and the like that `name` uses, itself included, directly or through others.
    pub fn reaches(&self, name: &str) -> BTreeSet<String> {
        let known: BTreeSet<&str> = self.items.iter().map(|(name, _)| name.as_str()).collect();
        let mut reached = BTreeSet::new();
        let mut open = vec![name.to_string()];
        while let Some(name) = open.pop() {
            let body = self.body(&name);
            if reached.insert(name) {
                let words = tokens(&body).into_iter().filter(|token| token.kind == Kind::Word);
                open.extend(words.map(|token| token.text).filter(|word| known.contains(word)).map(str::to_string));
            }
        }
        reached
    }

    /// Every change.
    pub fn mutants(&self) -> Vec<Mutant> {
        let mut mutants = Vec::new();
        for (function, range) in &self.items {
            let line = &self.text[range.clone()];
            if is_set_by_candidates(line) {
                continue;
            }
            let number = self.text[..range.start].lines().count() + 1;
            let next = self.text[range.end..].lines().next().unwrap_or("").trim();
            let tokens = tokens(line);
            let mut changes: Vec<(Range<usize>, String)> =
                (0..tokens.len()).flat_map(|index| self.changes(function, line, &tokens, index)).collect();
            changes.extend(dropped(line, &tokens));
            for (within, replacement) in changes {
                let changed = format!("{}{replacement}{}", &line[..within.start], &line[within.end..]);
                mutants.push(Mutant {
                    function: function.clone(),
                    range: range.start + within.start..range.start + within.end,
                    replacement,
                    number,
                    line: line.trim().to_string(),
                    changed: changed.trim().to_string(),
                    next: next.to_string(),
                });
            }
        }
        mutants
    }

    /// What can become of one token.
    fn changes(&self, function: &str, line: &str, tokens: &[Token], index: usize) -> Vec<(Range<usize>, String)> {
        let token = &tokens[index];
        let range = token.start..token.start + token.text.len();
        let before = |n: usize| index.checked_sub(n).map_or("", |index| tokens[index].text);
        let texts: Vec<String> = match token.kind {
            Kind::Number => number_changes(token.text),
            Kind::Operator => {
                let operand =
                    index > 0 && (tokens[index - 1].kind != Kind::Operator || [")", "]"].contains(&before(1)));
                let spaced = line[..range.start].ends_with(' ') && line[range.end..].starts_with(' ');
                operator_changes(token.text, operand && before(1) != "return", spaced)
            }
            Kind::Word if before(1) == "." => match self.uniforms.get(before(2)) {
                Some(fields) => other_field(fields, token.text).into_iter().collect(),
                None => swizzle_change(token.text).into_iter().collect(),
            },
            Kind::Word if token.text == "select" => {
                return negated_condition(line, tokens, index).into_iter().collect();
            }
            Kind::Word => self.word_changes(function, token.text),
        };
        texts.into_iter().map(|text| (range.clone(), text)).collect()
    }

    fn word_changes(&self, function: &str, word: &str) -> Vec<String> {
        let pairs =
            [("min", "max"), ("max", "min"), ("exp", "exp2"), ("sqrt", ""), ("floor", "ceil"), ("transpose", "")];
        if let Some((_, other)) = pairs.iter().find(|(name, _)| *name == word) {
            return vec![other.to_string()];
        }
        // a0 for a1: another of a family.
        let Some(digit) = word.chars().last().and_then(|c| c.to_digit(10)) else { return Vec::new() };
        let other = format!("{}{}", &word[..word.len() - 1], digit ^ 1);
        let known = tokens(&self.body(function)).iter().any(|token| token.text == other);
        if known { vec![other] } else { Vec::new() }
    }
}

/// An `override` that is a number: each candidate says another.
fn is_set_by_candidates(line: &str) -> bool {
    let value = |line: &str| line.split_once('=').map(|(_, value)| tokens(value).len());
    line.starts_with("override ") && value(line) == Some(2)
}

fn number_changes(text: &str) -> Vec<String> {
    let suffix = if text.ends_with('u') { "u" } else { "" };
    let digits = text.trim_end_matches('u');
    if let Some((mantissa, exponent)) = digits.split_once('p') {
        let exponent: i32 = exponent.parse().expect("a hexadecimal float");
        return vec![format!("{mantissa}p{}", exponent + 1)];
    }
    if let Some(hex) = digits.strip_prefix("0x") {
        let value = u32::from_str_radix(hex, 16).expect("a hexadecimal literal");
        return vec![format!("{:#x}{suffix}", value ^ 1)];
    }
    if let Ok(value) = digits.parse::<u32>() {
        let less = value.checked_sub(1).map(|value| format!("{value}{suffix}"));
        return less.into_iter().chain([format!("{}{suffix}", value + 1)]).collect();
    }
    let value: f64 = digits.parse().expect("a literal");
    // Seven digits, as f32 has.
    let changed: f64 = format!("{:.6e}", value * 1.001).parse().expect("what was just written");
    vec![if value == 0.0 { "1.0".into() } else { format!("{changed:?}") }]
}

/// `operand`: something stands before it that it could join. `spaced`: blanks at both sides, so `<` opens no type.
fn operator_changes(text: &str, operand: bool, spaced: bool) -> Vec<String> {
    let to: &[&str] = match text {
        "-" if !operand => &[""],
        "!" => &[""],
        "++" => &[" += 2u"],
        "+" => &["-"],
        "-" => &["+"],
        "*" => &["/", "+"],
        "/" | "%" => &[if text == "/" { "*" } else { "/" }],
        "+=" => &["-="],
        "-=" => &["+="],
        "*=" => &["/="],
        "/=" => &["*="],
        ">>=" => &["<<="],
        "<" | "<=" | ">" | ">=" if spaced => match text {
            "<" => &["<="],
            "<=" => &["<"],
            ">" => &[">="],
            _ => &[">"],
        },
        "==" => &["!="],
        "!=" => &["=="],
        "&&" => &["||"],
        "||" => &["&&"],
        ">>" => &["<<"],
        "<<" => &[">>"],
        "&" => &["|"],
        "|" => &["&"],
        "^" => &["|"],
        _ => &[],
    };
    to.iter().map(|text| text.to_string()).collect()
}

/// The next field of the same type: a stride confused with another.
fn other_field(fields: &[(String, String)], name: &str) -> Option<String> {
    let at = fields.iter().position(|(field, _)| field == name)?;
    let others = fields[at + 1..].iter().chain(&fields[..at]);
    others.clone().find(|(_, ty)| *ty == fields[at].1).map(|(field, _)| field.clone())
}

fn swizzle_change(text: &str) -> Option<String> {
    if !text.chars().all(|c| "xyzw".contains(c)) {
        return None;
    }
    let other = match text {
        "x" => "y".to_string(),
        "y" => "x".to_string(),
        "z" => "w".to_string(),
        "w" => "z".to_string(),
        _ => text.chars().rev().collect(),
    };
    (other != text).then_some(other)
}

/// `select(a, b, c)` as `select(a, b, !(c))`, if it ends on the same line.
fn negated_condition(line: &str, tokens: &[Token], select: usize) -> Option<(Range<usize>, String)> {
    let (mut depth, mut comma) = (0, None);
    for token in &tokens[select + 1..] {
        match token.text {
            "(" | "[" => depth += 1,
            "," if depth == 1 => comma = Some(token.start + 1),
            ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            let condition = comma?..token.start;
            return Some((condition.clone(), format!(" !({})", line[condition].trim())));
        }
    }
    None
}

/// A whole statement less: an assignment, a barrier, an exit.
fn dropped(line: &str, tokens: &[Token]) -> Option<(Range<usize>, String)> {
    let first = tokens.first()?;
    let assigns = || tokens.iter().any(|token| ["=", "+=", "-=", "*=", "/="].contains(&token.text));
    let declares = ["let", "var", "const", "for", "if"].contains(&first.text);
    let exits = ["return;", "break;", "workgroupBarrier();"].contains(&line.trim());
    let whole = tokens.last()?.text == ";" && first.kind == Kind::Word;
    (whole && ((assigns() && !declares) || exits))
        .then(|| (first.start..tokens[tokens.len() - 1].start + 1, String::new()))
}

/// Every loop ends after so many rounds of an invocation, whatever its bounds have become.
pub const FUEL_DECLARED: &str = "var<private> fuel: u32 = 40000u;\n";

/// Bounds all loops.
pub fn bounded(text: &str) -> String {
    let guard = " if (fuel == 0u) { break; } fuel -= 1u;";
    let lines = text.lines().map(|line| {
        let opens = line.trim_end().ends_with('{');
        let head = line.trim_start();
        let guard = if opens && (head.starts_with("for (") || head.starts_with("loop ")) { guard } else { "" };
        format!("{line}{guard}\n")
    });
    lines.collect()
}
