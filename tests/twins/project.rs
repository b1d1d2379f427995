//! `project` and its gradients, and the projection to unit rows: CPU = PTX, tuned and reference.

use vq_kernels::cuda::{Arg, DeviceMatMut, DeviceMatRef, DeviceMut, DeviceRef, ops as gpu_ops};
use vq_kernels::{Cpu, Element, ops};

use crate::common::{assert_same_bits, assert_same_bits64, mat, mat_mut, paint};
use crate::normalize::hostile;
use crate::support::{Gpu, refused};
use crate::vm::MmaError;

/// Rows, inputs, outputs: each tile's edges; rows that start aligned or not; many rows, few, and several columns of
/// tiles, which the two processors of the virtual device take in turn.
const SHAPES: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (13, 3, 2),
    (130, 40, 8),
    (70, 33, 5),
    (9, 64, 9),
    (40, 16, 12),
    (37, 100, 32),
    (33, 30, 31),
    (390, 36, 32),
    (400, 9, 17),
    (45, 72, 33),
    (150, 32, 100),
    (3, 7, 70),
    (513, 4, 33),
    (257, 68, 96),
    (5, 0, 6),
    (128, 40, 90),
    (120, 20, 90),
    (128, 96, 40),
];

/// For one processor, whose blocks take all tiles of columns in turn: with one tile of the left operand, and with several.
const IN_TURN: &[(usize, usize, usize)] = &[(400, 40, 70), (390, 20, 100), (400, 70, 40), (390, 100, 20)];

type Shapes = &'static [(usize, usize, usize)];

fn forward<E: Element + bytemuck::Pod>(gpu: &Gpu, shapes: Shapes, of: fn(f32) -> E, reference: &'static str) {
    for &(rows, inputs, outputs) in shapes {
        for hostile_rows in [false, true] {
            let x = if hostile_rows && inputs > 0 { hostile(rows, inputs, 3) } else { paint(rows * inputs, 3) };
            let x: Vec<E> = x.into_iter().map(of).collect();
            let (weight, bias) = (paint(outputs * inputs, 4), paint(outputs, 5));
            let bias = (!hostile_rows).then_some(&bias[..]);
            let (mut y, mut unit, mut norms) = (vec![0.0; rows * outputs], vec![0.0; rows * outputs], vec![0.0; rows]);
            let cpu = Cpu::new();
            ops::project(
                &cpu,
                mat(&x, rows, inputs),
                mat(&weight, outputs, inputs),
                bias,
                mat_mut(&mut y, rows, outputs),
            )
            .expect("shapes");
            ops::normalize(&cpu, mat(&y, rows, outputs), mat_mut(&mut unit, rows, outputs), Some(&mut norms))
                .expect("shapes");
            let context = format!("{} {rows} x {inputs} to {outputs}, hostile: {hostile_rows}", E::NAME);

            let (x, weight) = (gpu.mat(&x, rows, inputs), gpu.mat(&weight, outputs, inputs));
            let bias = bias.map(|bias| gpu.slice(bias));
            let bias = bias.as_ref();
            let mut device_y = gpu.mat_room(rows, outputs);
            gpu_ops::project(gpu, &x, &weight, bias, &mut device_y).expect("shapes");
            assert_same_bits(&gpu.read_mat(&mut device_y), &y, &context);
            let mut device_y = gpu.mat_room(rows, outputs);
            let args = [
                (&x).into(),
                (&weight).into(),
                bias.into(),
                rows.into(),
                inputs.into(),
                outputs.into(),
                (&mut device_y).into(),
            ];
            gpu.run("project", reference, rows * outputs, 64, &args);
            assert_same_bits(&gpu.read_mat(&mut device_y), &y, &format!("reference, {context}"));
            let (mut z, mut device_unit) = (gpu.mat_room(rows, outputs), gpu.mat_room(rows, outputs));
            let mut device_norms = gpu.room(rows);
            gpu_ops::project_normalize(gpu, &x, &weight, bias, &mut z, &mut device_unit, Some(&mut device_norms))
                .expect("shapes");
            assert_same_bits(&gpu.read_mat(&mut z), &y, &format!("z, {context}"));
            assert_same_bits(&gpu.read_mat(&mut device_unit), &unit, &format!("unit, {context}"));
            assert_same_bits(&gpu.read(&device_norms), &norms, &format!("norms, {context}"));
        }
    }
}

