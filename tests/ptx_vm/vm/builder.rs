//! A kernel while its text is read: names, slots and branches whose label is still to come.

use std::collections::HashMap;

use super::isa::{Constant, Instr, Kernel, Op, Pred, Slot, Space};

#[derive(Clone, Copy, Debug)]
pub enum Reg {
    Pred(Pred),
    Data { slot: Slot, bits: u32 },
}

/// What a pair of braces declares.
#[derive(Default)]
pub struct Scope {
    pub regs: HashMap<String, Reg>,
    pub vars: HashMap<String, usize>,
    pub labels: HashMap<String, u32>,
    /// Branches whose label this scope has not shown yet.
    pub open: Vec<(usize, String)>,
}

/// A kernel being read; the decoder emits into it.
pub struct Builder {
    pub kernel: Kernel,
    pub scopes: Vec<Scope>,
    constants: HashMap<Constant, Slot>,
    /// Of the module's variables.
    pub spaces: Vec<Space>,
}

impl Builder {
    pub fn new(kernel: Kernel, module: Scope, spaces: Vec<Space>) -> Self {
        Builder { kernel, scopes: vec![module], constants: HashMap::new(), spaces }
    }

    pub fn reg(&self, name: &str) -> Option<Reg> {
        self.scopes.iter().rev().find_map(|s| s.regs.get(name)).copied()
    }

    pub fn slot(&mut self) -> Slot {
        self.kernel.slots += 1;
        (self.kernel.slots - 1) as Slot
    }

    pub fn constant(&mut self, constant: Constant) -> Slot {
        if let Some(slot) = self.constants.get(&constant) {
            return *slot;
        }
        let slot = self.slot();
        self.constants.insert(constant, slot);
        self.kernel.constants.push((slot, constant));
        slot
    }

    /// The variable's space and address.
    pub fn symbol(&mut self, name: &str, add: i64) -> Option<(Space, Constant)> {
        if let Some(param) = self.kernel.params.iter().find(|p| p.name == name) {
            return Some((Space::Param, Constant::Bits(i64::from(param.offset).wrapping_add(add) as u64)));
        }
        let var = *self.scopes.iter().rev().find_map(|s| s.vars.get(name))?;
        let space = self.spaces[var];
        let constant = match space {
            Space::Shared => {
                if !self.kernel.shared.contains(&var) {
                    self.kernel.shared.push(var);
                }
                Constant::Shared(var, add)
            }
            Space::Local => Constant::Local(var, add),
            _ => Constant::Global(var, add),
        };
        Some((space, constant))
    }

    pub fn emit(&mut self, instr: Instr) {
        self.kernel.code.push(instr);
    }

    /// Emits a branch whose target is filled in when the label is known.
    pub fn branch(&mut self, mut instr: Instr, label: &str) {
        instr.op = Op::Bra(u32::MAX);
        let at = self.kernel.code.len();
        self.kernel.code.push(instr);
        if let Some(scope) = self.scopes.last_mut() {
            scope.open.push((at, label.to_string()));
        }
    }

    pub fn close(&mut self) -> Result<(), String> {
        let Some(scope) = self.scopes.pop() else { return Err("unbalanced braces".into()) };
        for (at, label) in scope.open {
            if let Some(target) = scope.labels.get(&label) {
                self.kernel.code[at].op = Op::Bra(*target);
            } else if let Some(outer) = self.scopes.last_mut() {
                outer.open.push((at, label));
            } else {
                return Err(format!("line {}: no label {label}", self.kernel.code[at].line));
            }
        }
        Ok(())
    }
}
