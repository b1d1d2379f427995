//! What the committed PTX may not say.

use vq_kernels::cuda::IMAGES;

/// Opcodes of floating-point arithmetic, which must say how they round.
const ROUNDED: [&str; 8] = ["add", "sub", "mul", "fma", "mad", "div", "sqrt", "rcp"];
const ROUNDINGS: [&str; 4] = ["rn", "rz", "rm", "rp"];

/// Why the instruction is refused, if it is.
fn refused(instruction: &str) -> Option<&'static str> {
    let opcode = instruction.split_whitespace().find(|word| !word.starts_with('@'))?;
    let mut parts = opcode.trim_end_matches(';').split('.');
    let (name, modifiers) = (parts.next()?, parts.collect::<Vec<_>>());
    let float = modifiers.iter().any(|part| ["f32", "f64", "f16", "f16x2", "bf16"].contains(part));
    match () {
        () if modifiers.contains(&"ftz") => Some("subnormal numbers are flushed"),
        () if modifiers.contains(&"approx") => Some("not correctly rounded"),
        () if modifiers.contains(&"full") => Some("not correctly rounded"),
        () if name == "call" => Some("a call, which the machine does not know"),
        () if float && ROUNDED.contains(&name) && !modifiers.iter().any(|part| ROUNDINGS.contains(part)) => {
            Some("may be contracted with the next instruction")
        }
        () => None,
    }
}

#[test]
fn arithmetic_is_ieee() {
    for image in IMAGES {
        assert!(image.ptx.contains("\n.version 8.4\n") && image.ptx.contains("\n.target sm_80\n"), "{}", image.name);
        for (number, line) in image.ptx.lines().enumerate() {
            if let Some(reason) = refused(line) {
                panic!("{}, line {}: {reason}: {line}", image.name, number + 1);
            }
        }
    }
}

#[test]
fn the_rule_finds_what_it_should() {
    for line in [
        "	add.ftz.f32 %f1, %f2, %f3;",
        "	@%p1 mul.f32 %f1, %f2, %f3;",
        "	sqrt.approx.f32 %f1, %f2;",
        "	mul.f64 %fd1, %fd2, %fd3;",
        "	call.uni (retval0), f, (p0);",
    ] {
        assert!(refused(line).is_some(), "{line}");
    }
    for line in [
        "	add.rn.f32 %f1, %f2, %f3;",
        "	add.s32 %r1, %r2, %r3;",
        "	atom.global.add.u32 %r1, [%rd1], 1;",
        "",
        "}",
        "$L__BB0_1:",
    ] {
        assert!(refused(line).is_none(), "{line}");
    }
}