/// Usual, zero, tiny, huge and infinite rows next to each other: the weight is the identity, which keeps all but
/// infinities, and those spoil only their own row.
fn unit_rows_of_every_kind(gpu: &Gpu) {
    for outputs in [1, 3, 8, 17, 32] {
        let identity: Vec<f32> =
            (0..outputs * outputs).map(|at| f32::from(u8::from(at % (outputs + 1) == 0))).collect();
        for rows in [11, 44, 400] {
            let x = hostile(rows, outputs, 9);
            let (mut z, mut unit, mut norms) = (vec![0.0; rows * outputs], vec![0.0; rows * outputs], vec![0.0; rows]);
            let (x, weight) = (mat(&x, rows, outputs), mat(&identity, outputs, outputs));
            ops::project(&Cpu::new(), x, weight, None, mat_mut(&mut z, rows, outputs)).expect("shapes");
            let unit_mat = mat_mut(&mut unit, rows, outputs);
            ops::normalize(&Cpu::new(), mat(&z, rows, outputs), unit_mat, Some(&mut norms)).expect("shapes");
            let (x, weight) = (gpu.mat(x.data(), rows, outputs), gpu.mat(&identity, outputs, outputs));
            let (mut device_z, mut device_unit) = (gpu.mat_room(rows, outputs), gpu.mat_room(rows, outputs));
            let mut device_norms = gpu.room(rows);
            let some_norms = Some(&mut device_norms);
            gpu_ops::project_normalize(gpu, &x, &weight, None, &mut device_z, &mut device_unit, some_norms)
                .expect("shapes");
            let context = format!("{rows} x {outputs}");
            assert_same_bits(&gpu.read_mat(&mut device_z), &z, &context);
            assert_same_bits(&gpu.read_mat(&mut device_unit), &unit, &context);
            assert_same_bits(&gpu.read(&device_norms), &norms, &context);
            gpu_ops::project_normalize(gpu, &x, &weight, None, &mut device_z, &mut device_unit, None).expect("shapes");
            assert_same_bits(&gpu.read_mat(&mut device_unit), &unit, &format!("without norms, {context}"));
        }
    }
}

fn backward_input(gpu: &Gpu, shapes: Shapes) {
    for &(rows, inputs, outputs) in shapes {
        let (dy, weight) = (hostile(rows, outputs, 6), paint(outputs * inputs, 4));
        let mut dx = vec![0.0; rows * inputs];
        let (dy, weight) = (mat(&dy, rows, outputs), mat(&weight, outputs, inputs));
        ops::project_backward_input(&Cpu::new(), dy, weight, mat_mut(&mut dx, rows, inputs)).expect("shapes");
        let (dy, weight) = (gpu.mat(dy.data(), rows, outputs), gpu.mat(weight.data(), outputs, inputs));
        let mut device_dx = gpu.mat_room(rows, inputs);
        gpu_ops::project_backward_input(gpu, &dy, &weight, &mut device_dx).expect("shapes");
        let context = format!("{rows} x {inputs} from {outputs}");
        assert_same_bits(&gpu.read_mat(&mut device_dx), &dx, &context);
        let mut device_dx = gpu.mat_room(rows, inputs);
        let args =
            [(&dy).into(), (&weight).into(), rows.into(), outputs.into(), inputs.into(), (&mut device_dx).into()];
        gpu.run("project", "project_backward_input_ref", rows * inputs, 64, &args);
        assert_same_bits(&gpu.read_mat(&mut device_dx), &dx, &format!("reference, {context}"));
    }
}

fn backward_weight(gpu: &Gpu) {
    for (rows, inputs, outputs) in SHAPES.iter().copied().chain([(2100, 5, 3), (1024, 8, 4), (1025, 130, 8)]) {
        for biased in [true, false] {
            let (dy, x) = (paint(rows * outputs, 6), paint(rows * inputs, 7));
            let (start, start_bias) = (vec![0.1; outputs * inputs], vec![0.3; outputs]);
            let (mut dw, mut db) = (start.clone(), start_bias.clone());
            let (dy, x) = (mat(&dy, rows, outputs), mat(&x, rows, inputs));
            let some_db = biased.then_some(&mut db[..]);
            ops::project_backward_weight(&Cpu::new(), dy, x, mat_mut(&mut dw, outputs, inputs), some_db)
                .expect("shapes");
            let (dy, x) = (gpu.mat(dy.data(), rows, outputs), gpu.mat(x.data(), rows, inputs));
            let room = || DeviceMatMut::new(gpu.upload(&start), outputs, inputs).expect("the length");
            let (mut device_dw, mut device_db) = (room(), gpu.upload(&start_bias));
            let needed = gpu_ops::project_backward_weight_workspace_len(rows, inputs, outputs);
            let some_db = biased.then_some(&mut device_db);
            gpu_ops::project_backward_weight(gpu, &dy, &x, &mut device_dw, some_db, &mut gpu.room(needed))
                .expect("shapes");
            let context = format!("{rows} rows, {outputs} x {inputs}, bias: {biased}");
            assert_same_bits64(&gpu.read_mat(&mut device_dw), &dw, &context);
            assert_same_bits64(&gpu.read(&device_db), &db, &context);
            let (mut device_dw, device_db) = (room(), gpu.upload(&start_bias));
            let args = [
                (&dy).into(),
                (&x).into(),
                rows.into(),
                outputs.into(),
                inputs.into(),
                (&mut device_dw).into(),
                if biased { (&device_db).into() } else { Arg::U64(0) },
            ];
            gpu.run("project", "project_backward_weight_ref", outputs * (inputs + 1), 64, &args);
            assert_same_bits64(&gpu.read_mat(&mut device_dw), &dw, &format!("reference, {context}"));
            assert_same_bits64(&gpu.read(&device_db), &db, &format!("reference, {context}"));
        }
    }
}

