//! Several devices in one machine: their memory is apart.

use super::{Arg, HEAD, machine, parse, u32s, upload};
use crate::vm::FaultKind;

#[test]
fn kernels_reach_their_own_devices_memory() {
    let copy = "ld.global.u32 %r1, [%d1]; st.global.u32 [%d2], %r1; ";
    let count = "atom.global.add.u32 %r1, [times], 1; st.global.u32 [%d2], %r1;";
    let kernel = |name: &str, body: &str| {
        format!(
            ".visible .entry {name}(.param .u64 a, .param .u64 b) {{ .reg .b32 %r<4>; .reg .b64 %d<4>;
            ld.param.u64 %d1, [a]; ld.param.u64 %d2, [b]; {body} ret; }}\n"
        )
    };
    let variable = ".visible .global .align 4 .u32 times;\n";
    let module = parse(&format!("{HEAD}{variable}{}{}", kernel("copy", copy), kernel("count", count)));
    let machine = machine();
    let buffers = [0, 1].map(|device| {
        machine.select(device);
        [upload(&machine, "a", &7u32.to_le_bytes()), Arg::U64(machine.alloc("b", 4))]
    });
    let run = |device: usize, kernel: &str, args: [Arg; 2]| {
        machine.select(device);
        machine.launch(&module, kernel, [1; 3], [1; 3], 0, &args)
    };
    let [here, there] = buffers;
    for (device, own, strange) in [(0, here, there), (1, there, here)] {
        for args in [[strange[0], own[1]], [own[0], strange[1]]] {
            let fault = run(device, "copy", args).expect_err("another device's");
            assert_eq!(fault.kind, FaultKind::OutOfBounds, "{fault}");
        }
        run(device, "copy", own).expect("its own");
        // A module's variables are the device's as well.
        for times in 0..2 {
            run(device, "count", own).expect("its own");
            let Arg::U64(address) = own[1] else { unreachable!("an address") };
            assert_eq!(u32s(&machine.read(address, 4).expect("written")), [times]);
        }
    }
}
