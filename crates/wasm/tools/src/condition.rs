//! `test` and `[`.

use std::fs::{self, File};
use std::io::IsTerminal as _;

use crate::{place, Outcome};

/// `test EXPRESSION`
pub(crate) fn test(args: &[String]) -> Outcome {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    if words.is_empty() {
        return Ok(false);
    }
    let mut rest = Words(&words);
    let value = rest.any()?;
    match rest.0.first() {
        None => Ok(value),
        Some(word) => Err(format!("{word}: is one word too many")),
    }
}

/// `[ EXPRESSION ]`
pub(crate) fn bracket(args: &[String]) -> Outcome {
    match args.split_last() {
        Some((last, args)) if last == "]" => test(args),
        _ => Err("the last word must be ]".to_owned()),
    }
}

/// What is still to be read. `-o` binds less than `-a`, that less than `!`.
struct Words<'a>(&'a [&'a str]);

impl<'a> Words<'a> {
    fn any(&mut self) -> Outcome {
        let mut value = self.every()?;
        while self.eat("-o") {
            value |= self.every()?;
        }
        Ok(value)
    }

    fn every(&mut self) -> Outcome {
        let mut value = self.not()?;
        while self.eat("-a") {
            value &= self.not()?;
        }
        Ok(value)
    }

    fn not(&mut self) -> Outcome {
        // A lone `!` is a word like any other, as is one that is compared.
        if self.0.len() > 1 && !self.compares() && self.eat("!") {
            return Ok(!self.not()?);
        }
        self.one()
    }

    fn one(&mut self) -> Outcome {
        if self.compares() {
            let (left, operator, right) = (self.next()?, self.next()?, self.next()?);
            return compare(left, operator, right);
        }
        if self.0.len() > 2 && self.eat("(") {
            let value = self.any()?;
            return match self.eat(")") {
                true => Ok(value),
                false => Err("( has no )".to_owned()),
            };
        }
        let first = self.next()?;
        match first.strip_prefix('-') {
            Some(letter) if letter.len() == 1 && !self.0.is_empty() => about_one(letter, self.next()?),
            _ => Ok(!first.is_empty()),
        }
    }

    fn compares(&self) -> bool {
        let operator = self.0.get(1).copied().unwrap_or_default();
        self.0.len() > 2 && ["=", "==", "!=", "-eq", "-ne", "-lt", "-le", "-gt", "-ge"].contains(&operator)
    }

    fn eat(&mut self, word: &str) -> bool {
        let found = self.0.first() == Some(&word);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    fn next(&mut self) -> Result<&'a str, String> {
        let (first, rest) = self.0.split_first().ok_or("a word is missing")?;
        self.0 = rest;
        Ok(first)
    }
}

fn compare(left: &str, operator: &str, right: &str) -> Outcome {
    match operator {
        "=" | "==" => return Ok(left == right),
        "!=" => return Ok(left != right),
        _ => {}
    }
    let number = |word: &str| -> Result<i64, String> {
        word.trim().parse().map_err(|_| format!("{word}: is no whole number"))
    };
    let (left, right) = (number(left)?, number(right)?);
    Ok(match operator {
        "-eq" => left == right,
        "-ne" => left != right,
        "-lt" => left < right,
        "-le" => left <= right,
        "-gt" => left > right,
        _ => left >= right,
    })
}

fn about_one(letter: &str, word: &str) -> Outcome {
    let path = place(word);
    let found = fs::metadata(&path);
    Ok(match letter {
        "t" => match word {
            "0" => std::io::stdin().is_terminal(),
            "1" => std::io::stdout().is_terminal(),
            "2" => std::io::stderr().is_terminal(),
            _ => false,
        },
        "n" => !word.is_empty(),
        "z" => word.is_empty(),
        "e" => found.is_ok(),
        "f" => found.is_ok_and(|found| found.is_file()),
        "d" => found.is_ok_and(|found| found.is_dir()),
        "s" => found.is_ok_and(|found| found.len() > 0),
        "h" | "L" => fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()),
        "r" => File::open(&path).is_ok() || fs::read_dir(&path).is_ok(),
        "w" => File::options().append(true).open(&path).is_ok(),
        "x" => return Err("-x: WASI does not tell who may execute a file".to_owned()),
        other => return Err(format!("-{other} is no condition")),
    })
}