#[test]
fn same_bits() {
    let gpu = Gpu::default();
    forward::<f32>(&gpu, SHAPES, |x| x, "project_ref_f32");
    forward(&gpu, SHAPES, half::f16::from_f32, "project_ref_f16");
    forward(&gpu, SHAPES, half::bf16::from_f32, "project_ref_bf16");
    unit_rows_of_every_kind(&gpu);
    backward_input(&gpu, SHAPES);
    backward_weight(&gpu);
    gpu.assert_all_ran("project");
}

#[test]
fn tiles_in_turn() {
    let gpu = Gpu::new(MmaError::Worst { seed: 1 }, 1);
    forward::<f32>(&gpu, IN_TURN, |x| x, "project_ref_f32");
    forward(&gpu, IN_TURN, half::bf16::from_f32, "project_ref_bf16");
    backward_input(&gpu, IN_TURN);
}

/// `data`, one element after an aligned address.
fn off<T: bytemuck::Pod>(gpu: &Gpu, data: &[T], rows: usize, cols: usize) -> DeviceMatRef<'static, T> {
    let room = gpu.upload(&[&[T::zeroed()], data].concat());
    // SAFETY: the machine keeps the memory for good, and nobody writes it.
    let data = unsafe { DeviceRef::from_raw(room.address() + size_of::<T>() as u64, data.len()) };
    DeviceMatRef::new(data, rows, cols).expect("the test's own length is right")
}

fn off_room<T: bytemuck::Pod>(gpu: &Gpu, data: &[T], rows: usize, cols: usize) -> DeviceMatMut<'static, T> {
    let view = off(gpu, data, rows, cols);
    // SAFETY: the machine keeps the memory for good, and nobody else has the address.
    let data = unsafe { DeviceMut::from_raw(view.data().address(), view.data().len()) };
    DeviceMatMut::new(data, rows, cols).expect("the test's own length is right")
}

fn unaligned_forward<E: Element + bytemuck::Pod>(gpu: &Gpu, of: fn(f32) -> E) {
    let (rows, inputs, outputs) = (140, 40, 36);
    let (x, weight) = (paint(rows * inputs, 1), paint(outputs * inputs, 2));
    let x: Vec<E> = x.into_iter().map(of).collect();
    let mut y = vec![0.0; rows * outputs];
    let (x, weight) = (mat(&x, rows, inputs), mat(&weight, outputs, inputs));
    ops::project(&Cpu::new(), x, weight, None, mat_mut(&mut y, rows, outputs)).expect("shapes");
    let (x, weight) = (off(gpu, x.data(), rows, inputs), off(gpu, weight.data(), outputs, inputs));
    let mut device_y = off_room(gpu, &vec![0.0; rows * outputs], rows, outputs);
    gpu_ops::project(gpu, &x, &weight, None, &mut device_y).expect("shapes");
    assert_same_bits(&gpu.read_mat(&mut device_y), &y, E::NAME);
}

