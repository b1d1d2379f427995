//! Directives, scopes and statements of a PTX module.

use super::builder::{Builder, Reg, Scope};
use super::decode;
use super::isa::{Instr, Kernel, Op, Param, Pred, Space, Ty, Variable};
use super::lex::{self, Tok, Token};

/// Kernels and variables of a module, and its text line by line.
#[derive(Debug, Default)]
pub struct Parsed {
    pub kernels: Vec<Kernel>,
    pub variables: Vec<Variable>,
    pub lines: Vec<String>,
}

struct Parser {
    toks: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Tok> {
        self.toks.get(self.at).map(|t| &t.tok)
    }

    fn line(&self) -> u32 {
        self.toks.get(self.at.min(self.toks.len().saturating_sub(1))).map_or(0, |t| t.line)
    }

    fn error<T>(&self, what: impl core::fmt::Display) -> Result<T, String> {
        Err(format!("line {}: {what}", self.line()))
    }

    fn next(&mut self) -> Result<Tok, String> {
        let tok = self.peek().cloned();
        self.at += 1;
        tok.ok_or_else(|| "the text ends early".to_string())
    }

    fn is(&mut self, c: char) -> bool {
        let yes = self.peek() == Some(&Tok::Punct(c));
        self.at += usize::from(yes);
        yes
    }

    fn expect(&mut self, c: char) -> Result<(), String> {
        if self.is(c) { Ok(()) } else { self.error(format!("expected {c:?}, found {:?}", self.peek())) }
    }

    fn word(&mut self) -> Result<String, String> {
        match self.next()? {
            Tok::Word(word) => Ok(word),
            other => {
                self.at -= 1;
                self.error(format!("expected a name, found {other:?}"))
            }
        }
    }

    fn int(&mut self) -> Result<u64, String> {
        match self.next()? {
            Tok::Int(value) => Ok(value),
            other => {
                self.at -= 1;
                self.error(format!("expected an integer, found {other:?}"))
            }
        }
    }

    /// For directives that end with their line.
    fn skip_line(&mut self) {
        let line = self.line();
        while self.at < self.toks.len() && self.toks[self.at].line == line {
            self.at += 1;
        }
    }

