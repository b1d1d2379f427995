//! Tokens of PTX text.

#[derive(Clone, PartialEq, Debug)]
pub enum Tok {
    /// Identifier, directive, register or opcode with its dotted suffixes.
    Word(String),
    Int(u64),
    /// `0f3f800000`: the bits of an f32.
    F32(u32),
    /// `0d3ff0000000000000` or a decimal number: the bits of an f64.
    F64(u64),
    Text,
    Punct(char),
}

#[derive(Clone, Debug)]
pub struct Token {
    pub tok: Tok,
    pub line: u32,
}

fn word_char(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

fn number(text: &str) -> Option<Tok> {
    let lower = text.to_ascii_lowercase();
    let bits = |digits: &str, len: usize| (digits.len() == len).then(|| u64::from_str_radix(digits, 16).ok()).flatten();
    if let Some(digits) = lower.strip_prefix("0f") {
        return Some(Tok::F32(bits(digits, 8)? as u32));
    }
    if let Some(digits) = lower.strip_prefix("0d") {
        return Some(Tok::F64(bits(digits, 16)?));
    }
    let int = lower.strip_suffix('u').unwrap_or(&lower);
    let (digits, radix) = match int.as_bytes() {
        [b'0', b'x', ..] => (&int[2..], 16),
        [b'0', b'b', ..] => (&int[2..], 2),
        [b'0', _, ..] if int.bytes().all(|c| c.is_ascii_digit()) => (&int[1..], 8),
        _ => (int, 10),
    };
    match u64::from_str_radix(digits, radix) {
        Ok(value) => Some(Tok::Int(value)),
        Err(_) if radix == 10 => Some(Tok::F64(lower.parse::<f64>().ok()?.to_bits())),
        Err(_) => None,
    }
}

/// All tokens of `text`, comments left out.
pub fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let bytes = text.as_bytes();
    let (mut out, mut at, mut line) = (Vec::new(), 0, 1u32);
    while at < bytes.len() {
        let c = bytes[at];
        let rest = &bytes[at..];
        if c == b'\n' {
            line += 1;
            at += 1;
        } else if c.is_ascii_whitespace() || c == 0 {
            at += 1;
        } else if rest.starts_with(b"//") {
            at += rest.iter().position(|&c| c == b'\n').unwrap_or(rest.len());
        } else if rest.starts_with(b"/*") {
            let len = rest.windows(2).position(|w| w == b"*/").ok_or_else(|| format!("line {line}: open comment"))?;
            line += rest[..len].iter().filter(|&&c| c == b'\n').count() as u32;
            at += len + 2;
        } else if c == b'"' {
            let len = rest[1..].iter().position(|&c| c == b'"').ok_or_else(|| format!("line {line}: open string"))?;
            out.push(Token { tok: Tok::Text, line });
            line += rest[1..=len].iter().filter(|&&c| c == b'\n').count() as u32;
            at += len + 2;
        } else if word_char(c) {
            let mut len = 0;
            while len < rest.len() {
                if word_char(rest[len]) {
                    len += 1;
                } else if rest[len..].starts_with(b"::") {
                    // `.L2::128B` is one suffix.
                    len += 2;
                } else {
                    break;
                }
            }
            let word = &text[at..at + len];
            let tok = if c.is_ascii_digit() {
                number(word).ok_or_else(|| format!("line {line}: number {word}"))?
            } else {
                Tok::Word(word.to_string())
            };
            out.push(Token { tok, line });
            at += len;
        } else if b",;:{}[]()<>|!@+-=*".contains(&c) {
            out.push(Token { tok: Tok::Punct(c as char), line });
            at += 1;
        } else {
            return Err(format!("line {line}: character {:?}", text[at..].chars().next().unwrap_or('?')));
        }
    }
    Ok(out)
}