#[test]
fn addresses_need_no_alignment() {
    let gpu = Gpu::default();
    unaligned_forward::<f32>(&gpu, |x| x);
    unaligned_forward(&gpu, half::f16::from_f32);
    let (rows, inputs, outputs) = (140, 40, 36);
    let (dy, weight, x) = (paint(rows * outputs, 1), paint(outputs * inputs, 2), paint(rows * inputs, 3));
    let (mut dx, mut dw) = (vec![0.0; rows * inputs], vec![0.0; outputs * inputs]);
    let (dy, weight, x) = (mat(&dy, rows, outputs), mat(&weight, outputs, inputs), mat(&x, rows, inputs));
    ops::project_backward_input(&Cpu::new(), dy, weight, mat_mut(&mut dx, rows, inputs)).expect("shapes");
    ops::project_backward_weight(&Cpu::new(), dy, x, mat_mut(&mut dw, outputs, inputs), None).expect("shapes");
    let (dy, weight) = (off(&gpu, dy.data(), rows, outputs), off(&gpu, weight.data(), outputs, inputs));
    let x = off(&gpu, x.data(), rows, inputs);
    let mut device_dx = off_room(&gpu, &vec![0.0; rows * inputs], rows, inputs);
    gpu_ops::project_backward_input(&gpu, &dy, &weight, &mut device_dx).expect("shapes");
    assert_same_bits(&gpu.read_mat(&mut device_dx), &dx, "dx");
    let mut device_dw = off_room(&gpu, &vec![0.0; outputs * inputs], outputs, inputs);
    let needed = gpu_ops::project_backward_weight_workspace_len(rows, inputs, outputs);
    let mut workspace = off_room(&gpu, &vec![0.0; needed], 1, needed);
    gpu_ops::project_backward_weight(&gpu, &dy, &x, &mut device_dw, None, &mut workspace.data()).expect("shapes");
    assert_same_bits64(&gpu.read_mat(&mut device_dw), &dw, "dw");
}

#[test]
fn bad_shapes_are_refused_and_no_rows_are_no_work() {
    let gpu = Gpu::default();
    let (x, weight) = (gpu.mat(&[1.0f32; 12], 4, 3), gpu.mat(&[1.0f32; 6], 2, 3));
    let (wide, bias) = (gpu.mat(&[1.0f32; 8], 2, 4), gpu.slice(&[1.0f32; 3]));
    let mut y = gpu.mat_room(4, 2);
    refused(gpu_ops::project(&gpu, &x, &wide, None, &mut y));
    refused(gpu_ops::project(&gpu, &x, &weight, Some(&bias), &mut y));
    refused(gpu_ops::project(&gpu, &x, &weight, None, &mut gpu.mat_room(4, 3)));
    refused(gpu_ops::project(&gpu, &x, &weight, None, &mut gpu.mat_room(3, 2)));
    refused(gpu_ops::project_normalize(&gpu, &x, &weight, None, &mut y, &mut gpu.mat_room(4, 3), None));
    refused(gpu_ops::project_normalize(
        &gpu,
        &x,
        &weight,
        None,
        &mut y,
        &mut gpu.mat_room(4, 2),
        Some(&mut gpu.room(3)),
    ));
    let dy = gpu.mat(&[1.0f32; 8], 4, 2);
    refused(gpu_ops::project_backward_input(&gpu, &x, &weight, &mut gpu.mat_room(4, 3)));
    refused(gpu_ops::project_backward_input(&gpu, &dy, &weight, &mut gpu.mat_room(4, 2)));
    refused(gpu_ops::project_backward_input(&gpu, &dy, &weight, &mut gpu.mat_room(3, 3)));
    let needed = gpu_ops::project_backward_weight_workspace_len(4, 3, 2);
    let mut room = gpu.room(needed);
    refused(gpu_ops::project_backward_weight(&gpu, &dy, &x, &mut gpu.mat_room(3, 2), None, &mut room));
    refused(gpu_ops::project_backward_weight(&gpu, &wide, &x, &mut gpu.mat_room(4, 3), None, &mut room));
    refused(gpu_ops::project_backward_weight(&gpu, &dy, &x, &mut gpu.mat_room(2, 3), None, &mut gpu.room(needed - 1)));
    refused(gpu_ops::project_backward_weight(
        &gpu,
        &dy,
        &x,
        &mut gpu.mat_room(2, 3),
        Some(&mut gpu.room(3)),
        &mut room,
    ));
    let (none, no_dy) = (gpu.mat::<f32>(&[], 0, 3), gpu.mat::<f32>(&[], 0, 2));
    gpu_ops::project(&gpu, &none, &weight, None, &mut gpu.mat_room(0, 2)).expect("no rows");
    let (mut z, mut unit) = (gpu.mat_room(0, 2), gpu.mat_room(0, 2));
    gpu_ops::project_normalize(&gpu, &none, &weight, None, &mut z, &mut unit, None).expect("no rows");
    gpu_ops::project_backward_input(&gpu, &no_dy, &weight, &mut gpu.mat_room(0, 3)).expect("no rows");
    let mut dw = gpu.mat_room(2, 3);
    gpu_ops::project_backward_weight(&gpu, &no_dy, &none, &mut dw, None, &mut gpu.room(0)).expect("no rows");
}