    fn skip_braces(&mut self) -> Result<(), String> {
        while !self.is('{') {
            self.next()?;
        }
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                Tok::Punct('{') => depth += 1,
                Tok::Punct('}') => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// `[.align n] .type name[[len]] [= init]`, after the state space, up to and with the semicolon.
    fn variables(&mut self, space: Space, external: bool, out: &mut Vec<Variable>) -> Result<(), String> {
        let mut align = 0;
        let mut vector = 1;
        let ty = loop {
            let word = self.word()?;
            match word.as_str() {
                ".align" => align = self.int()?,
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                _ => match word.strip_prefix('.').and_then(Ty::parse) {
                    Some(Ty::Pred) | None => return self.error(format!("type {word} of a variable")),
                    Some(ty) => break ty,
                },
            }
        };
        let element = u64::from(ty.bytes());
        loop {
            let name = self.word()?;
            let (mut count, mut open) = (Some(vector), false);
            while self.is('[') {
                if self.is(']') {
                    open = true;
                } else {
                    let n = self.int()?;
                    self.expect(']')?;
                    count = count.and_then(|c: u64| c.checked_mul(n));
                }
            }
            let mut init = Vec::new();
            if self.is('=') {
                self.initialiser(ty, &mut init)?;
            }
            let size = match (open, count.and_then(|c| c.checked_mul(element))) {
                (true, _) if !init.is_empty() => init.len() as u64,
                (true, _) => 0,
                (false, Some(size)) if size < 1 << 32 => size,
                _ => return self.error("size of a variable"),
            };
            if init.len() as u64 > size {
                return self.error(format!("too many values for {name}"));
            }
            if !matches!(space, Space::Shared | Space::Local) {
                // Module variables without values are zero.
                init.resize(size as usize, 0);
            }
            let dynamic = space == Space::Shared && external && open;
            if external && !dynamic {
                return self.error(format!("external {name}"));
            }
            let align = if align == 0 { element * vector } else { align };
            if !align.is_power_of_two() || align > 4096 {
                return self.error(format!("alignment {align}"));
            }
            out.push(Variable { name, space, align, size, dynamic, init });
            if !self.is(',') {
                break;
            }
        }
        self.expect(';')
    }

    fn initialiser(&mut self, ty: Ty, out: &mut Vec<u8>) -> Result<(), String> {
        if self.is('{') {
            while !self.is('}') {
                self.initialiser(ty, out)?;
                if !self.is(',') {
                    self.expect('}')?;
                    break;
                }
            }
            return Ok(());
        }
        let negative = self.is('-');
        let bits = match (self.next()?, ty) {
            (Tok::Int(value), ty) if !ty.float() => {
                if negative {
                    value.wrapping_neg()
                } else {
                    value
                }
            }
            (Tok::F32(bits), Ty::F32) if !negative => u64::from(bits),
            (Tok::F64(bits), Ty::F64) if !negative => bits,
            (Tok::F64(bits), Ty::F32) if !negative => u64::from((f64::from_bits(bits) as f32).to_bits()),
            (other, _) => {
                self.at -= 1;
                return self.error(format!("initial value {other:?}"));
            }
        };
        out.extend_from_slice(&bits.to_le_bytes()[..ty.bytes() as usize]);
        Ok(())
    }

    fn params(&mut self, kernel: &mut Kernel) -> Result<(), String> {
        if !self.is('(') {
            return Ok(());
        }
        while !self.is(')') {
            if self.word()? != ".param" {
                return self.error("expected .param");
            }
            let mut align = 0;
            let ty = loop {
                let word = self.word()?;
                match word.as_str() {
                    ".align" => align = self.int()? as u32,
                    // What a pointer points to: a hint.
                    ".ptr" => {}
                    ".global" | ".const" | ".local" | ".shared" => {}
                    _ => match word.strip_prefix('.').and_then(Ty::parse) {
                        Some(Ty::Pred) | None => return self.error(format!("type {word} of a parameter")),
                        Some(ty) => break ty,
                    },
                }
            };
            // `.ptr .align n` comes behind the type.
            while let Some(Tok::Word(word)) = self.peek() {
                match word.as_str() {
                    ".ptr" | ".global" | ".const" | ".local" | ".shared" => self.at += 1,
                    ".align" => {
                        self.at += 1;
                        self.int()?;
                    }
                    _ => break,
                }
            }
            let name = self.word()?;
            let mut size = ty.bytes();
            if self.is('[') {
                let n = self.int()?;
                self.expect(']')?;
                size = match u32::try_from(n).ok().and_then(|n| n.checked_mul(size)) {
                    Some(size) if size <= 1 << 16 => size,
                    _ => return self.error("size of a parameter"),
                };
            }
            let align = if align == 0 { ty.bytes() } else { align };
            if !align.is_power_of_two() || align > 256 {
                return self.error("alignment of a parameter");
            }
            let offset = kernel.param_bytes.next_multiple_of(align);
            kernel.param_bytes = offset + size;
            kernel.params.push(Param { name, offset, size });
            if !self.is(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(())
    }

    fn registers(&mut self, builder: &mut Builder) -> Result<(), String> {
        let word = self.word()?;
        let Some(ty) = word.strip_prefix('.').and_then(Ty::parse) else {
            return self.error(format!("registers of type {word}"));
        };
        loop {
            let name = self.word()?;
            let names = if self.is('<') {
                let count = self.int()?;
                self.expect('>')?;
                if count > 1 << 20 {
                    return self.error("too many registers");
                }
                (0..count).map(|i| format!("{name}{i}")).collect()
            } else {
                vec![name]
            };
            for name in names {
                let reg = if ty == Ty::Pred {
                    builder.kernel.preds += 1;
                    Reg::Pred((builder.kernel.preds - 1) as Pred)
                } else {
                    Reg::Data { slot: builder.slot(), bits: ty.bits() }
                };
                if let Some(scope) = builder.scopes.last_mut() {
                    scope.regs.insert(name, reg);
                }
            }
            if !self.is(',') {
                break;
            }
        }
        self.expect(';')
    }

    fn declare(
        &mut self,
        space: Space,
        external: bool,
        parsed: &mut Parsed,
        builder: &mut Builder,
    ) -> Result<(), String> {
        let first = parsed.variables.len();
        self.variables(space, external, &mut parsed.variables)?;
        for index in first..parsed.variables.len() {
            let var = &parsed.variables[index];
            builder.spaces.push(space);
            builder.kernel.local.push(0);
            if space == Space::Local {
                // An odd multiple of the alignment, so that code that hopes for more is found out.
                let at = super::memory::odd_align(builder.kernel.local_bytes, var.align);
                builder.kernel.local[index] = at;
                builder.kernel.local_vars.push(index);
                builder.kernel.local_bytes = at + var.size;
                if builder.kernel.local_bytes > 512 << 10 {
                    return self.error("more than 512 KiB of local memory");
                }
            }
            if let Some(scope) = builder.scopes.last_mut() {
                scope.vars.insert(var.name.clone(), index);
            }
        }
        Ok(())
    }

    fn body(&mut self, parsed: &mut Parsed, builder: &mut Builder) -> Result<(), String> {
        self.expect('{')?;
        builder.scopes.push(Scope::default());
        let mut depth = 1;
        while depth > 0 {
            if self.is('{') {
                depth += 1;
                builder.scopes.push(Scope::default());
                continue;
            }
            if self.is('}') {
                depth -= 1;
                if depth == 0 {
                    // Falling off the end returns.
                    builder.emit(Instr { guard: None, line: self.line(), op: Op::Exit });
                }
                builder.close()?;
                continue;
            }
            if self.is(';') {
                continue;
            }
            if let (Some(Tok::Word(word)), Some(Token { tok: Tok::Punct(':'), .. })) =
                (self.peek().cloned(), self.toks.get(self.at + 1))
            {
                self.at += 2;
                let at = builder.kernel.code.len() as u32;
                if let Some(scope) = builder.scopes.last_mut()
                    && scope.labels.insert(word.clone(), at).is_some()
                {
                    return self.error(format!("label {word} twice"));
                }
                continue;
            }
            match self.peek() {
                Some(Tok::Word(word)) if word.starts_with('.') => {
                    let word = word.clone();
                    match word.as_str() {
                        ".loc" | ".file" => {
                            self.skip_line();
                            continue;
                        }
                        _ => self.at += 1,
                    }
                    match word.as_str() {
                        ".reg" => self.registers(builder)?,
                        ".pragma" => {
                            self.next()?;
                            self.expect(';')?;
                        }
                        ".local" => self.declare(Space::Local, false, parsed, builder)?,
                        ".shared" => self.declare(Space::Shared, false, parsed, builder)?,
                        ".const" => self.declare(Space::Const, false, parsed, builder)?,
                        ".global" => self.declare(Space::Global, false, parsed, builder)?,
                        _ => return self.error(format!("directive {word} in a kernel")),
                    }
                }
                Some(_) => {
                    let start = self.at;
                    let line = self.line();
                    while !matches!(self.peek(), None | Some(Tok::Punct(';'))) {
                        self.at += 1;
                    }
                    let end = self.at;
                    self.expect(';')?;
                    decode::statement(builder, &self.toks[start..end], line)
                        .map_err(|e| format!("line {line}: {e}"))?;
                }
                None => return self.error("the kernel's end is missing"),
            }
        }
        Ok(())
    }

    fn entry(&mut self, parsed: &mut Parsed) -> Result<(), String> {
        let outer = parsed.variables.len();
        let mut kernel = Kernel {
            name: self.word()?,
            params: Vec::new(),
            param_bytes: 0,
            max_threads: None,
            required_threads: false,
            code: Vec::new(),
            slots: 0,
            preds: 0,
            constants: Vec::new(),
            shared: Vec::new(),
            local: vec![0; parsed.variables.len()],
            local_vars: Vec::new(),
            local_bytes: 0,
        };
        self.params(&mut kernel)?;
        while !matches!(self.peek(), Some(Tok::Punct('{')) | None) {
            let word = self.word()?;
            match word.as_str() {
                ".maxntid" | ".reqntid" => {
                    let mut threads = self.int()?;
                    while self.is(',') {
                        threads = threads.saturating_mul(self.int()?);
                    }
                    kernel.max_threads = Some(threads.min(u64::from(u32::MAX)) as u32);
                    kernel.required_threads = word == ".reqntid";
                }
                ".minnctapersm" | ".maxnreg" | ".maxnctapersm" => {
                    self.int()?;
                }
                ".pragma" => {
                    self.next()?;
                    self.expect(';')?;
                }
                _ => return self.error(format!("directive {word} of a kernel")),
            }
        }
        let vars = parsed.variables.iter().enumerate().map(|(i, v)| (v.name.clone(), i)).collect();
        let spaces = parsed.variables.iter().map(|v| v.space).collect();
        let module = Scope { vars, ..Scope::default() };
        let mut builder = Builder::new(kernel, module, spaces);
        self.body(parsed, &mut builder)?;
        builder.close()?;
        builder.kernel.shared.sort_unstable();
        // The variables of this kernel are out of sight for the next.
        for var in &mut parsed.variables[outer..] {
            var.name.clear();
        }
        parsed.kernels.push(builder.kernel);
        Ok(())
    }
}

pub fn module(text: &str) -> Result<Parsed, String> {
    let mut parser = Parser { toks: lex::tokens(text)?, at: 0 };
    let mut parsed = Parsed { lines: text.lines().map(|l| l.trim().to_string()).collect(), ..Parsed::default() };
    let mut external = false;
    while parser.peek().is_some() {
        let line_start = parser.at;
        let word = parser.word()?;
        match word.as_str() {
            ".version" | ".target" | ".file" | ".loc" => {
                parser.at = line_start;
                parser.skip_line();
            }
            ".address_size" => {
                if parser.int()? != 64 {
                    return parser.error("addresses of other than 64 bits");
                }
            }
            ".visible" | ".weak" | ".common" => {}
            ".extern" => external = true,
            ".pragma" => {
                parser.next()?;
                parser.expect(';')?;
            }
            ".section" => parser.skip_braces()?,
            ".global" | ".const" | ".shared" => {
                let space = match word.as_str() {
                    ".global" => Space::Global,
                    ".const" => Space::Const,
                    _ => Space::Shared,
                };
                parser.variables(space, external, &mut parsed.variables)?;
                external = false;
            }
            ".entry" => parser.entry(&mut parsed)?,
            _ => {
                parser.at = line_start;
                return parser.error(format!("directive {word}"));
            }
        }
    }
    Ok(parsed)
}
